"""What parts of the pretraining recipe are worth alone, at equal tokens: averaged tails, cooldowns, growth, separation.

Call: python bench/recipe_parts.py --run RUN --work FOLDER [--tokens N] [--table]

RUN is any run with `tokens/` and `tokenizer/`. Every setting is the stage `pretrain` with a recipe's keys, on a small
network; a batch that grows takes more steps, so that all see the same number of tokens. Three seeds, which draw weights
and orders; held-out bits per byte of the model that the stage leaves. Results are appended to WORK/recipe_parts.jsonl;
called again, only what is missing is run. The table comes from the file.
"""

import argparse
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from _study import Results, spread, table
from chatwright.foundation.config import validate
from chatwright.foundation.stage import StageContext
from chatwright.train import pretrain
from chatwright.train.growth import BatchConfig, BatchPlan
from chatwright.train.pretrain import PretrainInputs

SHAPE = {
    "width": 64,
    "layers": 2,
    "heads": 2,
    "key_heads": 2,
    "head_width": 32,
    "mlp_width": 160,
    "context_length": 128,
}
ROWS, SEEDS = 16, (1, 2, 3)
PLAIN = "plain: cooldown over 60 %"
_COMMON = {"device": "cpu", "precision": "float32", "threads": 1, "checkpoint_every": 100_000, "log_every": 100}
_ALWAYS = {"use": "always"}

SETTINGS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "the same, average of the last 10 %": {"average": {"share": 0.1, **_ALWAYS}},
    "the same, average of the last 30 %": {"average": {"share": 0.3, **_ALWAYS}},
    "cooldown over 20 %": {"schedule": {"cooldown_share": 0.2}},
    "no cooldown": {"schedule": {"cooldown_share": 0.0}},
    "no cooldown, average of the last 20 %": {
        "schedule": {"cooldown_share": 0.0},
        "average": {"share": 0.2, **_ALWAYS},
    },
    "no cooldown, average of the last 50 %": {
        "schedule": {"cooldown_share": 0.0},
        "average": {"share": 0.5, **_ALWAYS},
    },
    "documents separated": {"separate_documents": True},
    "batches from 2 rows, rate by their root": {"batch_growth": {"start": 2}},
    "batches from 2 rows, rate as it is": {"batch_growth": {"start": 2, "rate_power": 0.0}},
    "windows from 32": {"growth": {"start": 32}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run with tokens/ and tokenizer/")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=300 << 10, help="of each training")
    parser.add_argument("--heldout", type=int, default=40_000, help="tokens of each domain")
    parser.add_argument("--table", action="store_true", help="only print what was found")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.work / "recipe_parts.jsonl")
    if not options.table:
        for seed in SEEDS:
            for name in SETTINGS:
                results.once(f"{name}/{seed}/{options.tokens}", partial(once, options, name, seed))
    print(report(results))


def once(options: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """One run, of which only the figures stay."""
    section = SETTINGS[name]
    steps = steps_for(options.tokens // SHAPE["context_length"], section.get("batch_growth"))
    length = {"steps": steps, "batch_rows": ROWS, "evaluate_every": steps, "heldout_tokens": options.heldout}
    output = options.work / "run"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    context = StageContext(
        config=validate(PretrainInputs, {"model": SHAPE, "pretrain": _COMMON | length | section}, where="study"),
        inputs={"tokens": options.run / "tokens", "tokenizer": options.run / "tokenizer"},
        output=output,
        seed=seed,
    )
    began = time.process_time()
    summary = pretrain.run(context)
    seconds = round(time.process_time() - began, 1)
    bits = summary["evaluation"]["bits_per_byte"]["all"]
    facts = {"setting": name, "seed": seed, "steps": summary["steps"], "tokens": summary["target_tokens"]}
    return {**facts, "cpu_s": seconds, "parameters": summary["parameters"], "bits": bits}


def steps_for(rows: int, growth: dict[str, Any] | None) -> int:
    """Steps that see about so many windows."""
    steps = rows // ROWS
    if growth is not None:
        config = validate(BatchConfig, growth, where="study")
        while BatchPlan(full=ROWS, steps=steps, growth=config).first_row(steps) < rows:
            steps += 1
    return steps


def report(results: Results) -> str:
    """One row for each setting; differences are of runs with the same seed."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for line in results.lines.values():
        found.setdefault(line["setting"], {})[line["seed"]] = line
    rows = []
    for name, mine in found.items():
        bits = spread(line["bits"] for line in mine.values())
        less = spread(line["bits"] - found[PLAIN][seed]["bits"] for seed, line in mine.items() if seed in found[PLAIN])
        one = next(iter(mine.values()))
        seconds = spread((line["cpu_s"] for line in mine.values()), digits=1)
        rows.append([name, str(len(mine)), str(one["steps"]), f"{one['tokens']:,}", seconds, bits, less])
    return table(["setting", "seeds", "steps", "tokens", "CPU s", "bits per byte", "less the plain one's"], rows)


if __name__ == "__main__":
    main()
