"""What Muon and the recipe gain over AdamW, each with its own best learning rate, at an equal number of tokens.

Call: python bench/optimizers.py --text shakespeare.txt --work FOLDER [--tokens N] [--table]

About 0.8 million parameters learn the characters of an ASCII text, its last tenth held out; all sides have the same
network, batch and order of data. Three sides:

- `muon, recipe`: this project's defaults. Muon for matrices, projections into the residual stream at zero,
  warmup-stable-decay down to zero, cautious weight decay.
- `adamw, recipe`: the same with AdamW for everything: what Muon alone is worth.
- `adamw, usual`: AdamW as GPT-2's retellings have it: projections drawn with std 0.02 / sqrt(2 layers), 5 % warm-up,
  a cosine down to a tenth, weight decay 0.1.

Each side's peak rate is swept, and the sweep goes on past its ends while the best stands at one; then its best rate
has two more seeds. Muon's side sweeps Muon's rate alone and leaves the embedding's at its default. Rates are chosen by
seed 1, which flatters every side alike. Results are appended to WORK/optimizers.jsonl; called again, only what is
missing is run. The table comes from the file.
"""

import argparse
import math
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import _nanogpt
from _study import Results, spread, table
from chatwright.foundation.devices import Placement
from chatwright.foundation.streams import seed_for
from chatwright.model.config import ModelConfig
from chatwright.model.network import INITIAL_STD, Network
from chatwright.tokens.order import WindowOrder
from chatwright.train.batches import WindowSource
from chatwright.train.habits import LoopConfig
from chatwright.train.loop import Trainer
from chatwright.train.objectives import next_token
from chatwright.train.optimizers import OptimizerConfig
from chatwright.train.schedule import ScheduleConfig

SHAPE = ModelConfig(width=128, layers=4, heads=4, key_heads=4, head_width=32, mlp_width=320, context_length=64)
ROWS = 32
SEEDS = (1, 2, 3)
MOST_EXTENSIONS = 3  # of a sweep whose best stands at an end


class Cosine(ScheduleConfig):
    """Linear warm-up, then half a cosine down to a tenth (Radford et al. 2018; the tenth is Chinchilla's)."""

    warmup_share: float = 0.05
    final_share: float = 0.1

    def factor(self, step: int, total: int) -> float:
        """Share of the peak for step 0 .. total - 1."""
        warmup = round(self.warmup_share * total)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1, total - warmup)
        return self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * progress)) / 2


class Side(NamedTuple):
    """One way to train; `rates` are the peaks that are tried first."""

    name: str
    rates: tuple[float, ...]
    is_muon: bool = False
    is_usual: bool = False

    def optimizer(self, rate: float) -> OptimizerConfig:
        """Its rule at this peak."""
        if self.is_muon:
            return OptimizerConfig(muon_learning_rate=rate)
        decay = 0.1 if self.is_usual else OptimizerConfig().weight_decay
        return OptimizerConfig(kind="adamw", learning_rate=rate, weight_decay=decay)

    def network(self, vocabulary: int, seed: int) -> Network:
        """Its first weights."""
        network = Network(SHAPE.model_copy(update={"vocabulary_size": vocabulary}))
        generator = torch.Generator().manual_seed(seed_for(seed, "weights"))
        network.initialise(generator)
        if self.is_usual:
            for name, parameter in network.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    nn.init.normal_(parameter, std=INITIAL_STD / math.sqrt(2 * SHAPE.layers), generator=generator)
        return network


SIDES = (
    Side("muon, recipe", (0.01, 0.02, 0.03, 0.045), is_muon=True),
    Side("adamw, recipe", (2e-3, 4e-3, 8e-3, 1.6e-2)),
    Side("adamw, usual", (1e-3, 2e-3, 4e-3, 8e-3), is_usual=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="an ASCII text, such as nanoGPT's Shakespeare")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=512 << 10, help="of each run")
    parser.add_argument("--table", action="store_true", help="only print what was found")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.work / "optimizers.jsonl")
    if not options.table:
        study(results, Characters.read(options.text), options)
    print(report(results))


class Characters(NamedTuple):
    """A text as numbers, the last tenth held out; a `TokenStream` over the rest."""

    train: NDArray[np.int64]
    heldout: NDArray[np.int64]
    vocabulary: int

    @classmethod
    def read(cls, path: Path) -> "Characters":
        """Characters by number, as nanoGPT's own preparation does it."""
        content = path.read_bytes().decode("ascii")
        numbers = {character: number for number, character in enumerate(sorted(set(content)))}
        stream = np.array([numbers[character] for character in content], dtype=np.int64)
        cut = int(0.9 * len(stream))
        return cls(stream[:cut], stream[cut:], len(numbers))


