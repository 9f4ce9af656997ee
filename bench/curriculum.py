"""Documents in an order, and windows that grow, against the plain shuffle and the controls, at equal tokens.

Call: python bench/curriculum.py --books FOLDER --work FOLDER

FOLDER holds EPUB files, which the normal stages prepare. Every run is the stage `pretrain` with a recipe's keys: the
scores compression, Flesch and the loss under a smaller model, each easy first and hard first; documents
in any order opened as slowly (the control of all of them); windows that grow; the plain shuffle. Three seeds, which
draw weights and orders. Held-out bits per byte at the end, and tokens until a run had what the plain shuffle with
its seed had at the end and half way.

Results are appended to WORK/curriculum.jsonl; called again, only what is missing is run. The table comes from the file.
"""

import argparse
import shutil
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from _books import prepare, study_tokens
from _picture import write_curves
from _study import Results, spread, table
from chatwright.foundation import storage
from chatwright.foundation.config import validate
from chatwright.foundation.stage import StageContext
from chatwright.train import pretrain
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
SCORER = {**SHAPE, "width": 32, "heads": 1, "key_heads": 1, "layers": 1, "mlp_width": 96}
STEPS, ROWS, HELDOUT, EVERY = 120, 16, 1 << 20, 20
SCORES = ("compression", "flesch", "loss")
SEEDS = (1, 2, 3)
WARMUP = 0.3
SHUFFLE, CONTROL = "shuffle", "any order, opened slowly"
_COMMON = {"device": "cpu", "precision": "float32", "threads": 1, "checkpoint_every": 100_000, "log_every": 100}


def settings(work: Path) -> dict[str, dict[str, Any]]:
    """Sections of `pretrain` by name."""
    found: dict[str, dict[str, Any]] = {
        SHUFFLE: {},
        CONTROL: {"curriculum": {"score": "length", "direction": "random", "warmup_share": WARMUP}},
        "windows from 16": {"growth": {"start": 16, "warmup_share": WARMUP}},
        "windows from 32": {"growth": {"start": 32, "warmup_share": WARMUP}},
    }
    for score in SCORES:
        extra = {"scorer": str(scorer_model(work))} if score == "loss" else {}
        for direction in ("forward", "reverse"):
            part = {"score": score, "direction": direction, "warmup_share": WARMUP, **extra}
            found[f"{score}, {'easy' if direction == 'forward' else 'hard'} first"] = {"curriculum": part}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="only print what was found")
    parser.add_argument("--picture", type=Path, help="an SVG file for the curves")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.work / "curriculum.jsonl")
    if not options.table:
        study(results, prepare(options.books, options.work), options.work)
    print(report(results))
    if options.picture:
        write_curves(options.picture, beside_shuffle(results), across="tokens", up="bits per byte above the shuffle's")


class Tokens(NamedTuple):
    """What all runs learn from."""

    shards: Path
    tokenizer: Path


def study(results: Results, run: Path, work: Path) -> None:
    """All settings of a seed before the next seed, so that a study that is stopped has whole ones."""
    tokens = Tokens(study_tokens(run, work / "tokens-plenty"), run / "tokenizer")
    results.once("scorer", lambda: train(tokens, scorer_model(work).parent, SCORER, {}, seed=77))
    for seed in SEEDS:
        for name, section in settings(work).items():
            output = work / "curriculum" / f"{name}-{seed}".replace(" ", "_").replace(",", "")

            results.once(f"{name}/{seed}", partial(once, tokens, output, name, section, seed))


def once(tokens: Tokens, output: Path, name: str, section: dict[str, Any], seed: int) -> dict[str, Any]:
    """One run, of which only the figures stay."""
    found = train(tokens, output, SHAPE, section, seed=seed)
    shutil.rmtree(output)
    return {"setting": name, "seed": seed, **found}


def scorer_model(work: Path) -> Path:
    """Where the smaller model is that scores documents by its loss."""
    return work / "curriculum" / "scorer" / "model"


