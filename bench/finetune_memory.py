"""Peak memory of LoRA on a frozen base, as foretold and as measured, for random models of Llama's shape.

    python bench/finetune_memory.py --out bench-memory                 # the table, some minutes
    python bench/finetune_memory.py --out bench-memory --sizes 500m    # the one that must stay within 4 GB

Each measurement is the stage `finetune` in a process of its own: the base read, two steps of a full context, the
adapter and the merged model written. Peaks are resident sizes (`VmHWM`), of training alone and of the whole stage.
"""

import argparse
import json
import multiprocessing
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from chatwright.foundation.config import validate
from chatwright.foundation.stage import StageContext
from chatwright.model.config import ModelConfig
from chatwright.model.directory import save_model
from chatwright.model.network import Network
from chatwright.model.quantised import Numbers
from chatwright.tokens.tokenizer import TokenizerConfig, train_tokenizer
from chatwright.train.loop import Trainer
from chatwright.tune import finetune
from chatwright.tune.finetune_settings import FinetuneConfig
from chatwright.tune.memory import foretold

CONTEXT, STEPS = 512, 2
VOCABULARY = 32_000


class Shape(NamedTuple):
    """Width, layers, heads, key heads and MLP width of a random model."""

    width: int
    layers: int
    heads: int
    key_heads: int
    mlp_width: int

    def config(self) -> ModelConfig:
        """As a model of Llama's family, with a vocabulary of its own size whatever the tokenizer's."""
        return ModelConfig(
            family="llama",
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            key_heads=self.key_heads,
            head_width=self.width // self.heads,
            mlp_width=self.mlp_width,
            context_length=CONTEXT,
            vocabulary_size=VOCABULARY,
            tied=False,
        )


SIZES = {
    "50m": Shape(384, 10, 6, 6, 1_280),
    "150m": Shape(768, 14, 12, 4, 2_304),
    "500m": Shape(1_280, 24, 20, 4, 3_840),
}


def make_model(place: Path, shape: Shape) -> None:
    """A random model on disk, in bfloat16, and conversations that fill its context."""
    text = "The ferry leaves at nine in the morning and comes back at six. Tickets are sold on board. "
    tokenizer = train_tokenizer([text], TokenizerConfig(vocabulary_size=300))
    network = Network.without_values(shape.config(), "cpu")
    network.initialise(torch.Generator().manual_seed(1))
    save_model(place / "base", network, tokenizer, lineage={}, dtype="bfloat16")
    words = len(tokenizer.encode(text))
    line = {"question": "Tell me all of it.", "answer": text * ((CONTEXT - 60) // words)}
    (place / "data.jsonl").write_text("\n".join([json.dumps(line)] * STEPS) + "\n", encoding="utf-8")


def _high_water(*, begin: bool = False) -> int:
    """The largest resident size since the last beginning; bytes."""
    if begin:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024


def measure(place: Path, numbers: str) -> dict[str, Any]:
    """One fine-tune in this process: seconds, and the peaks of the training and of the whole."""
    _high_water(begin=True)
    peaks: dict[str, int] = {}
    plain_run = Trainer.run

    def watched(self: Trainer, *given: Any, **named: Any) -> Any:
        done = plain_run(self, *given, **named)
        peaks["training"] = _high_water()
        return done

    Trainer.run = watched  # type: ignore[method-assign]
    settings = {
        "data": str(place / "data.jsonl"),
        "lora": {"rank": 16},
        "base_numbers": numbers,
        "epochs": 1,
        "batch_rows": 1,
        "micro_tokens": CONTEXT,
        "device": "cpu",
        "precision": "float32",
        "evaluate_every": 1_000,
    }
    output = place / numbers
    output.mkdir(exist_ok=True)
    context = StageContext(
        config=validate(FinetuneConfig, settings, where="bench"), inputs={"base": place / "base"}, output=output, seed=1
    )
    report = finetune.run(context)
    shutil.rmtree(output)  # gigabytes of merged weights
    return {
        "steps": report["steps"],
        "trained": report["trained"],
        "seconds": report["seconds"],
        "whole": _high_water(),
        **peaks,
    }


def rows_for(place: Path, name: str, kinds: Sequence[Numbers]) -> None:
    """Print the table's rows of one size."""
    shape = SIZES[name]
    config = shape.config()
    folder = place / name
    fresh = multiprocessing.get_context("spawn")
    if not (folder / "base" / "chatwright.json").is_file():
        with fresh.Pool(1) as pool:
            pool.apply(make_model, (folder, shape))
    for numbers in kinds:
        with fresh.Pool(1) as pool:
            found = pool.apply(measure, (folder, numbers))
        told = foretold(config, numbers=numbers, trained=found["trained"], is_beside=True, tokens=CONTEXT)
        values = [told.total, found["training"], found["whole"]]
        shown = " | ".join(f"{value / 2**30:.2f}" for value in values)
        size = f"{config.num_parameters() / 1e6:.0f}M"
        print(f"| {size} | {numbers} | {shown} | {found['training'] / told.total:.2f} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--numbers", nargs="+", choices=["float32", "int8", "nf4"], default=["float32", "int8", "nf4"])
    chosen = parser.parse_args()
    print("| parameters | base in | foretold, GiB | training, GiB | whole stage, GiB | measured / foretold |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in chosen.sizes:
        (chosen.out / name).mkdir(parents=True, exist_ok=True)
        rows_for(chosen.out, name, chosen.numbers)


if __name__ == "__main__":
    main()
