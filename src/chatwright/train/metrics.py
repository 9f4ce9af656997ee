"""What a run says of itself: the report of a step, the window of accepted steps, and the log `metrics.jsonl`.

Statistics hold accepted steps only. Not the place where anything is decided (`faults.py`) or measured (`heldout.py`).
"""

import contextlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.foundation import storage
from chatwright.foundation.console import say
from chatwright.foundation.errors import StorageFailedError, StorageFullError
from chatwright.train.curves import Curve, CurveName, open_curves, scalars_of
from chatwright.train.utilisation import Meter

METRICS = "metrics.jsonl"


class StepReport(NamedTuple):
    """What one step did."""

    loss: float  # nats per target token
    norm: float  # of the gradient, before clipping
    targets: int
    applied: bool


class Window:
    """Accepted steps since the last line of metrics, as sums: a checkpoint between two lines keeps them.

    Args:
        steps: so far, as all that follows.
        targets: what the loss is a mean over.
        nats: summed over them.
        norms: of gradients.
        seconds: of training.
        unit: what the targets are: tokens, or pairs, verdicts, answers.
    """

    def __init__(
        self,
        *,
        steps: int = 0,
        targets: int = 0,
        nats: float = 0.0,
        norms: float = 0.0,
        seconds: float = 0.0,
        unit: str = "tokens",
    ) -> None:
        self._unit = unit
        self._steps, self._targets = steps, targets
        self._nats, self._norms, self._seconds = nats, norms, seconds
        self._text = ""

    def add(self, report: StepReport, seconds: float, meter: Meter | None = None) -> None:
        """Count a step, if it was applied; the meter tells the machine's use."""
        if report.applied:
            self._steps += 1
            self._targets += report.targets
            self._nats += report.loss * report.targets
            self._norms += report.norm
            self._seconds += seconds
            rate = self._rate()
            used = "" if meter is None else f" | {meter.share(rate):.0%} of the machine"
            self._text = f"loss {report.loss:.3f} | {rate:,.{0 if rate >= 10 else 1}f} {self._unit}/s{used}"

    def text(self) -> str:
        """The newest step, for the progress line."""
        return self._text

    def sums(self) -> dict[str, Any]:
        """What the constructor takes."""
        return {
            "steps": self._steps,
            "targets": self._targets,
            "nats": self._nats,
            "norms": self._norms,
            "seconds": self._seconds,
        }

    def take(self, meter: Meter | None = None) -> dict[str, Any]:
        """Mean loss over the window's targets, its rate and the machine's use; then begin a new window."""
        if not self._steps:
            return {"loss": None, "norm": None, f"{self._unit}_per_second": 0.0}
        values = {
            "loss": round(self._nats / self._targets, 6),
            "norm": round(self._norms / self._steps, 6),
            f"{self._unit}_per_second": round(self._rate(), 1),
        }
        if meter is not None:
            values["utilisation"] = round(meter.share(self._rate()), 4)
        self._steps = self._targets = 0
        self._nats = self._norms = self._seconds = 0.0
        return values

    def _rate(self) -> float:
        return self._targets / max(self._seconds, 1e-9)


class MetricsLog:
    """The run's log, one event a line, written by the first rank alone.

    A disk that is full or fails does not end a run for want of a line: lines wait in memory until they can be written,
    or until `flush`. A program that fails at its curves is left out, and the run goes on.

    Args:
        directory: where `metrics.jsonl` is.
        is_writer: whether this process writes it.
        curves: programs that follow the same events.
    """

    def __init__(self, directory: Path, *, is_writer: bool, curves: Sequence[CurveName] = ()):
        self._path = directory / METRICS
        self._is_writer = is_writer
        self._waiting: deque[dict[str, Any]] = deque()
        self._curves = dict(zip(curves, open_curves(curves, directory), strict=True)) if is_writer else {}

    def write(self, event: dict[str, Any]) -> None:
        """Append one event."""
        if self._is_writer:
            self._waiting.append(event)
            self._draw(lambda curve: curve.write(event.get("step", 0), scalars_of(event)))
            self._try_to_flush()

    def flush(self) -> None:
        """Write what waits.

        Raises:
            StorageFullError: there is still no room.
            StorageFailedError: the disk still fails.
        """
        try:
            while self._waiting:
                storage.append_line(self._path, self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            raise StorageFailedError(
                f"`{self._path}` could not be written: {error.strerror or error}",
                kept="the checkpoints, and the lines written before",
                hint="look at the disk, and run the same command again: it goes on where it stopped",
            ) from error

    def close(self) -> None:
        """Finish the curves; a line that finds no room waits in vain."""
        self._draw(lambda curve: curve.close())

    def begin_anew(self, *, steps: int) -> None:
        """Forget all: the run has no checkpoint that the log could belong to. How many steps there will be comes first.

        That is no curve: the programs that follow the events are not told of it.
        """
        if self._is_writer:
            self._draw(lambda curve: curve.go_back(-1))
            self._path.unlink(missing_ok=True)
            self._waiting.append({"event": "begins", "step": 0, "steps": steps})
            self._try_to_flush()

    def forget_after(self, step: int, *, but: str | None = None) -> None:
        """Drop what was logged after this step, events of the name `but` left out: those steps are done again."""
        if not self._is_writer:
            return
        self._draw(lambda curve: curve.go_back(step))

        def stays(line: dict[str, Any]) -> bool:
            return line.get("step", 0) <= step or (but is not None and line.get("event") == but)

        self._waiting = deque(filter(stays, self._waiting))
        lines = list(filter(stays, storage.read_lines(self._path)))
        with storage.publish_file(self._path) as scratch:
            scratch.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")

    def _try_to_flush(self) -> None:
        with contextlib.suppress(StorageFullError, StorageFailedError):
            self.flush()

    def _draw(self, act: Callable[[Curve], None]) -> None:
        """Do it with each curve; who fails is told and left out: no picture is worth the run."""
        for name, curve in list(self._curves.items()):
            try:
                act(curve)
            except Exception as error:  # programs of others may raise anything
                del self._curves[name]
                say(f"  `curves`: {name} failed and draws no more, training goes on: {str(error)[:300] or type(error)}")
