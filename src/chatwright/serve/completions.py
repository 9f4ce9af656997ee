"""Answers in OpenAI's words: whole completions, the chunks of a stream, and the response that carries them.

Two shapes of the same thing: chat completions, and the older text completions. Whoever asked is watched: when they
are gone, their answer is cancelled, streaming or not.
"""

import asyncio
import codecs
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chatwright.model.generation import Likely, Piece, ScoredToken
from chatwright.serve.asked import Asked, as_api_error, stopping, watched

SLOW_READER_S = 20.0  # how long a reader may take nothing
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What all parts of one completion have in common."""

    id: str
    created: int
    model: str
    fingerprint: str
    shape: Literal["chat", "text"] = "chat"

    def fields(self, *, is_chunk: bool) -> dict[str, Any]:
        """The first fields of a completion or a chunk."""
        kind = "text_completion" if self.shape == "text" else "chat.completion" + ".chunk" * is_chunk
        fields = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**fields, "system_fingerprint": self.fingerprint}


async def whole_completion(head: Head, asked: Asked, receive: Receive, *, with_logprobs: bool) -> dict[str, Any]:
    """Wait for all choices, unless their client leaves first.

    Raises:
        ApiError: they did not come about, or were cut by the end of the server.
    """
    drafts = [_Draft(head.shape) for _ in range(asked.num_choices)]
    async with watched(asked, receive):
        try:
            async for part in asked.stream():
                if part is not None:
                    drafts[part.choice].take(part.piece)
        except Exception as error:
            raise as_api_error(error) from error
    if any(draft.finish in (None, "cancelled") for draft in drafts):
        raise stopping()
    choices = [draft.choice(index, with_logprobs=with_logprobs) for index, draft in enumerate(drafts)]
    return {**head.fields(is_chunk=False), "choices": choices, "usage": asked.usage()}


@dataclass
class _Draft:
    """One choice as it grows."""

    shape: Literal["chat", "text"]
    texts: list[str] = field(default_factory=list)
    tokens: list[ScoredToken] = field(default_factory=list)
    finish: str | None = None

    def take(self, piece: Piece) -> None:
        self.texts.append(piece.text)
        self.tokens.extend(piece.tokens)
        self.finish = piece.finish

    def choice(self, index: int, *, with_logprobs: bool) -> dict[str, Any]:
        text = "".join(self.texts)
        logprobs = Scores(self.shape).of(tuple(self.tokens)) if with_logprobs else None
        common = {"index": index, "logprobs": logprobs, "finish_reason": self.finish}
        if self.shape == "text":
            return {**common, "text": text}
        return {**common, "message": {"role": "assistant", "content": text, "refusal": None}}


class Scores:
    """Log-probabilities in the words of either shape; of a choice's pieces one after another.

    Args:
        shape: whose words.
    """

    def __init__(self, shape: Literal["chat", "text"]):
        self._shape = shape
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def of(self, tokens: tuple[ScoredToken, ...]) -> dict[str, Any]:
        """The object that stands under `logprobs`."""
        if self._shape == "chat":
            return {"content": [_chat_token(token) for token in tokens], "refusal": None}
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(token.token.bytes))
        return {
            "tokens": [_name(token.token) for token in tokens],
            "token_logprobs": [None if token.is_first else token.token.logprob for token in tokens],
            "top_logprobs": [None if token.is_first else _top(token) for token in tokens],
            "text_offset": offsets,
        }


def _chat_token(token: ScoredToken) -> dict[str, Any]:
    return {**_described(token.token), "top_logprobs": [_described(likely) for likely in token.top]}


def _described(likely: Likely) -> dict[str, Any]:
    return {"token": likely.text, "logprob": likely.logprob, "bytes": list(likely.bytes)}


def _top(token: ScoredToken) -> dict[str, float]:
    """The likeliest tokens by name, the chosen one always among them, as OpenAI's API has it."""
    return {_name(likely): likely.logprob for likely in (*token.top, token.token)}


def _name(likely: Likely) -> str:
    """A token's text; of a part of a character its bytes, so that two parts never have one name."""
    if "\ufffd" not in likely.text:
        return likely.text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in likely.bytes)


class EventStream(Response):
    """Server-sent events that end early when their reader leaves or takes nothing."""

    media_type = "text/event-stream"

    def __init__(self, asked: Asked):
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self.asked = asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send the events; whatever ends this early cancels the answer."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with watched(self.asked, receive):
            try:
                async for block in self.events():
                    async with asyncio.timeout(SLOW_READER_S):
                        await send({"type": "http.response.body", "body": block, "more_body": True})
            except (OSError, TimeoutError):
                return  # the reader is gone or takes nothing: the connection is closed unfinished
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def events(self) -> AsyncIterator[bytes]:
        """The blocks to send."""
        raise NotImplementedError


class StreamedCompletion(EventStream):
    """The role first, then text, the reason of each end, usage where asked for, and `[DONE]`.

    Args:
        head: what every chunk repeats.
        asked: the answers on their way.
        with_usage: whether a last chunk counts the tokens.
        with_logprobs: whether chunks carry the log-probabilities of their tokens.
    """

    def __init__(self, head: Head, asked: Asked, *, with_usage: bool, with_logprobs: bool):
        super().__init__(asked)
        self.failure: BaseException | None = None  # what ended it early
        self._head = head
        self._with_usage = with_usage
        self._scores = [Scores(head.shape) for _ in range(asked.num_choices)] if with_logprobs else None

    async def events(self) -> AsyncIterator[bytes]:
        """Chunks in OpenAI's order."""
        if self._head.shape == "chat":
            for index in range(self.asked.num_choices):
                yield self._chunk(index, {"role": "assistant", "content": "", "refusal": None})
        try:
            async for part in self.asked.stream():
                if part is None:
                    yield b": waiting\n\n"
                    continue
                if part.piece.finish == "cancelled":
                    if self.asked.is_left:
                        return  # nobody reads what would be told
                    raise stopping()
                for event in self._of_piece(part.choice, part.piece):
                    yield event
        except Exception as error:  # the status is sent already: the stream itself must tell
            self.failure = error
            yield event_of(as_api_error(error).body())
            return
        if self._with_usage:
            yield event_of({**self._head.fields(is_chunk=True), "choices": [], "usage": self.asked.usage()})
        yield DONE

    def _of_piece(self, index: int, piece: Piece) -> list[bytes]:
        events = []
        scores = self._scores[index].of(piece.tokens) if self._scores and piece.tokens else None
        is_chat = self._head.shape == "chat"
        if piece.text or scores:
            delta = {"content": piece.text} if is_chat else {"text": piece.text}
            events.append(self._chunk(index, delta, scores=scores))
        if piece.finish is not None:
            events.append(self._chunk(index, {} if is_chat else {"text": ""}, finish=piece.finish))
        return events

    def _chunk(
        self, index: int, delta: dict[str, Any], *, finish: str | None = None, scores: dict[str, Any] | None = None
    ) -> bytes:
        content = {"delta": delta} if self._head.shape == "chat" else delta
        choice = {"index": index, **content, "logprobs": scores, "finish_reason": finish}
        chunk = {**self._head.fields(is_chunk=True), "choices": [choice]}
        return event_of({**chunk, "usage": None} if self._with_usage else chunk)


def event_of(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
