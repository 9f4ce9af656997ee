"""Steps whose micro-batches fit the memory: split as was searched, and smaller again where memory runs out.

What fits is decided in `fitting.py`, how a step is computed in `step.py`; this joins the two.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from chatwright.foundation.console import say
from chatwright.foundation.devices import Placement
from chatwright.train.batches import BatchSource, FittableSource, MicroBatch
from chatwright.train.faults import Candidate
from chatwright.train.fitting import Fitting, Found, Work, keep, release, settled
from chatwright.train.metrics import MetricsLog
from chatwright.train.ranks import Ranks
from chatwright.train.step import Stepper


class FittedStepper:
    """A stepper that is asked again with smaller micro-batches where memory ran out.

    Args:
        stepper: computes.
        placement: device and precision.
        ranks: the processes that share each step; all split alike.
        log: told of every change.
    """

    def __init__(self, stepper: Stepper, *, placement: Placement, ranks: Ranks, log: MetricsLog):
        self._stepper = stepper
        self._placement = placement
        self._ranks = ranks
        self._log = log
        self._fitting = Fitting()

    @property
    def positions(self) -> int | None:
        """The most positions of a micro-batch; None: as the source gives them."""
        return self._fitting.positions

    @positions.setter
    def positions(self, value: int | None) -> None:
        self._fitting = Fitting(value)

    def search(self, source: BatchSource, directory: Path, *, steps: int) -> None:
        """Find how much is computed at once, unless a checkpoint has told it. The source must know its longest step.

        Raises:
            OutOfMemoryError: not even one row fits.
        """
        if self.positions is not None:
            return
        whole = cast(FittableSource, source).longest()
        batch = whole.split(-(-whole.ids_BT.numel() // self._ranks.size))[0]
        work = Work(self._stepper.tried, self._stepper.parameters, self._placement.device, steps)
        found = settled(directory, work, batch)
        least = self._ranks.minimum(found.positions, self._placement.device)
        self.positions = least
        if self._ranks.is_first:
            keep(directory, Found(least, found.reason))
            say(f"  {least:,} tokens at once, found by trying ({found.reason})")

    def gradient(self, micro_batches: Sequence[MicroBatch], *, number: int, step: int) -> Candidate:
        """The gradient of these micro-batches, in parts that fit; `number` is the data's, `step` the run's.

        Raises:
            OutOfMemoryError: memory ran out and there is nothing left to split.
        """
        while True:
            parts = self._fitting.divided(micro_batches)
            candidate = self._stepper.gradient(parts, number=number)
            if candidate is not None:
                return candidate
            release(self._placement.device)
            self._lower(parts, step)

    def _lower(self, parts: Sequence[MicroBatch], step: int) -> None:
        before = max(part.ids_BT.numel() for part in parts)
        self._fitting.lower(parts)
        now = self._fitting.positions
        self._log.write({"event": "out_of_memory", "step": step, "positions": before, "now": now})
        if self._ranks.is_first:
            say(f"  memory ran out at {before:,} tokens at once: goes on with {now:,}; the batch stays the same")
