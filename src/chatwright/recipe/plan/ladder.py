"""Small runs on the corpus itself, from which its own loss law is fitted. Judges nothing.

A rung is one short training of one size. Sizes about a factor of two apart are trained for like times, so that their
ends lie on curves of equal cost (approach 2 of Hoffmann et al. 2022), and the best two once more for longer.
"""

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.foundation.console import say
from chatwright.foundation.errors import UsageError
from chatwright.foundation.stage import StageContext
from chatwright.foundation.stopping import StopFlag
from chatwright.model.config import ModelConfig
from chatwright.recipe.plan.choose import Candidate
from chatwright.recipe.plan.cost import step_flops
from chatwright.recipe.plan.shapes import batch_tokens_for, learning_rate_for
from chatwright.train.pretrain import PretrainConfig, PretrainInputs
from chatwright.train.pretrain import run as pretrain

_SIZES = 4
_APART = 1.9  # a rung's parameters over those of the rung below, at least
_FEWEST_STEPS = 50  # of the shortest training; below, the warm-up is most of what there is to see
_SHARES = (1 / 12, 1 / 6)  # of the budget, for every size
_LONG_SHARE, _LONG = 1 / 3, 2  # of the budget, for the best sizes of the shorter ones
_LONG_BUDGET_S = 900.0  # above, each share is a quarter: the ladder must stay short beside what it plans


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


def climb(found: Sequence[Candidate], seconds: float, train: Train) -> tuple[Rung, ...]:
    """Train the ladder for a budget of so many seconds.

    Args:
        found: what the budget affords, with the seconds of a step.
        seconds: of the budget; the ladder takes about 1.7 times as long, or a quarter of that for long ones.
        train: trains one candidate for some steps and measures it.

    Raises:
        UsageError: the budget is too short for two sizes.
    """
    scale = 1.0 if seconds <= _LONG_BUDGET_S else 0.25
    shares = [scale * share for share in _SHARES]
    sizes = _spaced([one for one in found if _steps(_for_share(one, shares[0]), seconds * shares[0]) >= _FEWEST_STEPS])
    if len(sizes) < 2:
        raise UsageError(
            "the budget is too short for a ladder of sizes",
            hint=f"`--fit` needs {_FEWEST_STEPS} steps of two sizes in a twelfth of the budget: allow more time",
        )
    rungs = [_rung(one, seconds, share, train) for share in shares for one in sizes]
    best = sorted(rungs[-len(sizes) :], key=lambda rung: rung.bits_per_byte)[:_LONG]
    for one in (one for one in sizes if one.shape in [rung.shape for rung in best]):
        rungs.append(_rung(one, seconds, scale * _LONG_SHARE, train))
    return tuple(rungs)


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
    """The smallest, and each next one that is far enough above; of more than enough, the largest."""
    taken: list[Candidate] = []
    for one in sorted(found, key=lambda one: one.parameters):
        if not taken or one.parameters >= _APART * taken[-1].parameters:
            taken.append(one)
    return taken[-_SIZES:]


def _rung(one: Candidate, seconds: float, share: float, train: Train) -> Rung:
    short = _for_share(one, share)
    steps = _steps(short, seconds * share)
    bits = train(short, steps)
    say(f"  {one.parameters:,} parameters, {steps} steps of {short.batch_rows} rows: {bits:.3f} bits per byte")
    return Rung(one.shape, steps, short.batch_rows, bits)


def trainer_on(run_dir: Path, *, precision: str, threads: int) -> Train:
    """Trains on the tokens of a run, by the very stage that the planned recipe will use; nothing of it is kept."""

    def train(one: Candidate, steps: int) -> float:
        settings = PretrainConfig.model_validate(
            {
                "steps": steps,
                "batch_rows": one.batch_rows,
                "micro_rows": one.micro_rows,
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
                seed=1,
                lineage={},
                workers=1,
                stop=StopFlag(),
            )
            summary = pretrain(context)
        evaluation = summary.get("evaluation") or {}
        if "bits_per_byte" not in evaluation:
            raise UsageError(f"`{run_dir}` has no held-out documents", hint="set `clean.heldout_share` above 0")
        return float(evaluation["bits_per_byte"]["all"])

    return train
