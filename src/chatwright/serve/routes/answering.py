"""`/v1/chat/completions` and `/v1/completions`: models asked in OpenAI's words."""

import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from chatwright.serve import replies, schemas
from chatwright.serve.asked import Asked
from chatwright.serve.completions import Head, StreamedCompletion, whole_completion
from chatwright.serve.errors import ApiError
from chatwright.serve.routes.common import ERRORS, EVENT_CONTENT, Order, StrictJsonRoute, offered, queued
from chatwright.serve.settings import ServeSettings
from chatwright.serve.shelf import Offer, Shelf

MAX_CHOICES = 64  # of one request: prompts times answers


def _documented(model: type[Any]) -> dict[int | str, dict[str, Any]]:
    """The two ways an answer comes, for the OpenAPI document."""
    return {200: {"model": model, "description": "The answer, whole or as events.", "content": EVENT_CONTENT}}


def router(shelf: Shelf, settings: ServeSettings, *, clock: Callable[[], float]) -> APIRouter:
    """The two endpoints."""
    routes = APIRouter(responses=ERRORS, route_class=StrictJsonRoute)

    @routes.post("/v1/chat/completions", response_model=None, responses=_documented(replies.ChatCompletion))
    async def complete_chat(body: schemas.ChatRequest, request: Request) -> Response:
        """Answer a conversation, whole or as a stream of events."""
        offer = offered(shelf, body.model)
        head = _head("chatcmpl", offer, clock)
        turns, sampling = body.turns(), body.chat_sampling(settings.sampling)
        make = partial(offer.model.chat_request, turns, sampling, num_answers=body.n or 1)
        order = Order(offer=offer, answer_id=head.id, make=make, messages=turns)
        asked = await queued([order], request=request, param="messages")
        return await _answered(head, asked, body, request, with_logprobs=bool(body.logprobs))

    @routes.post("/v1/completions", response_model=None, responses=_documented(replies.TextCompletion))
    async def complete_text(body: schemas.CompletionRequest, request: Request) -> Response:
        """Continue plain texts, whole or as a stream of events."""
        offer = offered(shelf, body.model)
        prompts, num_answers = body.prompts(), body.n or 1
        if len(prompts) * num_answers > MAX_CHOICES:
            raise ApiError(400, f"at most {MAX_CHOICES} choices may be asked for", code="invalid_value", param="n")
        if body.max_tokens == 0 and not body.echo:
            message = "`max_tokens` must be 1 or more, unless the prompt is echoed"
            raise ApiError(400, message, code="invalid_value", param="max_tokens")
        head = _head("cmpl", offer, clock)
        sampling = body.text_sampling(settings.sampling)
        make = partial(offer.model.text_request, num_answers=num_answers, echo=bool(body.echo), sampling=sampling)
        orders = [Order(offer=offer, answer_id=head.id, make=partial(make, prompt)) for prompt in prompts]
        asked = await queued(orders, request=request, param="prompt")
        return await _answered(head, asked, body, request, with_logprobs=body.logprobs is not None)

    return routes


def _head(prefix: str, offer: Offer, clock: Callable[[], float]) -> Head:
    return Head(
        id=f"{prefix}-{uuid.uuid4().hex}",
        created=int(clock()),
        model=offer.model.name,
        fingerprint=f"fp_{offer.model.digest[:12]}",
        shape="chat" if prefix == "chatcmpl" else "text",
    )


async def _answered(
    head: Head, asked: Asked, body: schemas.Books, request: Request, *, with_logprobs: bool
) -> Response:
    if body.stream:
        return StreamedCompletion(head, asked, with_usage=body.with_usage, with_logprobs=with_logprobs)
    return JSONResponse(await whole_completion(head, asked, request.receive, with_logprobs=with_logprobs))
