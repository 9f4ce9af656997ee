"""What to do with a step whose values are not sound: skip it, go back and pass its data over, or stop resumably.

Decides only; the loop acts. A step is judged before its update, from values that all ranks agree on, so that no
parameter ever changes on a value that is not finite on any rank. Statistics are those of accepted steps.
"""

import math
from collections.abc import Iterator
from enum import Enum
from statistics import fmean, pstdev
from typing import Any, Literal, NamedTuple

from pydantic import Field

from chatwright.foundation.config import Config, Habit
from chatwright.foundation.errors import DivergedError

_FEWEST_STEPS = 16  # accepted before a spike can be told from the noise


class FaultConfig(Config):
    """Which steps are not trusted, and what follows.

    What follows is a habit: a run that stopped for its steps may go on by another policy.
    """

    policy: Habit[Literal["skip", "rollback", "stop"]] = "skip"
    maximum_skips: Habit[int] = Field(default=10, ge=0)  # unsound steps in a row that are left out before more is done
    maximum_rollbacks: Habit[int] = Field(default=3, ge=0)  # in the whole run
    # A loss or norm so many standard deviations above the mean is unsound, too; None: what is finite is sound.
    spike_sigmas: float | None = Field(default=None, gt=0)
    spike_window: int = Field(default=128, ge=_FEWEST_STEPS)  # accepted steps that the mean is taken over
    audit_every: int = Field(default=0, ge=0)  # steps between searches for silent damage (audit.py); 0: none

    def problems(self) -> Iterator[str]:
        """A setting without effect is an error."""
        if self.policy == "stop" and self._is_set("maximum_skips"):
            yield '`maximum_skips` has no effect with `policy = "stop"`'
        if self.policy != "rollback" and self._is_set("maximum_rollbacks"):
            yield f'`maximum_rollbacks` has no effect with `policy = "{self.policy}"`'
        if self.spike_sigmas is None and self._is_set("spike_window"):
            yield "`spike_window` has no effect without `spike_sigmas`"

    def _is_set(self, name: str) -> bool:
        """Whether it differs from the default, which a resolved recipe writes out."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)


class Verdict(Enum):
    """What becomes of a step."""

    ACCEPT = "accept"
    SKIP = "skip"
    ROLL_BACK = "rollback"
    STOP = "stop"


class Candidate(NamedTuple):
    """A step before its update, alike on all ranks."""

    loss: float  # nats per target token, over all micro-batches of all ranks
    norm: float  # of the gradient, before clipping
    targets: int
    damage: str | None = None  # what is wrong with weights or optimizer state, if anything
    where: str | None = None  # which value was not finite, if one was
    is_overflow: bool = False  # of float16 under a loss scale that is lowered now: no fault of the run


class Judgement(NamedTuple):
    """A verdict and its reason."""

    verdict: Verdict
    reason: str = ""


def diverged(judgement: Judgement, *, step: int, skips: int, newest: int | None) -> DivergedError:
    """A run that ends for its steps.

    Args:
        judgement: of the last one.
        step: its number.
        skips: steps that were left out in a row, this one among them.
        newest: the step of the checkpoint from which the run can go on.
    """
    row = f"{skips} steps in a row up to " if skips > 1 else ""
    return DivergedError(
        f"training diverged: {row}step {step} could not be used: {judgement.reason}",
        kept="no checkpoint yet" if newest is None else f"the checkpoint of step {newest}",
        hint="look at the data of these steps, lower the learning rates or choose another `faults.policy`",
    )


class FaultGuard:
    """Judges one step after the other; its memory goes into the checkpoint."""

    def __init__(self, config: FaultConfig):
        self._config = config
        self.skips = 0  # in a row
        self.rollbacks = 0
        self._losses: list[float] = []
        self._norms: list[float] = []

    def judge(self, step: Candidate) -> Judgement:
        """Accept, or say what else and why."""
        if step.damage is not None:
            return self.judge_damage(step.damage)
        reason = self._objection(step)
        if reason is None:
            self._accept(step)
            return Judgement(Verdict.ACCEPT)
        if step.is_overflow:
            return Judgement(Verdict.SKIP, f"{reason}; the loss scale is lowered")
        if self._config.policy == "stop":
            return Judgement(Verdict.STOP, reason)
        self.skips += 1
        if self.skips > self._config.maximum_skips:
            return Judgement(self._beyond_skipping(), reason)
        return Judgement(Verdict.SKIP, reason)

    def judge_damage(self, reason: str) -> Judgement:
        """Of weights or optimizer state: no later step could be sound, so skipping is no way out."""
        return Judgement(self._beyond_skipping(), reason)

    def rolled_back(self, *, rollbacks: int) -> None:
        """The state is that of a checkpoint again; how often that was so stays known."""
        self.rollbacks = rollbacks + 1
        self.skips = 0

    def state(self) -> dict[str, Any]:
        """What `load` takes; JSON."""
        return {"skips": self.skips, "rollbacks": self.rollbacks, "losses": self._losses, "norms": self._norms}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's memory."""
        self.skips, self.rollbacks = state["skips"], state["rollbacks"]
        self._losses, self._norms = list(state["losses"]), list(state["norms"])

    def _beyond_skipping(self) -> Verdict:
        config = self._config
        can_go_back = config.policy == "rollback" and self.rollbacks < config.maximum_rollbacks
        return Verdict.ROLL_BACK if can_go_back else Verdict.STOP

    def _objection(self, step: Candidate) -> str | None:
        if not math.isfinite(step.loss):
            return step.where or f"the loss is {step.loss}"
        if not math.isfinite(step.norm):
            return step.where or f"the gradient's norm is {step.norm}"
        return self._spike("loss", step.loss, self._losses) or self._spike("gradient's norm", step.norm, self._norms)

    def _spike(self, name: str, value: float, accepted: list[float]) -> str | None:
        """As OLMo-core and levanter have it: so many standard deviations above the mean of a rolling window."""
        sigmas = self._config.spike_sigmas
        if sigmas is None or len(accepted) < _FEWEST_STEPS:
            return None
        limit = fmean(accepted) + sigmas * pstdev(accepted)
        return f"the {name} of {value:.4g} is a spike: above {limit:.4g}" if value > limit else None

    def _accept(self, step: Candidate) -> None:
        self.skips = 0
        if self._config.spike_sigmas is not None:
            window = self._config.spike_window
            self._losses = [*self._losses, step.loss][-window:]
            self._norms = [*self._norms, step.norm][-window:]
