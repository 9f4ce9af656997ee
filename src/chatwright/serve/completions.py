"""Answers in OpenAI's words: the whole completion, the chunks of a stream, and the response that carries them.

Whoever asked is watched: when they are gone, their answer is cancelled, streaming or not.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chatwright.foundation.console import say
from chatwright.foundation.errors import UsageError
from chatwright.model.generation import Piece
from chatwright.serve.errors import ApiError
from chatwright.serve.worker import Job, StoppingError

KEEP_ALIVE_S = 15.0  # silence after which a stream sends a comment, so that proxies leave it open
SLOW_READER_S = 60.0  # how long a reader may take nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What all parts of one completion have in common."""

    id: str
    created: int
    model: str
    fingerprint: str

    def fields(self, kind: str) -> dict[str, Any]:
        """The first fields of a completion or a chunk."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def usage(last: Piece) -> dict[str, int]:
    """Tokens counted, in OpenAI's names."""
    prompt, completion = last.prompt_tokens, last.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def as_api_error(error: BaseException) -> ApiError:
    """What the client is told of an answer that did not come about; the full cause goes to our own log."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, StoppingError):
        return ApiError(503, "the server is stopping", code="stopping", headers={"Retry-After": "5"})
    if isinstance(error, UsageError):
        return ApiError(400, error.what, code="context_length_exceeded", param="messages")
    say(f"error: an answer failed: {type(error).__name__}: {error}")
    return ApiError(500, "the model failed while answering; the server's log has the cause", code="engine_failed")


async def whole_completion(head: Head, job: Job, receive: Receive) -> dict[str, Any]:
    """Wait for the whole answer, unless its client leaves first.

    Raises:
        ApiError: the answer did not come about, or was cut by the end of the server.
    """
    text: list[str] = []
    last: Piece | None = None
    async with _watched(job, receive):
        try:
            async for piece in job.stream(idle_s=KEEP_ALIVE_S):
                if piece is not None:
                    text.append(piece.text)
                    last = piece
        except Exception as error:
            raise as_api_error(error) from error
    if last is None or last.finish == "cancelled":
        raise as_api_error(StoppingError())
    message = {"role": "assistant", "content": "".join(text), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": last.finish}
    return {**head.fields("chat.completion"), "choices": [choice], "usage": usage(last)}


class StreamedCompletion(Response):
    """Server-sent events: the role first, then text, the reason of the end, usage where asked for, and `[DONE]`.

    Args:
        head: what every chunk repeats.
        job: the answer on its way.
        with_usage: whether a last chunk counts the tokens.
    """

    media_type = "text/event-stream"

    def __init__(self, head: Head, job: Job, *, with_usage: bool):
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._head = head
        self._job = job
        self._with_usage = with_usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send the events; whatever ends this early cancels the answer."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with _watched(self._job, receive):
            try:
                async for event in self._events():
                    async with asyncio.timeout(SLOW_READER_S):
                        await send({"type": "http.response.body", "body": event, "more_body": True})
            except (OSError, TimeoutError):
                return  # the reader is gone or takes nothing: the connection is closed unfinished
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncIterator[bytes]:
        yield self._chunk({"role": "assistant", "content": "", "refusal": None})
        try:
            async for piece in self._job.stream(idle_s=KEEP_ALIVE_S):
                if piece is None:
                    yield b": waiting\n\n"
                    continue
                if piece.text:
                    yield self._chunk({"content": piece.text})
                if piece.finish is not None:
                    for event in self._end(piece):
                        yield event
        except Exception as error:  # the status is sent already: the stream itself must tell
            yield _event(as_api_error(error).body())

    def _end(self, last: Piece) -> list[bytes]:
        if last.finish == "cancelled":
            return [_event(as_api_error(StoppingError()).body())]
        events = [self._chunk({}, finish=last.finish)]
        if self._with_usage:
            fields = self._head.fields("chat.completion.chunk")
            events.append(_event({**fields, "choices": [], "usage": usage(last)}))
        return [*events, b"data: [DONE]\n\n"]

    def _chunk(self, delta: dict[str, Any], *, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk = {**self._head.fields("chat.completion.chunk"), "choices": [choice]}
        return _event({**chunk, "usage": None} if self._with_usage else chunk)


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


@contextlib.asynccontextmanager
async def _watched(job: Job, receive: Receive) -> AsyncIterator[None]:
    """Cancel the job when the client leaves, and when the block ends in any way."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        job.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        job.cancel()
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
