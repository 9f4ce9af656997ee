"""Small runs on the corpus itself, from which its own loss law is fitted. Judges nothing.

A rung is one short training of one size. Sizes about a factor of two apart are trained for like times, so that their
ends lie on curves of equal cost (approach 2 of Hoffmann et al. 2022), and the best two once more for longer. What a
finished rung reached is kept in the run's scratch folder: a ladder that was interrupted goes on from there.
"""

import itertools
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chatwright
from chatwright.foundation import storage
from chatwright.foundation.config import without_habits
from chatwright.foundation.console import say
from chatwright.foundation.errors import UsageError
from chatwright.foundation.stage import StageContext
from chatwright.foundation.stopping import StopFlag
from chatwright.model.config import ModelConfig
from chatwright.recipe.plan.cost import step_flops
from chatwright.recipe.plan.proposal import Candidate
from chatwright.recipe.plan.shapes import batch_tokens_for, learning_rate_for
from chatwright.recipe.report.facts import WORK
from chatwright.recipe.stages import STAGES
from chatwright.train.pretrain import PretrainConfig, PretrainInputs
from chatwright.train.pretrain import run as pretrain

_SIZES = 4
_APART = 1.9  # a rung's parameters over those of the rung below, at least
_FEWEST_STEPS = 50  # of the shortest training; below, the warm-up is most of what there is to see
_SHARES = (1 / 12, 1 / 6)  # of the budget, for every size
_LONG_SHARE, _LONG = 1 / 3, 2  # of the budget, for the best sizes of the shorter ones
_LONG_BUDGET_S = 900.0  # above, each share is a quarter: the ladder must stay short beside what it plans
_ALIKE = 1.25  # a kept rung's steps over those that are due, either way: pace is measured anew with each call
_SEED = 1
_KEPT = Path(WORK) / "ladder.jsonl"  # in the run's folder


class Rung(NamedTuple):
    """One small training and what it reached."""

    shape: ModelConfig
    steps: int
    batch_rows: int
    bits_per_byte: float  # on held-out documents, all domains

    @property
    def parameters(self) -> int:
        """Of the model."""
        return self.shape.num_parameters()

    @property
    def tokens(self) -> int:
        """Trained on, repetitions counted."""
        return self.steps * self.batch_rows * self.shape.context_length

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "parameters": self.parameters,
            "width": self.shape.width,
            "layers": self.shape.layers,
            "steps": self.steps,
            "tokens": self.tokens,
            "bits_per_byte": self.bits_per_byte,
        }


Train = Callable[[Candidate, int], float]  # a candidate and its steps -> bits per byte
Hold = Callable[[Candidate], Candidate | None]


def ladder_seconds(seconds: float) -> float:
    """What the ladder of a budget of so many seconds takes at most, measurements left out."""
    return _scale(seconds) * seconds * (_SIZES * sum(_SHARES) + _LONG * _LONG_SHARE)


def _scale(seconds: float) -> float:
    return 1.0 if seconds <= _LONG_BUDGET_S else 0.25


def climb(
    found: Sequence[Candidate],
    seconds: float,
    train: Train,
    *,
    kept: Sequence[Rung] = (),
    hold: Hold | None = None,
) -> tuple[Rung, ...]:
    """Train the ladder for a budget of so many seconds.

    Args:
        found: what the budget affords, with the seconds of a step.
        seconds: of the budget; the ladder takes `ladder_seconds` at most.
        train: trains a candidate for some steps and measures it.
        kept: rungs trained before, which are not trained again where one of nearly the same length is due.
        hold: gives a candidate as the memory holds it, or None where it does not; absent: all are held.

    Raises:
        UsageError: the budget is too short for two sizes, or the memory too small.
    """
    scale = _scale(seconds)
    shares = [scale * share for share in _SHARES]
    afforded = [one for one in found if _steps(_for_share(one, shares[0]), seconds * shares[0]) >= _FEWEST_STEPS]
    sizes = _sizes(afforded, hold)
    rungs = [_rung(one, seconds, share, train, kept) for share in shares for one in sizes]
    best = sorted(rungs[-len(sizes) :], key=lambda rung: rung.bits_per_byte)[:_LONG]
    for one in (one for one in sizes if one.shape in [rung.shape for rung in best]):
        rungs.append(_rung(one, seconds, scale * _LONG_SHARE, train, kept))
    return tuple(rungs)


def kept_rungs(run_dir: Path, *, precision: str, device: str = "auto") -> tuple[Rung, ...]:
    """The rungs that were trained on the tokens of a run before, under what decides their loss now."""
    conditions = _conditions(run_dir, precision=precision, device=device)
    lines = storage.read_lines(run_dir / _KEPT)
    return tuple(
        Rung(
            shape=ModelConfig.model_validate_json(json.dumps(line["model"])),  # as JSON: its lists are our tuples
            steps=line["steps"],
            batch_rows=line["batch_rows"],
            bits_per_byte=line["bits_per_byte"],
        )
        for line in lines
        if line.get("conditions") == conditions
    )


def _keep(run_dir: Path, rung: Rung, conditions: str) -> None:
    facts = {"steps": rung.steps, "batch_rows": rung.batch_rows, "bits_per_byte": rung.bits_per_byte}
    model = rung.shape.model_dump(mode="json")
    storage.append_line(run_dir / _KEPT, {"conditions": conditions, "model": model, **facts})


