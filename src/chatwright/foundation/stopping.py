"""A request to stop, seen by whoever works: first signal asks, second ends the process at once."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from chatwright.foundation.errors import ExitCode, StoppedError


class StopFlag:
    """Set by a signal; long work asks it at each step and leaves at a place from which it can go on."""

    def __init__(self) -> None:
        self.requested = False

    def check(self, done: str) -> None:
        """Leave here if a stop was asked for. `done` says what is saved.

        Raises:
            StoppedError: with what is kept and how to go on.
        """
        if self.requested:
            raise StoppedError(
                "stopped on request", kept=done, hint="run the same command again: it goes on from there"
            )


@contextlib.contextmanager
def stop_requested() -> Iterator[StopFlag]:
    """SIGINT and SIGTERM set the flag while the block runs; the second one exits at once with the same code."""
    flag = StopFlag()

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature is the system's
        if flag.requested:
            os._exit(ExitCode.STOPPED)
        flag.requested = True

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
