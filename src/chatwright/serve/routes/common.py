"""What all endpoints share: strict JSON, whose request it is, the refusals they document, and the way into a line."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from chatwright.feedback.conversations import Message
from chatwright.foundation.errors import ChatwrightError
from chatwright.model.generation import GenerationRequest
from chatwright.serve import replies
from chatwright.serve.asked import Asked, stopping
from chatwright.serve.errors import ApiError
from chatwright.serve.shelf import Offer, Shelf
from chatwright.serve.worker import Job, LineFullError, StoppingError

_REFUSALS = (400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 431, 500, 503)
ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": replies.ErrorBody} for status in _REFUSALS}

# One event of a stream, for the OpenAPI document (`itemSchema`, OpenAPI 3.2); `schema` would be read as one event too.
EVENT_CONTENT: dict[str, Any] = {
    "text/event-stream": {
        "itemSchema": {
            "type": "object",
            "description": "One event: JSON, and `[DONE]` as the last one.",
            "properties": {"data": {"type": "string"}},
            "required": ["data"],
        }
    }
}


def owner_of(request: Request) -> str:
    """Whose request this is, by the token it came with."""
    return str(request.scope.get("chatwright.owner", ""))


def client_of(request: Request) -> str:
    """Who takes turns in the line with whom: each token at each address."""
    host = request.client.host if request.client else ""
    return f"{owner_of(request)}@{host}"


def offered(shelf: Shelf, name: str) -> Offer:
    """A model by its name.

    Raises:
        ApiError: there is none.
    """
    offer = shelf.get(name)
    if offer is None:
        raise ApiError(404, f"there is no model `{_shown(name)}` here", code="model_not_found", param="model")
    return offer


def _shown(name: str) -> str:
    return name.encode(errors="replace").decode()[:256]


@dataclass(frozen=True, kw_only=True)
class Order:
    """A job to be: which model shall write what, and under which id it is kept."""

    offer: Offer
    answer_id: str
    make: Callable[[], GenerationRequest]  # heavy enough for the thread pool
    messages: Sequence[Message] | None = None
    is_turn: bool = False  # the answer is kept as long as its turn in a kept conversation is


async def queued(orders: Sequence[Order], *, request: Request, param: str) -> Asked:
    """Check that the prompts fit and put the jobs into their lines; all of them, or none.

    Args:
        orders: one for each job.
        request: whose turn they take, and whose answers they are.
        param: the field of the request that is at fault where a prompt cannot be read.

    Raises:
        ApiError: what cannot be answered is refused before anything is computed for it.
    """
    with contextlib.ExitStack() as held:
        for order in orders:
            held.enter_context(order.offer.held())
        return await _queued(orders, asking=request, param=param)


async def _queued(orders: Sequence[Order], *, asking: Request, param: str) -> Asked:
    jobs: list[Job] = []
    try:
        for order in orders:
            order.offer.worker.require_room()
        for order in orders:
            jobs.append(await _job(order, asking=asking, param=param))
        for order, job in zip(orders, jobs, strict=True):
            order.offer.worker.submit(job)
    except BaseException as error:
        for job in jobs:
            job.cancel()
        raise _as_refusal(error, param=param) from error
    return Asked(jobs=jobs)


async def _job(order: Order, *, asking: Request, param: str) -> Job:
    request = await run_in_threadpool(order.make)
    limit = order.offer.model.context_length
    needed = len(request.prompt) + (request.sampling.max_tokens > 0)
    if needed > limit:
        raise ApiError(
            400,
            f"the prompt has {len(request.prompt)} tokens, and with an answer at most {limit} fit",
            code="context_length_exceeded",
            param=param,
        )
    loop = asyncio.get_running_loop()
    return Job(
        answer_id=order.answer_id,
        request=request,
        loop=loop,
        messages=order.messages,
        client=client_of(asking),
        owner=owner_of(asking),
        is_turn=order.is_turn,
    )


def _as_refusal(error: BaseException, *, param: str) -> BaseException:
    if isinstance(error, LineFullError):
        again = {"Retry-After": str(error.retry_after_s)}
        message = "too many answers are waiting; try again shortly"
        return ApiError(429, message, code="rate_limit_exceeded", headers=again)
    if isinstance(error, StoppingError):
        return stopping()
    if isinstance(error, ChatwrightError):
        return ApiError(400, error.what, code="invalid_value", param=param)
    return error


class _StrictRequest(Request):
    """JSON by the standard only: no repeated keys, no NaN, no depth that the parser cannot follow."""

    async def json(self) -> Any:
        return _parse(await self.body())


class StrictJsonRoute(APIRoute):
    """A route whose body is parsed strictly."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """The handler, given requests with a strict parser."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return handle


def _parse(body: bytes) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            raise ValueError("a key stands twice in one object")
        return result

    def refuse(constant: str) -> None:
        raise ValueError(f"`{constant}` is not JSON")

    try:
        return json.loads(body, object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply", code="invalid_json") from None
    except ValueError as error:
        raise ApiError(400, f"the body is not sound JSON: {error}", code="invalid_json") from None
