"""Predicted against what happened: time, memory and rank of a plan's choice beside half and double its size.

Plans for a budget on the tokens of a run, then pretrains the three proposals by the stage `pretrain` itself, each in a
process of its own. Prints JSON: predicted and measured seconds and memory, and held-out bits per byte.
"""

import argparse
import json
import resource
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
from chatwright.train import pretrain


def main() -> None:
    """Plan and train, or train one proposal where `--one` says so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run that has its tokens")
    parser.add_argument("--budget", default="2m", help="for each of the three trainings")
    parser.add_argument("--one", help="a proposal as JSON; used by the benchmark itself")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(train_one(arguments.run, json.loads(arguments.one))))
        return
    machine = planning.measure_machine()
    corpus = planning.size_of_run(arguments.run)
    budget = planning.Budget(seconds=seconds_of(arguments.budget))
    plan = planning.choose(machine, corpus, budget, timer=planning.step_timer(machine))
    result = planning.as_json(plan)
    result.pop("recipe")
    proposals = {"chosen": result["chosen"], **result["alternatives"]}
    result["happened"] = {
        name: called(arguments.run, proposal, machine.precision) for name, proposal in proposals.items()
    }
    print(json.dumps(result, indent=2))


def called(run: Path, proposal: dict, precision: str) -> dict:
    """Train one proposal in a fresh process, whose peak memory is then its own."""
    text = json.dumps(proposal | {"precision": precision})
    command = [sys.executable, __file__, "--run", str(run), "--one", text]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def train_one(run: Path, proposal: dict) -> dict:
    """Pretrain a proposal as its recipe would, and say what it took and gave."""
    shape = ModelConfig(**proposal["model"])
    every = max(1, proposal["steps"] // 6)
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
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "tokens": summary["target_tokens"],
    }


if __name__ == "__main__":
    main()
