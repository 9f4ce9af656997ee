"""The time by which hosts are left alone between requests: a seam, so that tests of patience take none."""

import time


class Clock:
    """Seconds since 1970 that never go back while the process lives."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """The moment."""
        return time.monotonic() + self._offset

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)
