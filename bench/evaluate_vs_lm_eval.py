"""Evaluation of a megabyte of text against lm-evaluation-harness's own `hf` model: same texts, same numbers, time.

Call: python bench/evaluate_vs_lm_eval.py --model runs/demo/pretrain/model --text FILE   (needs the extra `tasks`)

Both sides score the same documents with `loglikelihood_rolling` in the harness's windows, one after the other in turn,
in one process and on the same threads; loading a model is not counted on either side. The peer runs with batch size 1,
its default, and with the one given. The numbers must agree, or the benchmark fails. Beside the time on the clock stands
the processors' time, which tells the two apart on a busy machine, too (call it with `OMP_WAIT_POLICY=passive` there:
threads that wait for others then sleep, on both sides).
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple


class Taken(NamedTuple):
    """Seconds of one side in one round."""

    clock: float
    work: float  # of all threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a model directory of ours")
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 text; cut into documents of equal length")
    parser.add_argument("--bytes", type=int, default=1_000_000)
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32, help="of the peer, beside its default of 1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TQDM_DISABLE="1")
    requests = [SimpleNamespace(args=(text,)) for text in documents(options)]
    sides = build(options)
    taken: dict[str, list[Taken]] = {name: [] for name in sides}
    values: dict[str, list[float]] = {}
    for number in range(options.rounds):
        for name, model in sides.items():
            began, worked = time.perf_counter(), time.process_time()
            values[name] = [float(value) for value in model.loglikelihood_rolling(requests, disable_tqdm=True)]
            taken[name].append(Taken(time.perf_counter() - began, time.process_time() - worked))
            clock, work = taken[name][-1]
            print(f"round {number + 1}: {name} {clock:.2f} s, {work:.2f} s of processors", flush=True)
    report(taken, values, requests)


def documents(options: argparse.Namespace) -> list[str]:
    text = options.text.read_bytes()[: options.bytes].decode(errors="ignore")
    size = -(-len(text) // options.documents)
    return [text[start : start + size] for start in range(0, len(text), size)]


def build(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from lm_eval.models.huggingface import HFLM

    from chatwright.evaluate.harness import HarnessModel
    from chatwright.model.chat import load

    torch.set_num_threads(options.threads)
    sides: dict[str, Any] = {"chatwright": HarnessModel(load(options.model))}
    for size in dict.fromkeys((1, options.batch_size)):
        sides[f"hf, batch {size}"] = HFLM(pretrained=str(options.model), device="cpu", dtype="float32", batch_size=size)
    return sides


def report(taken: dict[str, list[Taken]], values: dict[str, list[float]], requests: list[Any]) -> None:
    num_bytes = sum(len(request.args[0].encode()) for request in requests)
    ours = values["chatwright"]
    base = median(taken["chatwright"])
    print(f"{'':16}{'clock s':>10}{'work s':>9}{'clock':>9}{'work':>9}{'largest difference':>20}")
    for name, rounds in taken.items():
        gap = max(abs(one - other) / abs(other) for one, other in zip(ours, values[name], strict=True))
        clock, work = median(rounds)
        print(f"{name:16}{clock:10.2f}{work:9.2f}{base.clock / clock:9.3f}{base.work / work:9.3f}{gap:20.2e}")
        if gap > 1e-5:
            raise SystemExit(f"the numbers of {name} differ from ours by {gap:.2e}")
    print("third and fourth column: our time over theirs; medians")
    print(json.dumps({"bytes": num_bytes, "documents": len(requests), "seconds": taken, "nats": -sum(ours)}))


def median(rounds: list[Taken]) -> Taken:
    return Taken(*(statistics.median(column) for column in zip(*rounds, strict=True)))


if __name__ == "__main__":
    main()
