"""Answers written into kept conversations: alone, or two models side by side and blind; and their probabilities."""

import asyncio
import contextlib
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, Literal

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chatwright.feedback.conversations import Message
from chatwright.feedback.history import History, Kept, Turn
from chatwright.feedback.store import FeedbackStore
from chatwright.foundation.console import say
from chatwright.foundation.errors import ChatwrightError, UsageError
from chatwright.model.generation import GenerationRequest, Piece, Sampling, ScoredToken
from chatwright.serve.asked import Asked, as_api_error, watched
from chatwright.serve.completions import Head, Scores, StreamedCompletion, event_of
from chatwright.serve.engine import ChatEngine, latest_that_fit
from chatwright.serve.errors import ApiError
from chatwright.serve.routes import kept_schemas as shapes
from chatwright.serve.routes.common import ERRORS, EVENT_CONTENT, Order, offered, owner_of, queued
from chatwright.serve.routes.kept import TellingRoute, require_store
from chatwright.serve.settings import ServeSettings
from chatwright.serve.shelf import Offer, Shelf

KEEP_EVERY_S = 1.0  # of an answer that is being written, so much may be lost when the machine dies
MAX_MESSAGES = 512  # the latest ones, of which those that fit are read
SHOWN_ALTERNATIVES = 5
BLIND = "hidden"  # the model's name while nobody may know it
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "First the turns that are written, then chunks as of a chat completion.",
        "content": EVENT_CONTENT,
    }
}


def router(
    shelf: Shelf, store: FeedbackStore | None, settings: ServeSettings, *, clock: Callable[[], float]
) -> APIRouter:
    """The endpoints that ask models on behalf of the page."""
    routes = APIRouter(responses=ERRORS, route_class=TellingRoute)

    @routes.post("/v1/conversations/{id}/answers", response_class=Response, responses=_STREAM)
    async def answer(id: str, body: shapes.NewAnswer, request: Request) -> Response:
        """An answer to a turn as a stream of events, kept as it is written; or two of two models, blind."""
        history = require_store(store).history
        kept = await run_in_threadpool(history.get, owner_of(request), id)
        if kept.turn(body.parent).role != "user":
            raise ApiError(
                400, "an answer can be given to a turn of the user only", code="invalid_value", param="parent"
            )
        wanted = shapes.KeptSettings(**kept.settings)
        offers = _pair(shelf) if body.compare else [_chosen(shelf, body.model or wanted.model)]
        drafts = _drafts(offers, body.parent)
        sampling = wanted.kept_sampling(settings.sampling)
        with contextlib.ExitStack() as held:
            for offer in offers:
                held.enter_context(offer.held())
            return await _begin(history, kept, drafts, request=request, offers=offers, sampling=sampling, clock=clock)

    @routes.get("/v1/conversations/{id}/turns/{turn}/probabilities")
    async def probabilities(id: str, turn: str, request: Request) -> shapes.Probabilities:
        """How likely each token of an answer was, and what else was likely there."""
        opened = require_store(store)
        kept = await run_in_threadpool(opened.history.get, owner_of(request), id)
        tokens = await _scored(shelf, opened, kept.turn(turn), request)
        return shapes.Probabilities.model_validate({"tokens": tokens})

    return routes


def _chosen(shelf: Shelf, name: str | None) -> Offer:
    return shelf.first if name is None else offered(shelf, name)


def _pair(shelf: Shelf) -> list[Offer]:
    """Two models, which of them is left being drawn anew each time."""
    offers = list(shelf)[:2]
    if len(offers) < 2:
        raise ApiError(
            400, "only one model is offered, so there is nothing to compare", code="one_model", param="compare"
        )
    return offers if secrets.randbelow(2) else offers[::-1]


def _drafts(offers: Sequence[Offer], parent: str) -> list[Turn]:
    pair = uuid.uuid4().hex if len(offers) > 1 else None
    sides: tuple[Literal["left", "right"], ...] = ("left", "right")
    return [
        Turn(
            id=uuid.uuid4().hex,
            parent=parent,
            role="assistant",
            content="",
            answer=f"chatcmpl-{uuid.uuid4().hex}",
            model=offer.model.name,
            pair=pair,
            side=side if pair else None,
        )
        for offer, side in zip(offers, sides, strict=False)
    ]


async def _begin(
    history: History,
    kept: Kept,
    drafts: Sequence[Turn],
    *,
    request: Request,
    offers: Sequence[Offer],
    sampling: Sampling,
    clock: Callable[[], float],
) -> "KeptAnswer":
    """Keep the turns, then ask; where nobody can be asked, no turn is left."""
    parent = drafts[0].parent
    assert parent is not None, "an answer has a question"  # noqa: S101 - checked where the question was found
    whole = kept.messages(parent)
    orders, omitted = [], 0
    for draft, offer in zip(drafts, offers, strict=True):
        fitting = await run_in_threadpool(_fitting, offer.model, whole, sampling)
        omitted = max(omitted, len(whole) - len(fitting))
        make = partial(offer.model.chat_request, fitting, sampling)
        orders.append(Order(offer=offer, answer_id=draft.answer or "", make=make, messages=fitting, is_turn=True))
    await run_in_threadpool(history.add, owner_of(request), kept.id, drafts)
    try:
        asked = await queued(orders, request=request, param="parent")
    except BaseException:
        await run_in_threadpool(history.take_back, [draft.id for draft in drafts], leaf=parent)
        raise
    is_blind = len(drafts) > 1
    head = Head(
        id=drafts[0].answer or "",
        created=int(clock()),
        model=BLIND if is_blind else offers[0].model.name,
        fingerprint="fp_hidden" if is_blind else f"fp_{offers[0].model.digest[:12]}",
    )
    return KeptAnswer(head, asked, drafts, history, omitted=omitted)


