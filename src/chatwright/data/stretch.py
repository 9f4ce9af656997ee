"""A long stretch of work in the process that started the stage: it can be stopped, and says how far it is.

What takes a moment says nothing. Not for partitions: those are the engine's.
"""

import contextlib
import functools
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar

from chatwright.data.pool import patiently, pause_with
from chatwright.foundation.console import ProgressLine
from chatwright.foundation.stopping import StopFlag

_QUIET_S = 2.0  # nothing is said before
_KEPT = "the partitions finished so far"
_AT_ONCE = 8  # requests to a store, whose answers take their time on the way

Item = TypeVar("Item")
Given = TypeVar("Given")


class Stretch:
    """One such stretch; without a flag that stops it, it runs through and says nothing.

    Args:
        label: of the progress line; empty for none.
        stop: asked between items.
        kept: what a stop leaves, for the person.
    """

    def __init__(self, label: str = "", *, stop: StopFlag | None = None, kept: str = _KEPT):
        self._label = label
        self._stop = stop
        self._kept = kept
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
        try:
            for done, item in enumerate(items):
                self.at(done, total)
                yield item
        finally:
            self.close()

    def ask(
        self, call: Callable[[], Item], *, within: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    ) -> Item:
        """What a call to a disk or a server gives; where it can be stopped, it is also asked again if it fails.

        Args:
            call: made anew each time.
            within: names a failure of each attempt, so that it is known whether it may pass.

        Raises:
            UnreachableError: it failed on all attempts.
            StoppedError: a stop was asked for.
        """

        def attempt() -> Item:
            with within():
                return call()

        if self._stop is None:
            return attempt()
        self.check()
        return patiently(attempt, pause=pause_with(self.check))

    def ahead(
        self,
        look: Callable[[Item], Given],
        items: Sequence[Item],
        *,
        within: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> Iterator[Given]:
        """What a call gives for each item, in their order, while threads make the calls for the next few.

        Never more of them than were taken before: whoever needs the first alone has one call made. What failed in a
        thread is told when its turn comes, and asked for again as `ask` does.

        Args:
            look: asks a disk or a server for one item; may run in any thread.
            items: as many as there are.
            within: as in `ask`.

        Raises:
            UnreachableError: it failed on all attempts.
            StoppedError: a stop was asked for.
        """
        waiting, rest = deque[Future[Given]](), iter(items)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for taken, item in enumerate(items):
                number = min(taken + 1, _AT_ONCE) - len(waiting)
                waiting.extend(pool.submit(look, one) for one in itertools.islice(rest, number))
                first = [waiting.popleft()]
                yield self.ask(functools.partial(_found, first, look, item), within=within)

    def check(self) -> None:
        """Leave here if a stop was asked for.

        Raises:
            StoppedError: it was.
        """
        if self._stop is not None:
            self._stop.check(self._kept)


def _found(asked: list[Future[Given]], look: Callable[[Item], Given], item: Item) -> Given:
    """What a thread found; if that was told before, what is found now."""
    return asked.pop().result() if asked else look(item)
