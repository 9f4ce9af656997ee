"""What each way to fine-tune gains, forgets and costs, and what replay keeps, on a base pretrained here.

    python bench/finetune_methods.py methods --run runs/demo --out bench-finetune
    python bench/finetune_methods.py keeping --run runs/demo --out bench-finetune
    python bench/finetune_methods.py report --run runs/demo --out bench-finetune

Each cell is the stage `finetune` in a process of its own, so that its peak memory is its own. Cells that are done are
not done again. The learning rate of each method is chosen by answers held back from training, never by the test.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import resource
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from _picture import write_curves
from chatwright.foundation.config import validate
from chatwright.foundation.stage import StageContext
from chatwright.tune import finetune
from chatwright.tune.finetune_settings import FinetuneConfig

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "examples" / "support"
EMBEDDED = ("all", "embed_tokens")


class Method(NamedTuple):
    """A row of the table: settings, and the learning rates that are tried."""

    settings: dict[str, Any]
    rates: tuple[float, ...]


def _lora(rank: int, *, targets: tuple[str, ...] = ("all",), **fields: Any) -> dict[str, Any]:
    return {"method": "lora", "lora": {"rank": rank, "alpha": 2.0 * rank, "targets": list(targets), **fields}}


# The base has the shape of Qwen 3, which has no biases: its norms stand in their place. What full learns without the
# embedding says how much of LoRA's distance from full is the embedding's, and how much is the low rank's.
METHODS = {
    "full": Method({"method": "all"}, (2e-3, 5e-3, 1e-2, 2e-2)),
    "full, embedding frozen": Method({"method": "pattern:proj|norm"}, (5e-3, 1e-2, 2e-2)),
    "LoRA r4": Method(_lora(4), (1e-2, 3e-2, 6e-2)),
    "LoRA r16": Method(_lora(16), (1e-2, 2e-2, 4e-2)),
    "LoRA r64": Method(_lora(64), (5e-3, 1e-2, 2e-2, 4e-2)),
    "LoRA r64, embedding": Method(_lora(64, targets=EMBEDDED), (5e-3, 1e-2, 2e-2)),
    "DoRA r16": Method(_lora(16, magnitudes=True), (1e-2, 2e-2, 4e-2)),
    "adapters of 32": Method({"method": "adapters", "adapters": {"width": 32}}, (1e-2, 2e-2, 4e-2)),
    "last 2 layers": Method({"method": "last-2"}, (3e-3, 6e-3, 1.2e-2, 2.4e-2)),
    "norms": Method({"method": "pattern:norm"}, (3e-2, 6e-2, 1.2e-1)),
}
KEEPING_METHODS = {"full": 2e-3, "LoRA r64, embedding": 5e-3}
KEEPING = (  # replay share, what it is held to, its weight
    (0.01, "base", 1.0),
    (0.05, "base", 1.0),
    (0.25, "base", 1.0),
    (0.05, "base", 3.0),
    (0.25, "base", 3.0),
    (0.25, "base", 0.3),
    (0.05, "text", 1.0),
    (0.25, "text", 1.0),
)
LEARNED, TESTED = 1_500, 120  # conversations: a study for two cores, not the demo's whole fine-tune


class Place(NamedTuple):
    """Where a study's inputs and results are."""

    run: Path
    out: Path
    steps: int

    @property
    def results(self) -> Path:
        """One line a cell."""
        return self.out / "results.jsonl"


