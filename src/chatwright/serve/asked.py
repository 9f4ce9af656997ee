"""What one HTTP request asked of the models: one or more jobs whose choices come out in one stream.

Knows jobs and choices, not the shape of any answer; `completions` and `conversations` make those.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from starlette.types import Receive

from chatwright.foundation.console import say
from chatwright.foundation.errors import UsageError
from chatwright.model.generation import Piece
from chatwright.serve.errors import ApiError
from chatwright.serve.worker import Job, StoppingError

KEEP_ALIVE_S = 15.0  # silence after which a stream sends a comment, so that proxies leave it open


class Part(NamedTuple):
    """A piece of one of the choices that were asked for."""

    choice: int  # counted from 0 over all jobs
    piece: Piece


@dataclass(kw_only=True)
class Asked:
    """The jobs of one request, begun together and cancelled together."""

    jobs: Sequence[Job]
    prompt_tokens: int = field(default=0, init=False)
    completion_tokens: int = field(default=0, init=False)

    @property
    def num_choices(self) -> int:
        """Answers of all jobs together."""
        return sum(job.request.num_answers for job in self.jobs)

    @property
    def is_left(self) -> bool:
        """Whether nobody waits any more."""
        return any(job.cancelled.is_set() for job in self.jobs)

    def cancel(self) -> None:
        """Nobody waits any more; harmless after the end."""
        for job in self.jobs:
            job.cancel()

    async def stream(self, *, idle_s: float = KEEP_ALIVE_S) -> AsyncIterator[Part | None]:
        """Pieces of all choices as they come; None after `idle_s` seconds of silence of all jobs.

        Raises:
            Exception: what the engine raised for any of them.
        """
        news: asyncio.Queue[Part | BaseException | None] = asyncio.Queue()
        pumps = [asyncio.create_task(self._pump(number, news)) for number in range(len(self.jobs))]
        left = len(pumps)
        try:
            while left:
                try:
                    async with asyncio.timeout(idle_s):  # unlike `wait_for` it never swallows a cancellation
                        item = await news.get()
                except TimeoutError:
                    yield None
                    continue
                if isinstance(item, BaseException):
                    raise item
                left -= item is None
                if item is not None:
                    yield item
        finally:
            for pump in pumps:
                pump.cancel()

    async def _pump(self, number: int, news: "asyncio.Queue[Part | BaseException | None]") -> None:
        """Hand on the pieces of one job and count its tokens; None says that it ended."""
        job = self.jobs[number]
        first = sum(before.request.num_answers for before in self.jobs[:number])
        self.prompt_tokens += len(job.request.prompt)
        try:
            async for piece in job.stream(idle_s=3600):
                if piece is None:
                    continue
                if piece.finish is not None:
                    self.completion_tokens += piece.completion_tokens
                news.put_nowait(Part(first + piece.answer, piece))
        except asyncio.CancelledError:
            news.put_nowait(StoppingError())  # whoever reads must not wait for more
            raise
        except Exception as error:  # handed to whoever reads the stream
            news.put_nowait(error)
        news.put_nowait(None)

    def usage(self) -> dict[str, int]:
        """Tokens counted, in OpenAI's names; true after the end of the stream."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


def as_api_error(error: BaseException) -> ApiError:
    """What the client is told of an answer that did not come about; the full cause goes to our own log."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, StoppingError):
        return stopping()
    if isinstance(error, UsageError):
        return ApiError(400, error.what, code="context_length_exceeded", param="messages")
    say(f"error: an answer failed: {type(error).__name__}: {error}")
    return ApiError(500, "the model failed while answering; the server's log has the cause", code="engine_failed")


def stopping() -> ApiError:
    """The refusal of a server on its way out."""
    return ApiError(503, "the server is stopping", code="stopping", headers={"Retry-After": "5"})


@contextlib.asynccontextmanager
async def watched(asked: Asked, receive: Receive) -> AsyncIterator[None]:
    """Cancel the jobs when the client leaves, and when the block ends in any way."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        asked.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        asked.cancel()
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
