"""Steps whose micro-batches fit the memory: split as was searched, and smaller again where memory runs out.

What fits is decided in `fitting.py`, how a step is computed in `step.py`; this joins the two.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

from chatwright.foundation.console import say
from chatwright.foundation.devices import Placement
from chatwright.model.network import Network
from chatwright.train import compiling
from chatwright.train.batches import BatchSource, FittableSource, MicroBatch
from chatwright.train.compiling import CompileSetting
from chatwright.train.faults import Candidate
from chatwright.train.fitting import Fitting, Found, Work, keep, release, settled
from chatwright.train.metrics import MetricsLog
from chatwright.train.ranks import Ranks
from chatwright.train.step import Stepper


class Preparation(NamedTuple):
    """What is to be found out before the first step."""

    steps: int  # of the run
    is_fitted: bool
    compile: CompileSetting
    bytes_to_come: int = 0  # what the run will hold beside a pass and does not hold yet


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

    def prepare(self, network: Network, source: BatchSource, directory: Path, habits: Preparation) -> None:
        """Search how much is computed at once and whether to compile, as asked; what a checkpoint has told stays.

        Raises:
            OutOfMemoryError: not even one row fits.
            UsageError: compiling was asked for, and this machine cannot.
        """
        is_tried = habits.is_fitted or habits.compile == "auto"
        batch = self._share(source) if is_tried and hasattr(source, "longest") else None
        device = self._placement.device
        work = Work(self._stepper.tried, self._stepper.parameters, device, habits.steps, habits.bytes_to_come)
        if habits.is_fitted and self.positions is None and batch is not None:
            self._search(work, batch, directory)
        if habits.compile is not False:
            parts = [] if batch is None else self._as_trained(batch, source, habits.steps)
            self._compile(network, work, parts, directory, habits)
        self._tell_idle(source, habits.steps)

    def _as_trained(self, batch: MicroBatch, source: BatchSource, steps: int) -> list[MicroBatch]:
        """A rank's rows in micro-batches as large as a search found, or else as the source makes them."""
        if self.positions is not None:
            return self._fitting.divided([batch])
        return batch.split(max(one.ids_BT.numel() for one in source.step(steps - 1)))

    def _tell_idle(self, source: BatchSource, steps: int) -> None:
        if self._ranks.size == 1 or not self._ranks.is_first or not hasattr(source, "longest"):
            return
        first, last = (self._fitting.divided(source.step(number)) for number in (0, steps - 1))
        parts, when = (first, " at first") if len(first) < len(last) else (last, "")  # batches may grow
        if len(parts) < self._ranks.size:
            length = last[0].ids_BT.shape[1]  # a row of the first step may be a piece of a window
            rows = sum(part.ids_BT.numel() for part in parts) // length
            say(
                f"  {self._ranks.size - len(parts)} of {self._ranks.size} ranks have nothing to do{when}: a step has "
                f"{len(parts)} micro-batches; set `micro_rows` to {max(1, rows // self._ranks.size)} or less"
            )

    def _share(self, source: BatchSource) -> MicroBatch:
        """One rank's rows of the most demanding step."""
        whole = cast(FittableSource, source).longest()
        return whole.split(-(-whole.ids_BT.numel() // self._ranks.size))[0]

    def _search(self, work: Work, batch: MicroBatch, directory: Path) -> None:
        found = settled(directory, work, batch)
        least = self._ranks.minimum(found.positions, self._placement.device)
        self.positions = least
        if self._ranks.is_first:
            keep(directory, Found(least, found.reason))
            say(f"  {least:,} tokens at once, found by trying ({found.reason})")

    def _compile(
        self, network: Network, work: Work, parts: Sequence[MicroBatch], directory: Path, habits: Preparation
    ) -> None:
        decision = compiling.decide(
            network,
            habits.compile,
            work=work,
            batch=parts[0] if parts else None,
            passes=habits.steps * len(parts),
            directory=directory,
        )
        is_on = bool(self._ranks.minimum(int(decision.is_on), self._placement.device))  # on all ranks, or on none
        compiling.compile_blocks(network, is_on=is_on)
        if self._ranks.is_first:
            compiling.keep(directory, decision._replace(is_on=is_on))
            say(f"  blocks are {'compiled' if is_on else 'not compiled'}: {decision.reason}")

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
