"""Stopping early: a run ends where held-out loss has not fallen for so many measurements, if that was asked for.

Not a substitute for a schedule: a run that ends early has not cooled down, and its last steps are its noisiest. Beside
it, `keep_best` keeps the checkpoint that was best, and the run leaves its weights.
"""

from typing import Any


class Patience:
    """Counts measurements without a new best.

    Args:
        allowed: so many in a row end the run; 0: none ever does.
    """

    def __init__(self, allowed: int):
        self._allowed = allowed
        self._best: float | None = None
        self._waited = 0

    @property
    def is_over(self) -> bool:
        """Whether the run has waited long enough."""
        return 0 < self._allowed <= self._waited

    @property
    def best(self) -> float | None:
        """The lowest loss so far."""
        return self._best

    def see(self, loss: float | None) -> None:
        """Count a measurement; None: nothing comparable was measured."""
        if loss is None:
            return
        if self._best is None or loss < self._best:
            self._best, self._waited = loss, 0
        else:
            self._waited += 1

    def state(self) -> dict[str, Any]:
        """What `load` takes."""
        return {"best": self._best, "waited": self._waited}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._best, self._waited = state["best"], state["waited"]
