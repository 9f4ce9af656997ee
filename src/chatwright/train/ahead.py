"""The next step's micro-batches, prepared in a thread while this step is computed.

Only for sources that are pure functions of the step. One step ahead, never more: what waits is bounded.
"""

from concurrent.futures import Future, ThreadPoolExecutor

from chatwright.train.batches import FittableSource, MicroBatch


class Ahead:
    """A source that is read one step ahead of what is asked; equal to it in everything but time.

    Args:
        source: the source of windows or the like.
        steps: of the run; nothing beyond is prepared.
    """

    def __init__(self, source: FittableSource, *, steps: int):
        self._source = source
        self._steps = steps
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._next: tuple[int, Future[list[MicroBatch]]] | None = None
        self.fingerprint = source.fingerprint

    def step(self, number: int) -> list[MicroBatch]:
        """The source's own, and its errors."""
        waiting, self._next = self._next, None
        try:
            ready = waiting[1].result() if waiting is not None and waiting[0] == number else None
            return self._source.step(number) if ready is None else ready
        finally:
            if number + 1 < self._steps:
                self._next = (number + 1, self._pool.submit(self._source.step, number + 1))

    def longest(self) -> MicroBatch:
        """The source's own."""
        return self._source.longest()
