"""How far a run is, and what it has counted on the way: the loop's own part of a checkpoint's state.

Numbers only; weights are the network's, verdicts the guard's (faults.py).
"""

from dataclasses import dataclass, field
from typing import Any

from chatwright.train.metrics import Window
from chatwright.train.utilisation import Meter


@dataclass
class Progress:
    """Counts of accepted steps; changed by the loop alone."""

    step: int = 0
    passed_over: int = 0  # steps' worth of data that a rollback left out
    targets: int = 0
    seconds: float = 0.0
    window: Window = field(init=False)
    evaluation: dict[str, Any] = field(default_factory=dict)  # the last one
    score: float | None = None  # held-out loss, if it was measured at this very step
    unit: str = "tokens"  # of the targets

    def __post_init__(self) -> None:
        self.window = Window(unit=self.unit)

    @property
    def data_number(self) -> int:
        """Of the step's data, which goes on where a rollback has passed some over."""
        return self.step + self.passed_over

    def state(self) -> dict[str, Any]:
        """What `load` takes; JSON."""
        return {
            "step": self.step,
            "passed_over": self.passed_over,
            "targets_seen": self.targets,
            "seconds": self.seconds,
            "window": self.window.sums(),
            "evaluation": self.evaluation,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.step, self.passed_over = state["step"], state["passed_over"]
        self.targets, self.seconds = state["targets_seen"], state["seconds"]
        self.window, self.evaluation = Window(**state["window"], unit=self.unit), state["evaluation"]

    def summary(self, meter: Meter | None) -> dict[str, Any]:
        """What the run is worth telling, JSON; the meter tells the machine's use."""
        rate = self.targets / max(self.seconds, 1e-9)
        used = {} if meter is None else {"utilisation": round(meter.share(rate), 4)}
        return {
            "steps": self.step,
            "target_tokens" if self.unit == "tokens" else self.unit: self.targets,
            "seconds": round(self.seconds, 3),
            f"{self.unit}_per_second": round(rate, 1),
            "evaluation": self.evaluation,
            **used,
        }