def cell(place: Place, name: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One fine-tune in this process, measured."""
    output = place.out / "cells" / name
    output.mkdir(parents=True, exist_ok=True)
    rows = 12
    common = {
        "data": str(_part(place, "train", LEARNED)),
        "test": str(_part(place, "test", TESTED)),
        "validation_share": 0.05,
        "batch_rows": rows,
        "epochs": place.steps * rows / (0.95 * LEARNED),
        "heldout_tokens": 2_048,
        "evaluate_every": 10_000,
        "checkpoint_every": 10_000,
        "device": "cpu",
        "precision": "float32",
        "threads": int(os.environ.get("OMP_NUM_THREADS", "1")),
        "replay_share": 0.0,
    }
    config = validate(FinetuneConfig, common | settings, where=name)
    inputs = {"base": place.run / "pretrain" / "model", "tokens": place.run / "tokens"}
    began = time.process_time()
    report = finetune.run(StageContext(config=config, inputs=inputs, output=output, seed=seed))
    before, after = report["before"], report["after"]
    return {
        "trained": report["trained"],
        "share": report["share"],
        "steps": report["steps"],
        "seconds": report["seconds"],
        "cpu_seconds": round(time.process_time() - began, 1),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "validation": after["validation_bits_per_byte"],
        "test": after["test_bits_per_byte"],
        "gain": before["test_bits_per_byte"] - after["test_bits_per_byte"],
        "forgetting": report["forgetting"]["all"],
        "file_bytes": report["file_bytes"].get("adapter", report["file_bytes"]["model"]),
    }


def _part(place: Place, name: str, count: int) -> Path:
    """So many conversations of an example, spread evenly over the file, which is in the order of its subjects."""
    path = place.out / f"{name}-{count}.jsonl"
    if not path.is_file():
        lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        chosen = [lines[number * len(lines) // count] for number in range(count)]
        scratch = path.with_suffix(f".{os.getpid()}")
        scratch.write_text("\n".join(chosen) + "\n", encoding="utf-8")
        scratch.rename(path)
    return path


def measured(place: Place, study: str, label: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """The cell's figures: those on file, or those of a process of its own, which are then put on file."""
    key = {"study": study, "label": label, "seed": seed, "settings": settings, "steps": place.steps}
    for line in _lines(place.results):
        if all(line.get(name) == value for name, value in key.items()):
            return line
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        line = key | pool.apply(cell, (place, name, seed, settings))
    with place.results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return line


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def study_methods(place: Place, seeds: int) -> None:
    """Every method at each of its rates with the first seed, then at its best rate with the others."""
    for label, method in METHODS.items():
        tried = {
            rate: measured(place, "methods", label, 1, method.settings | {"optimizer": {"learning_rate": rate}})
            for rate in method.rates
        }
        best = min(tried, key=lambda rate: tried[rate]["validation"])
        for seed in range(2, seeds + 1):
            measured(place, "methods", label, seed, method.settings | {"optimizer": {"learning_rate": best}})


def study_keeping(place: Place, seeds: int) -> None:
    """Replay as text and as divergence from the base, by share and weight, for two methods."""
    for seed in range(1, seeds + 1):
        for label, rate in KEEPING_METHODS.items():
            plain = METHODS[label].settings | {"optimizer": {"learning_rate": rate}}
            measured(place, "keeping", label, seed, plain)
            for share, target, weight in KEEPING:
                fields = {"replay_share": share, "replay_target": target, "replay_weight": weight, "replay_length": 64}
                measured(place, "keeping", label, seed, plain | fields)


def _spread(values: list[float], digits: int = 3) -> str:
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def _at_best_rate(lines: list[dict[str, Any]], label: str) -> list[dict[str, Any]]:
    """A method's cells at the rate that answers held back chose with the first seed."""
    mine = [line for line in lines if line["study"] == "methods" and line["label"] == label]
    if not mine:
        return []
    first = min((line for line in mine if line["seed"] == 1), key=lambda line: line["validation"])
    return [line for line in mine if line["settings"] == first["settings"]]


def table_of_methods(lines: list[dict[str, Any]]) -> str:
    """The table, in Markdown: each method at the rate that its held-back answers chose."""
    rows = [
        "| method | rate | trained | test, bits/byte | gain | forgotten | s | peak MB | file MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for label in METHODS:
        kept = _at_best_rate(lines, label)
        if not kept:
            continue
        first = kept[0]
        told = [_spread([line[name] for line in kept]) for name in ("test", "gain", "forgetting")]
        size = [f"{mean(line[name] for line in kept) / 1e6:.1f}" for name in ("peak_bytes", "file_bytes")]
        rate = first["settings"]["optimizer"]["learning_rate"]
        seconds = f"{mean(line['seconds'] for line in kept):.0f}"
        rows.append(f"| {label} | {rate:g} | {first['share']:.1%} | {' | '.join([*told, seconds, *size])} |")
    return "\n".join(rows)


def table_of_keeping(lines: list[dict[str, Any]]) -> str:
    """The curve as a table: what forgetting falls to, and what of the gain it costs."""
    rows = [
        "| method | replay | held to | weight | gain | forgotten | forgetting falls by | of the gain lost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label in KEEPING_METHODS:
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for line in (line for line in lines if line["study"] == "keeping" and line["label"] == label):
            told = line["settings"]
            target = told.get("replay_target", "base") if "replay_share" in told else "-"
            key = (told.get("replay_share", 0.0), target, told.get("replay_weight", 1.0))
            groups.setdefault(key, []).append(line)
        plain = next((members for key, members in groups.items() if not key[0]), [])
        for (share, target, weight), members in sorted(groups.items()):
            gain, lost = (mean(line[name] for line in members) for name in ("gain", "forgetting"))
            gain_0, lost_0 = (mean(line[name] for line in plain) for name in ("gain", "forgetting"))
            values = f"{gain:.3f} | {lost:.3f} | {1 - lost / lost_0:.0%} | {1 - gain / gain_0:.1%}"
            rows.append(f"| {label} | {share:.0%} | {target} | {weight:g} | {values} |")
    return "\n".join(rows)


def _point(lines: list[dict[str, Any]]) -> tuple[float, float]:
    return mean(line["gain"] for line in lines), mean(line["forgetting"] for line in lines)


def draw(place: Place, lines: list[dict[str, Any]]) -> None:
    """Two pictures: each method's gain and forgetting at its best rate, and the guards' along their replay share."""
    methods = {label: [_point(kept)] for label in METHODS if (kept := _at_best_rate(lines, label))}
    guards: dict[str, list[tuple[float, float]]] = {}
    for label in KEEPING_METHODS:
        mine = [line for line in lines if line["study"] == "keeping" and line["label"] == label]
        plain = [line for line in mine if "replay_share" not in line["settings"]]
        for target, weight in sorted({(target, weight) for _, target, weight in KEEPING}):
            groups: dict[float, list[dict[str, Any]]] = {0.0: plain} if plain else {}
            for line in mine:
                told = line["settings"]
                if (told.get("replay_target"), told.get("replay_weight")) == (target, weight):
                    groups.setdefault(told["replay_share"], []).append(line)
            if len(groups) > 1:
                name = f"{label}: {'KL' if target == 'base' else 'text'} x {weight:g}"
                guards[name] = [_point(groups[share]) for share in sorted(groups)]
    for name, found in (("methods", methods), ("keeping", guards)):
        if found:
            path = place.out / f"finetune-{name}.svg"
            write_curves(path, found, across="gained, bits per byte", up="forgotten, bits per byte")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["methods", "keeping", "report"])
    parser.add_argument("--run", type=Path, required=True, help="a run with `pretrain/` and `tokens/`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    """Do a study, or print what has been measured."""
    chosen = _arguments()
    place = Place(chosen.run.resolve(), chosen.out.resolve(), chosen.steps)
    place.out.mkdir(parents=True, exist_ok=True)
    if chosen.what == "methods":
        study_methods(place, chosen.seeds)
    elif chosen.what == "keeping":
        study_keeping(place, chosen.seeds)
    lines = _lines(place.results)
    print(table_of_methods(lines), table_of_keeping(lines), sep="\n\n")
    draw(place, lines)


if __name__ == "__main__":
    main()
