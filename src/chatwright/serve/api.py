"""The HTTP application: OpenAI's chat endpoints, ratings, health and the page, behind the guard.

Not for binding ports (`server`) nor for making answers (`worker`).
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Lifespan

from chatwright.feedback.store import FeedbackStore, Rating, RatingConflictError, StoreError, UnknownAnswerError
from chatwright.foundation.errors import ChatwrightError
from chatwright.serve import schemas
from chatwright.serve.completions import Head, StreamedCompletion, whole_completion
from chatwright.serve.engine import ChatEngine
from chatwright.serve.errors import ApiError
from chatwright.serve.guard import Guard
from chatwright.serve.settings import ServeSettings
from chatwright.serve.worker import EngineWorker, Job, LineFullError, StoppingError

STATIC_DIR = Path(__file__).with_name("static")
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_REFUSALS = (400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 431, 500, 503)
ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": schemas.ErrorBody} for status in _REFUSALS}


def create_app(
    model: ChatEngine, store: FeedbackStore | None, settings: ServeSettings, *, clock: Callable[[], float] = time.time
) -> "GuardedApp":
    """The whole application for one model.

    Args:
        model: what answers.
        store: where answers and ratings are kept; None keeps none and refuses ratings.
        settings: bounds and access.
        clock: seconds since 1970.
    """
    worker = EngineWorker(model, store=store, max_waiting=settings.max_waiting)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        try:
            yield
        finally:
            await run_in_threadpool(worker.stop)

    app = GuardedApp(worker, settings, lifespan=lifespan)
    app.include_router(_information(model, settings, created=int(clock()), keeps_feedback=store is not None))
    app.include_router(_chat(model, worker, settings, clock=clock))
    app.include_router(_feedback(store))
    app.include_router(_page())
    _tell_errors_in_one_shape(app)
    return app


class GuardedApp(FastAPI):
    """FastAPI with the guard outside of everything, so that even its own last error passes through it.

    Args:
        worker: what makes the answers, so that whoever runs the application can cut them.
        settings: who may come in.
        lifespan: what surrounds the serving.
    """

    def __init__(self, worker: EngineWorker, settings: ServeSettings, *, lifespan: Lifespan["GuardedApp"]):
        super().__init__(
            title="chatwright", version="1", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
        )
        self.worker = worker
        self._settings = settings

    def build_middleware_stack(self) -> ASGIApp:
        """Everything that FastAPI builds, behind the guard."""
        return Guard(super().build_middleware_stack(), settings=self._settings)


def _information(model: ChatEngine, settings: ServeSettings, *, created: int, keeps_feedback: bool) -> APIRouter:
    router = APIRouter(responses=ERRORS)
    card = schemas.ModelCard(id=model.name, created=created)

    @router.get("/health")
    async def health() -> schemas.Health:
        """Whether the server answers. Needs no token."""
        return schemas.Health()

    @router.get("/v1/models")
    async def models() -> schemas.ModelList:
        """The models that can be asked."""
        return schemas.ModelList(data=[card])

    @router.get("/v1/models/{name:path}")
    async def one_model(name: str) -> schemas.ModelCard:
        """One model by its name."""
        _require_model(name, model)
        return card

    @router.get("/v1/page-settings")
    async def page_settings() -> schemas.PageSettings:
        """What the page shows before anyone said anything."""
        return schemas.PageSettings(
            title=settings.page.title,
            greeting=settings.page.greeting,
            model=model.name,
            context_length=model.context_length,
            starters=list(settings.page.starters),
            keeps_feedback=keeps_feedback,
        )

    return router


def _chat(model: ChatEngine, worker: EngineWorker, settings: ServeSettings, *, clock: Callable[[], float]) -> APIRouter:
    router = APIRouter(responses=ERRORS, route_class=_StrictJsonRoute)

    @router.post("/v1/chat/completions", response_model=None)
    async def complete(body: schemas.ChatRequest, request: Request) -> Response:
        """Answer a conversation, whole or as a stream of events."""
        _require_model(body.model, model)
        head = Head(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(clock()),
            model=model.name,
            fingerprint=f"fp_{model.digest[:12]}",
        )
        job = await _queued(head.id, body, model, worker, settings)
        if body.stream:
            options = body.stream_options
            return StreamedCompletion(head, job, with_usage=bool(options and options.include_usage))
        return JSONResponse(await whole_completion(head, job, request.receive))

    return router


async def _queued(
    answer_id: str, body: schemas.ChatRequest, model: ChatEngine, worker: EngineWorker, settings: ServeSettings
) -> Job:
    """Check that the conversation fits and put it in the line, refusing early what cannot be answered."""
    turns = body.turns()
    try:
        worker.require_room()
        request = await run_in_threadpool(model.chat_request, turns, body.sampling(settings.sampling))
        num_tokens = len(request.prompt)
        if num_tokens >= model.context_length:
            raise ApiError(
                400,
                f"the conversation has {num_tokens} tokens, and with an answer at most {model.context_length} fit",
                code="context_length_exceeded",
                param="messages",
            )
        job = Job(answer_id=answer_id, request=request, messages=turns, loop=asyncio.get_running_loop())
        worker.submit(job)
    except ChatwrightError as error:
        raise ApiError(400, error.what, code="invalid_value", param="messages") from error
    except LineFullError as error:
        again = {"Retry-After": str(error.retry_after_s)}
        raise ApiError(
            429, "too many answers are waiting; try again shortly", code="rate_limit_exceeded", headers=again
        ) from None
    except StoppingError:
        raise ApiError(503, "the server is stopping", code="stopping", headers={"Retry-After": "5"}) from None
    return job


def _require_model(name: str, model: ChatEngine) -> None:
    if name != model.name:
        raise ApiError(404, f"there is no model `{name}` here", code="model_not_found", param="model")


def _feedback(store: FeedbackStore | None) -> APIRouter:
    router = APIRouter(responses=ERRORS, route_class=_StrictJsonRoute)

    @router.post("/v1/feedback")
    def rate(body: schemas.FeedbackRequest) -> schemas.FeedbackReceipt:
        """Store what a person thought of an answer."""
        if store is None:
            raise ApiError(503, "this server keeps no feedback", code="no_store")
        rating = Rating(
            answer_id=body.answer_id,
            thumb=1 if body.thumb == "up" else -1,
            reason=body.reason,
            better_answer=body.better_answer,
            key=body.key,
        )
        try:
            stored = store.add_rating(rating)
        except UnknownAnswerError as error:
            raise ApiError(404, error.what, code="answer_not_found", param="answer_id") from None
        except RatingConflictError as error:
            raise ApiError(409, error.what, code="key_reused", param="key") from None
        except StoreError as error:
            raise ApiError(503, "the rating could not be stored now", code="store_unavailable") from error
        return schemas.FeedbackReceipt(
            id=stored.id, answer_id=body.answer_id, thumb=body.thumb, created=int(stored.created)
        )

    return router


def _page() -> APIRouter:
    """The page's files from a closed table: no path of a request ever names a file."""
    router = APIRouter(include_in_schema=False)
    for file in sorted(STATIC_DIR.iterdir()):
        if file.suffix in MEDIA_TYPES:
            path = "/" if file.name == "index.html" else f"/static/{file.name}"
            handler = _static_file(file.read_bytes(), MEDIA_TYPES[file.suffix])
            router.add_api_route(path, handler, methods=["GET", "HEAD"])
    return router


