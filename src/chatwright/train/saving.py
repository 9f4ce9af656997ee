"""Checkpoints written beside the training: at most one at a time, from a copy that the next step cannot change.

A save that fails costs no run at once: what was saved before stays, training goes on, and the failure is reported.
Only so many in a row end it. Which values a checkpoint has is not decided here.
"""

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from chatwright.foundation.console import say
from chatwright.foundation.errors import ChatwrightError, RefusedError, StorageFailedError, StorageFullError
from chatwright.train.checkpoints import Checkpoint, Checkpoints
from chatwright.train.metrics import MetricsLog


class Saver:
    """Writes one run's checkpoints, in a thread of its own or at once.

    Args:
        checkpoints: where to.
        log: told of saves that failed.
        in_background: whether training goes on meanwhile.
        maximum_failures: saves that may fail in a row.
    """

    def __init__(self, checkpoints: Checkpoints, log: MetricsLog, *, in_background: bool, maximum_failures: int):
        self._checkpoints = checkpoints
        self._log = log
        self._in_background = in_background
        self._maximum_failures = maximum_failures
        self._failures = 0
        self._pool: ThreadPoolExecutor | None = None
        self._pending: tuple[int, int, Future[None]] | None = None  # step, bytes: its tensors are the thread's alone
        self._last_step: int | None = None

    def save(self, step: int, checkpoint: Checkpoint) -> None:
        """Begin to write a checkpoint whose tensors nothing else changes; waits for the one before.

        Raises:
            ChatwrightError: too many saves in a row have failed.
        """
        self.wait()
        self._pool = self._pool or ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending = (step, checkpoint.num_bytes, self._pool.submit(self._checkpoints.save, step, checkpoint))
        if not self._in_background:
            self.wait()

    def wait(self, *, must_hold: bool = False) -> None:
        """Until nothing is being written.

        Args:
            must_hold: whether a save that failed now is an error, not only an event: the run ends here.

        Raises:
            ChatwrightError: the save failed and must hold, or too many in a row have failed.
        """
        if self._pending is None:
            return
        step, num_bytes, future = self._pending
        error = future.exception()
        self._pending = None
        if error is None:
            self._failures, self._last_step = 0, step
            return
        if not isinstance(error, OSError | StorageFullError | StorageFailedError | RefusedError):
            raise error
        self._failures += 1
        self._tell(step, num_bytes, error)
        if must_hold or self._failures > self._maximum_failures:
            raise self._ending(step, error) from error

    @property
    def last_step(self) -> int | None:
        """The newest step that was saved by this process."""
        return self._last_step

    def settle(self) -> None:
        """Before the run goes back: nothing is being written, and a step that was saved may be saved anew."""
        self.wait()
        self._last_step = None

    def close(self) -> None:
        """Let the thread go; what it writes is finished first."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _tell(self, step: int, num_bytes: int, error: BaseException) -> None:
        free = shutil.disk_usage(self._checkpoints.directory).free
        event: dict[str, Any] = {
            "event": "checkpoint_failed",
            "step": step,
            "reason": _words(error),
            "bytes_needed": num_bytes,
            "bytes_free": free,
        }
        say(f"  the checkpoint of step {step} was not saved, training goes on: {_words(error)}")
        self._log.write(event)

    def _ending(self, step: int, error: BaseException) -> ChatwrightError:
        if isinstance(error, ChatwrightError):
            return error
        return StorageFailedError(
            f"the checkpoint of step {step} could not be saved: {_words(error)}",
            kept=f"what was saved before in `{self._checkpoints.directory}`",
            hint="look at the disk, and run the same command again: it goes on where it stopped",
        )


def _words(error: BaseException) -> str:
    return error.what if isinstance(error, ChatwrightError) else str(error)