def _fitting(model: ChatEngine, messages: Sequence[Message], sampling: Sampling) -> list[Message]:
    system = [message for message in messages[:1] if message.role == "system"]
    latest = [*system, *messages[len(system) :][-MAX_MESSAGES:]]
    try:
        return latest_that_fit(model, latest, reserve=min(sampling.max_tokens, model.context_length // 4))
    except UsageError as error:
        raise ApiError(400, error.what, code="invalid_value", param="parent") from error


class KeptAnswer(StreamedCompletion):
    """A stream whose text is kept as it goes, so that a machine that dies loses a second of it at most.

    Args:
        head: what every chunk repeats.
        asked: the answers on their way.
        drafts: the turns they are written into, one for each choice.
        history: where these are kept.
        omitted: turns at the beginning of the conversation that no longer fit.
    """

    def __init__(self, head: Head, asked: Asked, drafts: Sequence[Turn], history: History, *, omitted: int):
        super().__init__(head, asked, with_usage=True, with_logprobs=False)
        self._drafts = drafts
        self._history = history
        self._omitted = omitted
        self._texts: list[list[str]] = [[] for _ in drafts]
        self._ended: set[int] = set()
        self._kept_at = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; however this ends, every turn gets an end."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.shield(run_in_threadpool(self._close))

    async def events(self) -> AsyncIterator[bytes]:
        """Which turns are written, then the chunks."""
        turns = [
            {"index": index, "id": draft.id, "answer_id": draft.answer, "pair": draft.pair, "side": draft.side}
            for index, draft in enumerate(self._drafts)
        ]
        yield event_of({"object": "conversation.answer", "turns": turns, "omitted": self._omitted})
        async for block in super().events():
            yield block
            if time.monotonic() - self._kept_at >= KEEP_EVERY_S:
                await run_in_threadpool(self._keep_what_is_there)
                self._kept_at = time.monotonic()

    def _of_piece(self, index: int, piece: Piece) -> list[bytes]:
        self._texts[index].append(piece.text)
        if piece.finish is not None:
            self._ended.add(index)
        return super()._of_piece(index, piece)

    def _keep_what_is_there(self) -> None:
        for index, draft in enumerate(self._drafts):
            if index not in self._ended and self._texts[index]:
                self._try(partial(self._history.write, draft.id, "".join(self._texts[index])))

    def _close(self) -> None:
        """End what did not end by itself: the worker has kept what did."""
        finish = "failed" if self.failure is not None else "cancelled"
        for index, draft in enumerate(self._drafts):
            text = "".join(self._texts[index])
            if index in self._ended or text:
                self._try(partial(self._history.write, draft.id, text, finish=finish))
            else:
                self._try(partial(self._history.take_back, [draft.id], leaf=draft.parent))

    def _try(self, act: Callable[[], None]) -> None:
        """An answer is not taken from the person who reads it because it cannot be kept."""
        try:
            act()
        except ChatwrightError as error:
            say(f"warning: a turn could not be kept: {error}")


async def _scored(shelf: Shelf, store: FeedbackStore, turn: Turn, request: Request) -> list[dict[str, Any]]:
    """The tokens of an answer, read again by the model that wrote it."""
    recorded = await run_in_threadpool(store.answer, turn.answer) if turn.answer else None
    if recorded is None:
        raise ApiError(404, "this turn was not written by a model", code="answer_not_found")
    offer = offered(shelf, recorded.model)
    if offer.model.digest != recorded.model_digest:
        raise ApiError(404, "the model was changed since it wrote this", code="model_not_found")
    messages = [Message(*message) for message in recorded.messages]
    length, make = await run_in_threadpool(_rereading, offer.model, messages, recorded.answer)
    if not length:
        return []
    order = Order(offer=offer, answer_id=f"probe-{uuid.uuid4().hex}", make=make)
    asked = await queued([order], request=request, param="turn")
    tokens: list[ScoredToken] = []
    async with watched(asked, request.receive):
        try:
            async for part in asked.stream():
                tokens += part.piece.tokens if part is not None else ()
        except Exception as error:
            raise as_api_error(error) from error
    scores: list[dict[str, Any]] = Scores("chat").of(tuple(tokens[-length:]))["content"]
    return scores


def _rereading(
    model: ChatEngine, messages: Sequence[Message], answer: str
) -> tuple[int, Callable[[], GenerationRequest]]:
    """How many tokens an answer has, and a request that reads it again without writing anything.

    It follows its prompt as a text of its own: in the prompt of a later turn some forms write an answer otherwise.
    """
    begun = model.chat_request(messages, Sampling())
    alone = model.text_request(answer, Sampling())
    ids = alone.prompt[alone.unshown :]
    sampling = Sampling(max_tokens=0, top_logprobs=SHOWN_ALTERNATIVES)
    return len(ids), partial(model.text_request, [*begun.prompt, *ids], sampling, echo=True)
