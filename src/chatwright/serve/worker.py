"""One engine, one thread, a line of fixed length before it: how many clients are answered at once.

Knows no HTTP. Each answer that was begun is stored before its end is told, so that it can be rated at once.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from chatwright.feedback.conversations import Message
from chatwright.feedback.store import Answer, FeedbackStore
from chatwright.foundation.console import say
from chatwright.foundation.errors import ChatwrightError
from chatwright.model.generation import GenerationRequest, Piece
from chatwright.serve.engine import ChatEngine, sampling_as_json
from chatwright.serve.line import FairLine

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
    """A request on its way: asked for, waiting or being written."""

    answer_id: str  # of the first answer; `answer_ids` has the others
    request: GenerationRequest
    loop: asyncio.AbstractEventLoop
    messages: Sequence[Message] | None = None  # the conversation, kept with the answer; None: nothing is kept
    client: str = ""  # whose turn it takes in the line
    owner: str = ""  # whose answers they are
    is_turn: bool = False  # of a kept conversation: without its turn an answer is not kept
    pieces: "asyncio.Queue[Piece | BaseException]" = field(default_factory=asyncio.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def answer_ids(self) -> list[str]:
        """Under which each answer is kept and can be rated."""
        others = range(1, self.request.num_answers)
        return [self.answer_id, *(f"{self.answer_id}-{number}" for number in others)]

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
        """Pieces up to the last one of the last answer; None after each `idle_s` seconds of silence.

        A cancelled request ends with the first piece that says so.

        Raises:
            Exception: what the engine raised.
        """
        open_answers = self.request.num_answers
        while open_answers:
            try:
                async with asyncio.timeout(idle_s):  # unlike `wait_for` it never swallows a cancellation
                    news = await self.pieces.get()
            except TimeoutError:
                yield None
                continue
            if isinstance(news, BaseException):
                raise news
            yield news
            open_answers = 0 if news.finish == "cancelled" else open_answers - (news.finish is not None)


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
        self._line: FairLine[Job] = FairLine(max_waiting)
        self._running: dict[int, _Running] = {}
        self._is_beginning = False  # whether a job is on its way into the engine
        self._stopping = threading.Event()
        self._held_lock = threading.Lock()
        self.num_held = 0  # jobs that are being made
        self._seconds_per_answer = FIRST_GUESS_S
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to work; once."""
        self._thread.start()

    def cut(self) -> None:
        """Cancel what is being written and refuse what waits, without waiting for the thread."""
        self._stopping.set()
        self._line.wake()

    def stop(self) -> None:
        """Cut everything and wait for the end of the thread."""
        self.cut()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT_S)

    @property
    def num_waiting(self) -> int:
        """Jobs in the line, not counting those being answered."""
        return len(self._line)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While a job for this worker is being made: a model that was replaced is not ended before it has it."""
        with self._held_lock:
            self.num_held += 1
        try:
            yield
        finally:
            with self._held_lock:
                self.num_held -= 1

    @property
    def num_running(self) -> int:
        """Jobs being answered, one that the engine is taking up among them."""
        return len(self._running) + self._is_beginning

    def require_room(self) -> None:
        """Refuse early, before anything is computed for a request that could not wait.

        Raises:
            LineFullError: with seconds after which to try again.
            StoppingError: the server ends.
        """
        if self._stopping.is_set():
            raise StoppingError
        if self._line.is_full:
            raise LineFullError(self._retry_after_s())

    def submit(self, job: Job) -> None:
        """Put a job into the line.

        Raises:
            LineFullError, StoppingError: as `require_room`.
        """
        self.require_room()
        if not self._line.put(job, client=job.client):
            raise LineFullError(self._retry_after_s())
        if self._stopping.is_set():  # the thread may have emptied the line already: told twice is better than never
            job.tell(StoppingError())

    def _retry_after_s(self) -> int:
        return max(1, min(60, round(self._seconds_per_answer)))

    def _work(self) -> None:
        self._prepare()
        while not self._stopping.is_set():
            self._admit()
            self._step()
        for number in list(self._running):
            self._engine.cancel(number)
        self._step()
        for running in self._running.values():
            running.job.tell(StoppingError())
        while (left := self._line.take(wait=False)) is not None:
            left.tell(StoppingError())

    def _prepare(self) -> None:
        """Here and not with the first request: no other thread waits while the engine is made."""
        try:
            self._engine.prepare()
        except Exception as error:  # the border of this thread: each request tries again, and its client is told
            say(f"warning: `{self._engine.name}` cannot answer yet: {error}")

    def _admit(self) -> None:
        """Hand over as many jobs as can begin; where nothing runs, wait for one."""
        while not self._stopping.is_set() and (not self._running or self._engine.free_answers > 0):
            job = self._line.take(wait=not self._running)
            if job is None:
                return
            if job.cancelled.is_set():
                continue
            self._is_beginning = True
            try:
                number = self._engine.submit(job.request)
                self._running[number] = _Running(job, self._clock())
            except Exception as error:  # the border of this thread: the client's side tells of it and logs it
                job.tell(error)
            finally:
                self._is_beginning = False

    def _step(self) -> None:
        for number, running in self._running.items():
            if running.job.cancelled.is_set():
                self._engine.cancel(number)
        if not self._running:
            return
        try:
            pieces = self._engine.step()
        except Exception as error:  # the border of this thread: the client's side tells of it and logs it
            self._engine.reset()
            for running in self._running.values():
                running.job.tell(error)
            self._running.clear()
            return
        for number, piece in pieces:
            self._hand_on(number, piece)

    def _hand_on(self, number: int, piece: Piece) -> None:
        running = self._running[number]
        running.texts[piece.answer].append(piece.text)
        if piece.finish is not None:
            self._keep(running, piece)
            running.open_answers -= 1
        running.job.tell(piece)
        if not running.open_answers:
            del self._running[number]
            self._seconds_per_answer += 0.2 * (self._clock() - running.began - self._seconds_per_answer)

    def _keep(self, running: "_Running", last: Piece) -> None:
        """Store an answer. A store that fails does not take the answer from the person who waits for it."""
        job = running.job
        if self._store is None or job.messages is None or last.finish is None:
            return
        answer = Answer(
            id=job.answer_ids[last.answer],
            model=self._engine.name,
            model_digest=self._engine.digest,
            messages=tuple(job.messages),
            answer="".join(running.texts[last.answer]),
            sampling=sampling_as_json(job.request.sampling),
            finish=last.finish,
            owner=job.owner,
        )
        try:
            self._store.add_answer(answer, is_turn=job.is_turn)
        except ChatwrightError as error:
            say(f"warning: answer `{answer.id}` was given but is not stored and cannot be rated: {error}")


class _Running:
    """A job inside the engine."""

    def __init__(self, job: Job, began: float):
        self.job = job
        self.began = began
        self.open_answers = job.request.num_answers
        self.texts: list[list[str]] = [[] for _ in range(self.open_answers)]
