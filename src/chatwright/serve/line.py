"""The line before an engine: of fixed length, and fair between clients. Knows neither HTTP nor engines."""

import threading
from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairLine(Generic[T]):
    """Who waits, by client: each client's jobs in their order, clients in turn, so that one cannot take all.

    Safe to use from many threads.

    Args:
        max_waiting: jobs of all clients together.
    """

    def __init__(self, max_waiting: int):
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._by_client: OrderedDict[str, deque[T]] = OrderedDict()  # whose turn it is comes first
        self._size = 0
        self._woken = False

    def __len__(self) -> int:
        return self._size

    @property
    def is_full(self) -> bool:
        """Whether `put` would be refused."""
        return self._size >= self._max_waiting

    def put(self, job: T, *, client: str) -> bool:
        """Put a job at its client's end; False where the line is full."""
        with self._changed:
            if self.is_full:
                return False
            self._by_client.setdefault(client, deque()).append(job)
            self._size += 1
            self._changed.notify()
            return True

    def take(self, *, wait: bool) -> T | None:
        """The next job: the oldest of the client whose turn it is.

        Args:
            wait: wait for one, or for `wake`; otherwise None at once where nobody waits.
        """
        with self._changed:
            while wait and not self._size and not self._woken:
                self._changed.wait()
            self._woken = False
            if not self._size:
                return None
            client, jobs = next(iter(self._by_client.items()))
            job = jobs.popleft()
            self._size -= 1
            if jobs:
                self._by_client.move_to_end(client)  # after its job a client stands behind all others
            else:
                del self._by_client[client]
            return job

    def wake(self) -> None:
        """Let a waiting `take` return None."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()
