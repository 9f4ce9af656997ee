"""Predicted against what happened: time and loss of a plan's choice, and its rank beside half and double its size.

Plans for a budget on the tokens of a run, with `--fit` by a ladder on them, then pretrains the three proposals by the
stage `pretrain` itself, each in a process of its own. Prints JSON: predicted and measured seconds, memory and held-out
bits per byte, and whether each promise held. `time_ratio` is of all that was predicted, training and measurements, and
the whole stage, its beginning and writing included; `training_ratio` of the training steps alone on both sides. On a
machine with other work seconds mean nothing: `--rates` plans with rates that were measured on it while it was idle
(WIDTH:LAYERS:TOKENS_PER_SECOND, 16 rows of 256 tokens, vocabulary of 4,096), so that losses can still be compared; the
times are then those of the busy machine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from chatwright.cli.plan import seconds_of
from chatwright.foundation.stage import StageContext
from chatwright.foundation.stopping import StopFlag
from chatwright.model.config import ModelConfig
from chatwright.recipe import plan as planning
from chatwright.recipe.plan.choose import measure_every
from chatwright.recipe.plan.cost import step_flops
from chatwright.recipe.plan.shapes import shape_of
from chatwright.train import pretrain


def main() -> None:
    """Plan and train, or train one proposal where `--one` says so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run that has its tokens")
    parser.add_argument("--budget", default="2m", help="for each of the three trainings")
    parser.add_argument("--fit", action="store_true", help="fit the law to a ladder of small trainings first")
    parser.add_argument("--rates", nargs="*", default=[], help="of an idle machine, instead of measuring")
    parser.add_argument("--one", help="a proposal as JSON; used by the benchmark itself")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(train_one(arguments.run, json.loads(arguments.one))))
        return
    machine = planning.measure_machine()
    if arguments.rates:
        machine = machine._replace(rates=tuple(sorted(told_rate(text) for text in arguments.rates)))
    corpus = planning.size_of_run(arguments.run)
    budget = planning.Budget(seconds=seconds_of(arguments.budget))
    law = planning.PUBLISHED
    if arguments.fit:
        train = planning.trainer_on(arguments.run, precision=machine.precision, threads=machine.threads)
        rungs = planning.climb(planning.affordable(machine, corpus, budget), budget.seconds or 0.0, train)
        law = planning.fit(rungs, corpus_tokens=corpus.tokens)
    timer = None if arguments.rates else planning.step_timer(machine)
    result = planning.as_json(planning.choose(machine, corpus, budget, law=law, timer=timer))
    result.pop("recipe")
    if arguments.fit:
        result["ladder"] = [rung.to_json() for rung in rungs]
    proposals = {"chosen": result["chosen"], **result["alternatives"]}
    result["happened"] = {
        name: called(arguments.run, proposal, machine.precision) for name, proposal in proposals.items()
    }
    result["held"] = held(result)
    print(json.dumps(result, indent=2))


def told_rate(text: str) -> planning.StepRate:
    """`128:4:13896` as a measured step."""
    width, layers, per_second = (float(part) for part in text.split(":"))
    tokens = 4096
    shape = shape_of(int(width), int(layers), vocabulary_size=4096, context_length=256)
    flops = step_flops(shape, tokens)
    return planning.StepRate(int(width), int(layers), tokens / per_second, flops * per_second / tokens)


def held(result: dict) -> dict:
    """Each promise beside what it came to."""
    happened, predicted = result["happened"], result["predicted"]
    chosen = happened["chosen"]
    others = {name: one["bits_per_byte"] for name, one in happened.items() if name != "chosen"}
    by_bits = predicted["loss"] is not None and predicted["loss_unit"] == "bits per byte"
    return {
        "time_ratio": round(predicted["seconds"] / chosen["stage_seconds"], 4),
        "training_ratio": round(predicted["training_seconds"] / chosen["training_seconds"], 4),
        "loss_ratio": round(predicted["loss"] / chosen["bits_per_byte"], 4) if by_bits else None,
        "memory_ratio": round(predicted["memory_bytes"]["total"] / chosen["peak_memory_bytes"], 4),
        "beats": {name: chosen["bits_per_byte"] < bits for name, bits in others.items()},
    }


def called(run: Path, proposal: dict, precision: str) -> dict:
    """Train one proposal in a fresh process, whose peak memory is then its own."""
    text = json.dumps(proposal | {"precision": precision})
    command = [sys.executable, __file__, "--run", str(run), "--one", text]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def train_one(run: Path, proposal: dict) -> dict:
    """Pretrain a proposal as its recipe would, and say what it took and gave."""
    shape = ModelConfig.model_validate_json(json.dumps(proposal["model"]))  # as JSON: its lists are our tuples
    every = measure_every(proposal["steps"])
    rates = {"learning_rate": planning.learning_rate_for(shape.width), "muon_learning_rate": 0.02}
    settings = pretrain.PretrainConfig(
        steps=proposal["steps"],
        batch_rows=proposal["batch_rows"],
        micro_rows=proposal["micro_rows"],
        precision=proposal["precision"],
        evaluate_every=every,
        checkpoint_every=every,
        optimizer=rates,
    )
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chatwright-bench-plan-") as scratch:
        context = StageContext(
            config=pretrain.PretrainInputs(model=shape, pretrain=settings),
            inputs={"tokenizer": run / "tokenizer", "tokens": run / "tokens"},
            output=Path(scratch),
            seed=1,
            lineage={},
            workers=1,
            stop=StopFlag(),
        )
        summary = pretrain.run(context)
    return {
        "stage_seconds": round(time.monotonic() - began, 1),
        "training_seconds": summary["seconds"],
        "bits_per_byte": summary["evaluation"]["bits_per_byte"]["all"],
        "peak_memory_bytes": peak_memory(),
        "tokens": summary["target_tokens"],
    }


def peak_memory() -> int:
    """Bytes that this program held at most. `ru_maxrss` survives exec, so it can be the parent's (getrusage(2))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


if __name__ == "__main__":
    main()