def train(data: Tokens, output: Path, shape: dict[str, Any], section: dict[str, Any], *, seed: int) -> dict[str, Any]:
    """The stage `pretrain`; returns the held-out curve as tokens and bits per byte."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    length = {"steps": STEPS, "batch_rows": ROWS, "evaluate_every": EVERY, "heldout_tokens": HELDOUT}
    inputs = {"model": shape, "pretrain": {**_COMMON, **length, **section}}
    context = StageContext(
        config=validate(PretrainInputs, inputs, where="study"),
        inputs={"tokens": data.shards, "tokenizer": data.tokenizer},
        output=output,
        seed=seed,
    )
    summary = pretrain.run(context)
    lines = [line for line in storage.read_lines(output / "metrics.jsonl") if line["event"] == "evaluation"]
    tokens = ROWS * shape["context_length"]
    curve = [[line["step"] * tokens, line["bits_per_byte"]["all"]] for line in lines]
    assert summary["target_tokens"] == STEPS * tokens, "equal tokens"
    return {"curve": curve, "bits": curve[-1][1], "parameters": summary["parameters"], "seconds": summary["seconds"]}


def tokens_until(curve: list[list[float]], bits: float) -> float | None:
    """Tokens at which a curve first had so few bits per byte, between two measurements in a line; None for never."""
    for (before, above), (after, below) in zip(curve, curve[1:], strict=False):
        if below <= bits:
            return before + (after - before) * (above - bits) / (above - below) if above > bits else before
    return None


def whole_seeds(results: Results) -> dict[str, dict[int, dict[str, Any]]]:
    """Runs by setting and seed, of the seeds that all settings have."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for line in results.lines.values():
        if "setting" in line:
            found.setdefault(line["setting"], {})[line["seed"]] = line
    shared = set.intersection(*(set(runs) for runs in found.values()))
    return {name: {seed: runs[seed] for seed in sorted(shared)} for name, runs in found.items()}


def report(results: Results) -> str:
    """One row for each setting; differences are of runs with the same seed: to the shuffle, and to the control."""
    runs = whole_seeds(results)
    rows = []
    for name, mine in runs.items():
        pairs = [(line, runs[SHUFFLE][seed]) for seed, line in mine.items()]
        controlled = [line["bits"] - runs[CONTROL][seed]["bits"] for seed, line in mine.items()]
        rows.append(
            [
                name,
                spread(line["bits"] for line in mine.values()),
                spread(line["bits"] - plain["bits"] for line, plain in pairs),
                spread(controlled) if name.endswith(" first") else "",
                *(spread([_share(line, plain, part) for line, plain in pairs], digits=3) for part in (0.5, 1.0)),
            ]
        )
    head = ["setting", "bits per byte", "less the shuffle's", "less the control's"]
    head += ["tokens to the shuffle's bits half way", "and at its end"]
    return f"seeds: {', '.join(map(str, runs[SHUFFLE]))}\n\n" + table(head, rows)


def beside_shuffle(results: Results) -> dict[str, list[tuple[float, float]]]:
    """Mean curves of all settings but the shuffle, as differences to it, after the first steps."""
    runs = whole_seeds(results)
    curves = {}
    for name, mine in runs.items():
        pairs = [(line["curve"], runs[SHUFFLE][seed]["curve"]) for seed, line in mine.items()]
        points = range(1, len(pairs[0][0]))
        means = [sum(one[i][1] - plain[i][1] for one, plain in pairs) / len(pairs) for i in points]
        if name != SHUFFLE:
            curves[name] = [(pairs[0][0][i][0], mean) for i, mean in zip(points, means, strict=True)]
    return curves


def _share(line: dict[str, Any], plain: dict[str, Any], part: float) -> float | None:
    """Tokens, as a share of the shuffle's, until what the shuffle had after `part` of its tokens."""
    tokens, bits = plain["curve"][round(part * (len(plain["curve"]) - 1))]
    found = tokens_until(line["curve"], bits)
    return None if found is None else found / tokens


if __name__ == "__main__":
    main()