def _static_file(content: bytes, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def static_file() -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return static_file


class _StrictRequest(Request):
    """JSON by the standard only: no repeated keys, no NaN, no depth that the parser cannot follow."""

    async def json(self) -> Any:
        return _parse(await self.body())


class _StrictJsonRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
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


def _tell_errors_in_one_shape(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return _invalid(error).response()

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        return ApiError(error.status_code, str(error.detail), code=code, headers=error.headers).response()

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:  # noqa: ARG001 - uvicorn logs it with its traceback
        return ApiError(500, "the server failed; its log has the cause", code="internal_error").response()


def _invalid(error: RequestValidationError) -> ApiError:
    """All problems of a request in one sentence each; the first one's field is `param`."""
    sentences: list[str] = []
    for detail in error.errors()[:10]:
        path = ".".join(str(step) for step in detail["loc"] if step != "body")
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            message = "this field is not known here"
        sentences.append(f"`{path or 'body'}`: {message}")
    first = next((str(step) for step in error.errors()[0]["loc"] if step != "body"), None)
    unknown = error.errors()[0]["type"] == "extra_forbidden"
    return ApiError(
        400,
        _sound("; ".join(sentences)),
        code="unknown_parameter" if unknown else "invalid_value",
        param=first and _sound(first),
    )


def _sound(text: str) -> str:
    """Text from a request as it may be sent back: lone surrogates replaced, cut to a fair length."""
    return text.encode(errors="replace").decode()[:1000]
