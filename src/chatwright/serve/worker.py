"""One engine, one thread, a line of fixed length before it: how answers are made for many clients at once.

Knows no HTTP. Each answer that was begun is stored before its end is told, so that it can be rated at once.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, Full, Queue

from chatwright.feedback.conversations import Message
from chatwright.feedback.store import Answer, FeedbackStore
from chatwright.foundation.console import say
from chatwright.foundation.errors import ChatwrightError
from chatwright.model.generation import Piece, Sampling
from chatwright.serve.engine import ChatEngine, sampling_as_json

STOP_TIMEOUT_S = 30.0  # the longest that one step of the engine may hold up the end of the server
FIRST_GUESS_S = 5.0  # an answer's seconds before one was measured


class LineFullError(Exception):
    """No room to wait.

    Args:
        retry_after_s: whole seconds after which there may be room.
    """

    def __init__(self, retry_after_s: int):
        super().__init__("the line is full")
        self.retry_after_s = retry_after_s


class StoppingError(Exception):
    """The server is on its way out and begins no more answers."""


@dataclass(kw_only=True, eq=False)
class Job:
    """An answer on its way: asked for, waiting or being written."""

    answer_id: str
    messages: Sequence[Message]
    sampling: Sampling
    loop: asyncio.AbstractEventLoop
    pieces: "asyncio.Queue[Piece | BaseException]" = field(default_factory=asyncio.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Nobody waits for this answer any more; harmless after its end.

        The client's side ends at once, though the engine may be busy with others before it reaches this job.
        """
        self.cancelled.set()
        self.tell(Piece("", "cancelled", 0, 0))

    def tell(self, news: Piece | BaseException) -> None:
        """Hand a piece, or what went wrong, from the engine's thread to the client's side."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to be told
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, news)

    async def stream(self, *, idle_s: float) -> AsyncIterator[Piece | None]:
        """Pieces up to the last one; None after each `idle_s` seconds of silence.

        Raises:
            Exception: what the engine raised.
        """
        while True:
            try:
                news = await asyncio.wait_for(self.pieces.get(), idle_s)
            except TimeoutError:
                yield None
                continue
            if isinstance(news, BaseException):
                raise news
            yield news
            if news.finish is not None:
                return


class EngineWorker:
    """The only caller of the engine.

    Args:
        engine: what answers.
        store: where answers are kept; None keeps none.
        max_waiting: jobs that may wait; more are refused.
        clock: monotonic seconds, for the guess of when to try again.
    """

    def __init__(
        self,
        engine: ChatEngine,
        *,
        store: FeedbackStore | None,
        max_waiting: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._engine = engine
        self._store = store
        self._clock = clock
        self._line: Queue[Job | None] = Queue(max_waiting)
        self._stopping = threading.Event()
        self._seconds_per_answer = FIRST_GUESS_S
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to work; once."""
        self._thread.start()

    def cut(self) -> None:
        """Cancel what is being written and refuse what waits, without waiting for the thread."""
        self._stopping.set()
        with contextlib.suppress(Full):
            self._line.put_nowait(None)  # wakes the thread where it waits

    def stop(self) -> None:
        """Cut everything and wait for the end of the thread."""
        self.cut()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT_S)

    @property
    def num_waiting(self) -> int:
        """Jobs in the line, not counting the one being answered."""
        return self._line.qsize()

    def require_room(self) -> None:
        """Refuse early, before anything is computed for a request that could not wait.

        Raises:
            LineFullError: with seconds after which to try again.
            StoppingError: the server ends.
        """
        if self._stopping.is_set():
            raise StoppingError
        if self._line.full():
            raise LineFullError(self._retry_after_s())

    def submit(self, job: Job) -> None:
        """Put a job at the end of the line.

        Raises:
            LineFullError, StoppingError: as `require_room`.
        """
        self.require_room()
        try:
            self._line.put_nowait(job)
        except Full:
            raise LineFullError(self._retry_after_s()) from None
        if self._stopping.is_set():  # the thread may have emptied the line already: told twice is better than never
            job.tell(StoppingError())

    def _retry_after_s(self) -> int:
        return max(1, min(60, round(self._seconds_per_answer)))

    def _work(self) -> None:
        while not self._stopping.is_set():
            job = self._line.get()
            if job is not None and not job.cancelled.is_set():
                began = self._clock()
                self._answer(job)
                self._seconds_per_answer += 0.2 * (self._clock() - began - self._seconds_per_answer)
        with contextlib.suppress(Empty):
            while True:
                left = self._line.get_nowait()
                if left is not None:
                    left.tell(StoppingError())

    def _answer(self, job: Job) -> None:
        text: list[str] = []
        try:
            for piece in self._engine.stream(job.messages, job.sampling, cancelled=lambda: self._is_over(job)):
                text.append(piece.text)
                if piece.finish is not None:
                    self._keep(job, "".join(text), piece)
                job.tell(piece)
                if piece.finish is not None:
                    return
            raise RuntimeError("the engine ended without saying how")
        except Exception as error:  # the border of this thread: the client's side tells of it and logs it
            job.tell(error)

    def _is_over(self, job: Job) -> bool:
        return job.cancelled.is_set() or self._stopping.is_set()

    def _keep(self, job: Job, text: str, last: Piece) -> None:
        """Store the answer. A store that fails does not take the answer from the person who waits for it."""
        if self._store is None or last.finish is None:
            return
        answer = Answer(
            id=job.answer_id,
            model=self._engine.name,
            model_digest=self._engine.digest,
            messages=tuple(job.messages),
            answer=text,
            sampling=sampling_as_json(job.sampling),
            finish=last.finish,
        )
        try:
            self._store.add_answer(answer)
        except ChatwrightError as error:
            say(f"warning: answer `{job.answer_id}` was given but is not stored and cannot be rated: {error}")