def _conditions(run_dir: Path, *, precision: str, device: str) -> str:
    """A digest of all that a rung's loss depends on beside its shape, batch and length."""
    settings = PretrainConfig.model_validate({"precision": precision, "device": device})
    inputs = [storage.read_manifest(run_dir / name).content for name in ("tokenizer", "tokens")]
    version = next(stage.version for stage in STAGES if stage.name == "pretrain")
    return storage.digest_json([inputs, without_habits(settings), _SEED, version, chatwright.__version__])


def _for_share(one: Candidate, share: float) -> Candidate:
    """The candidate with the batch of a part of the budget.

    With the batch of the whole, the largest size would end within its first hundred steps and look worse than it is.
    """
    smaller = batch_tokens_for(share) / batch_tokens_for(1.0)
    rows = max(1, 2 ** round(math.log2(one.batch_rows * smaller)))
    tokens = one.shape.context_length
    faster = step_flops(one.shape, rows * tokens) / step_flops(one.shape, one.batch_rows * tokens)
    return one._replace(
        batch_rows=rows, micro_rows=math.gcd(rows, one.micro_rows), step_seconds=one.step_seconds * faster
    )


def _steps(one: Candidate, seconds: float) -> int:
    return int(seconds / one.step_seconds)


def _spaced(found: Sequence[Candidate]) -> list[Candidate]:
    """The smallest, and each next one that is far enough above."""
    taken: list[Candidate] = []
    for one in sorted(found, key=lambda one: one.parameters):
        if not taken or one.parameters >= _APART * taken[-1].parameters:
            taken.append(one)
    return taken


def _sizes(afforded: Sequence[Candidate], hold: Hold | None) -> list[Candidate]:
    """Those of the ladder: of more than enough, the largest that the memory holds; smaller ones are not looked at."""
    spaced = _spaced(afforded)
    if len(spaced) < 2:
        raise UsageError(
            "the budget is too short for a ladder of sizes",
            hint=f"`--fit` needs {_FEWEST_STEPS} steps of two sizes in a twelfth of the budget: allow more time",
        )
    held = (one if hold is None else hold(one) for one in reversed(spaced))
    sizes = list(itertools.islice((one for one in held if one is not None), _SIZES))[::-1]
    if len(sizes) < 2:
        raise UsageError("the memory is too small for a ladder of sizes", hint="free memory, or leave `--fit` out")
    return sizes


def _rung(one: Candidate, seconds: float, share: float, train: Train, kept: Sequence[Rung]) -> Rung:
    short = _for_share(one, share)
    steps = _steps(short, seconds * share)
    rung = _nearest(short, steps, kept)
    how = ""
    if rung is None:
        rung = Rung(one.shape, steps, short.batch_rows, train(short, steps))
    else:
        how = ", trained before"
    say(
        f"  {one.parameters:,} parameters, {rung.steps} steps of {rung.batch_rows} rows{how}: "
        f"{rung.bits_per_byte:.3f} bits per byte"
    )
    return rung


def _nearest(one: Candidate, steps: int, kept: Sequence[Rung]) -> Rung | None:
    """The kept rung of this shape and batch that is most nearly as long; None where none is about so long.

    It need not be exactly so long: the law is fitted to what each rung has read.
    """
    same = [rung for rung in kept if rung.shape == one.shape and rung.batch_rows == one.batch_rows]
    alike = [rung for rung in same if 1 / _ALIKE <= rung.steps / steps <= _ALIKE]
    return min(alike, key=lambda rung: abs(math.log(rung.steps / steps)), default=None)


def trainer_on(run_dir: Path, *, precision: str, threads: int, device: str = "auto") -> Train:
    """Trains on the tokens of a run, by the very stage that the planned recipe will use.

    Nothing of a training stays but what it reached, for `kept_rungs`.
    """
    (run_dir / _KEPT).parent.mkdir(exist_ok=True)
    conditions = _conditions(run_dir, precision=precision, device=device)

    def train(one: Candidate, steps: int) -> float:
        settings = PretrainConfig.model_validate(
            {
                "steps": steps,
                "batch_rows": one.batch_rows,
                "micro_rows": one.micro_rows,
                "device": device,
                "precision": precision,
                "threads": threads,
                "evaluate_every": steps,
                "checkpoint_every": steps,
                "optimizer": {"learning_rate": learning_rate_for(one.shape.width), "muon_learning_rate": 0.02},
            }
        )
        with tempfile.TemporaryDirectory(prefix="chatwright-ladder-") as scratch:
            context = StageContext(
                config=PretrainInputs(model=one.shape, pretrain=settings),
                inputs={"tokenizer": run_dir / "tokenizer", "tokens": run_dir / "tokens"},
                output=Path(scratch),
                seed=_SEED,
                lineage={},
                workers=1,
                stop=StopFlag(),
            )
            summary = pretrain(context)
        bits = float(summary["evaluation"]["bits_per_byte"]["all"])
        _keep(run_dir, Rung(one.shape, steps, one.batch_rows, bits), conditions)
        return bits

    return train