class Stream:
    """The characters to learn from."""

    def __init__(self, ids: NDArray[np.int64]):
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    def slice(self, start: int, length: int) -> NDArray[np.int64]:
        """`length` of them from `start`."""
        return self._ids[start : start + length]


def study(results: Results, text: Characters, options: argparse.Namespace) -> None:
    for side in SIDES:
        run = partial(once, results, text, options, side, seed=SEEDS[0])
        measured = {rate: run(rate=rate) for rate in side.rates}
        for _ in range(MOST_EXTENSIONS):
            further = beyond(measured)
            if further is None:
                break
            measured[further] = run(rate=further)
    for side in SIDES:
        for seed in SEEDS[1:]:
            once(results, text, options, side, rate=best_rate(results, side.name), seed=seed)


def beyond(measured: dict[float, float]) -> float | None:
    """The next rate past the end at which the best stands, or None."""
    best, rates = min(measured, key=lambda rate: measured[rate]), sorted(measured)
    if best == rates[0]:
        return float(f"{best / 2:.2g}")
    return float(f"{best * 2:.2g}") if best == rates[-1] else None


def once(
    results: Results, text: Characters, options: argparse.Namespace, side: Side, *, rate: float, seed: int
) -> float:
    """Held-out nats of one run."""
    name = f"{side.name}/{rate:g}/{seed}/{options.tokens}"
    line = results.once(name, partial(trained, text, options, side, rate=rate, seed=seed))
    return float(line["loss"])


def trained(text: Characters, options: argparse.Namespace, side: Side, *, rate: float, seed: int) -> dict[str, Any]:
    """One run, of which only the figures stay."""
    length = SHAPE.context_length
    steps = options.tokens // (ROWS * length)
    order = WindowOrder(Stream(text.train), length=length, seed=seed)
    network = side.network(text.vocabulary, seed)
    output = options.work / "run"
    shutil.rmtree(output, ignore_errors=True)
    trainer = Trainer(
        network=network,
        trained=network,
        objective=next_token,
        source=WindowSource(order=order, rows=ROWS, micro_rows=ROWS, fingerprint="characters"),
        config=LoopConfig(steps=steps, seed=seed, checkpoint_every=steps, log_every=steps),
        optimizer=side.optimizer(rate),
        schedule=Cosine() if side.is_usual else ScheduleConfig(),
        placement=Placement(torch.device("cpu"), "float32", 1, "a study"),
        directory=output,
    )
    began = time.process_time()
    trainer.run(label=side.name)
    seconds = time.process_time() - began
    loss = _nanogpt.mean_loss(network.eval(), text.heldout, length)
    facts = {"side": side.name, "rate": rate, "seed": seed, "tokens": options.tokens, "cpu_s": round(seconds, 1)}
    return {**facts, "parameters": network.config.num_parameters(), "loss": round(loss, 5)}


def best_rate(results: Results, side: str) -> float:
    lines = [line for line in results.lines.values() if line["side"] == side and line["seed"] == SEEDS[0]]
    return float(min(lines, key=lambda line: line["loss"])["rate"])


def report(results: Results) -> str:
    """The sweeps, then each side's best over the seeds."""
    sides = [side.name for side in SIDES if any(line["side"] == side.name for line in results.lines.values())]
    sweeps = []
    for side in sides:
        lines = [line for line in results.lines.values() if line["side"] == side and line["seed"] == SEEDS[0]]
        ordered = sorted(lines, key=lambda line: line["rate"])
        sweeps.append([side, ", ".join(f"{line['rate']:g}: {line['loss']:.4f}" for line in ordered)])
    rows = []
    for side in sides:
        rate = best_rate(results, side)
        lines = [line for line in results.lines.values() if line["side"] == side and line["rate"] == rate]
        losses = [line["loss"] for line in lines]
        seconds = spread((line["cpu_s"] for line in lines), digits=1)
        rows.append([side, f"{rate:g}", str(len(lines)), spread(losses), f"{max(losses) - min(losses):.4f}", seconds])
    head = ["side", "best rate", "seeds", "held-out nats", "largest less smallest", "CPU s"]
    return f"{table(['side', 'rate: held-out nats, seed 1'], sweeps)}\n\n{table(head, rows)}"


if __name__ == "__main__":
    main()
