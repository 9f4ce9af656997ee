"""A long stretch of work in the process that started the stage: it can be stopped, and says how far it is.

What takes a moment says nothing. Not for partitions: those are the engine's.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from chatwright.data.pool import patiently, pause_with
from chatwright.foundation.console import ProgressLine
from chatwright.foundation.stopping import StopFlag

_QUIET_S = 2.0  # nothing is said before
_KEPT = "the partitions finished so far"

Item = TypeVar("Item")


class Stretch:
    """One such stretch; without a flag that stops it, it runs through and says nothing.

    Args:
        label: of the progress line; empty for none.
        stop: asked between items.
    """

    def __init__(self, label: str = "", *, stop: StopFlag | None = None):
        self._label = label
        self._stop = stop
        self._began = time.monotonic()
        self._line: ProgressLine | None = None

    def at(self, done: int, total: int, text: str = "") -> None:
        """Say how far the work is.

        Raises:
            StoppedError: a stop was asked for.
        """
        self.check()
        if self._stop is None or not self._label:
            return
        if self._line is None and time.monotonic() - self._began < _QUIET_S:
            return
        self._line = self._line or ProgressLine(self._label, total, start=done)
        self._line.update(done, text, total=total)

    def close(self) -> None:
        """End the line, if there is one."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def through(self, items: Iterable[Item], *, total: int) -> Iterator[Item]:
        """The same items, as many as `total`.

        Raises:
            StoppedError: a stop was asked for.
        """
        for done, item in enumerate(items):
            self.at(done, total)
            yield item
        self.close()

    def ask(self, call: Callable[[], Item]) -> Item:
        """What a call to a disk or a server gives; where it can be stopped, it is also asked again if it fails.

        Raises:
            UnreachableError: it failed on all attempts.
            StoppedError: a stop was asked for.
        """
        if self._stop is None:
            return call()
        self.check()
        return patiently(call, pause=pause_with(self.check))

    def check(self) -> None:
        """Leave here if a stop was asked for.

        Raises:
            StoppedError: it was.
        """
        if self._stop is not None:
            self._stop.check(_KEPT)
