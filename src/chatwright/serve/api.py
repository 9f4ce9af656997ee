"""The HTTP application: the endpoints together, behind the guard, with one shape of errors and a true document.

Not for binding ports (`server`) nor for making answers (`worker`); each endpoint stands in `routes`.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from chatwright.feedback.store import FeedbackStore
from chatwright.foundation.console import say
from chatwright.serve.engine import ChatEngine
from chatwright.serve.errors import tell_in_one_shape
from chatwright.serve.guard import Guard
from chatwright.serve.metrics import Metrics
from chatwright.serve.routes import answering, feedback, information, kept, page, people, writing
from chatwright.serve.settings import ServeSettings
from chatwright.serve.shelf import Shelf

_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS", "PUT"})


def create_app(
    models: ChatEngine | Sequence[ChatEngine],
    store: FeedbackStore | None,
    settings: ServeSettings,
    *,
    clock: Callable[[], float] = time.time,
) -> "GuardedApp":
    """The whole application.

    Args:
        models: what answers; the first one where nobody says which, two for comparisons.
        store: where answers, ratings and conversations are kept; None keeps none and refuses them.
        settings: bounds and access.
        clock: seconds since 1970.
    """
    several = models if isinstance(models, Sequence) else [models]
    shelf = Shelf(several, store=store, max_waiting=settings.max_waiting, clock=clock)
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if store is not None and (broken := await run_in_threadpool(store.history.mark_broken)):
            say(f"{broken} answers were being written when the server last ended; they are marked as incomplete")
        shelf.start()
        try:
            yield
        finally:
            await run_in_threadpool(shelf.stop)

    app = GuardedApp(shelf, metrics, settings, lifespan=lifespan)
    app.include_router(information.router(shelf, settings, metrics, keeps_feedback=store is not None))
    app.include_router(answering.router(shelf, settings, clock=clock))
    app.include_router(feedback.router(store, settings))
    app.include_router(kept.router(store))
    app.include_router(people.router(store, settings))
    app.include_router(writing.router(shelf, store, settings, clock=clock))
    app.include_router(page.router())
    tell_in_one_shape(app)
    return app


class GuardedApp(FastAPI):
    """FastAPI with the guard outside of everything, so that even its own last error passes through it.

    Args:
        shelf: the models, so that whoever runs the application can cut their answers or replace one.
        metrics: told of every request.
        settings: who may come in.
        lifespan: what surrounds the serving.
    """

    def __init__(self, shelf: Shelf, metrics: Metrics, settings: ServeSettings, *, lifespan: Lifespan["GuardedApp"]):
        super().__init__(
            title="chatwright", version="1", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
        )
        self.shelf = shelf
        self._metrics = metrics
        self._settings = settings

    def build_middleware_stack(self) -> ASGIApp:
        """Everything that FastAPI builds, behind the guard, counted."""
        return _Counted(Guard(super().build_middleware_stack(), settings=self._settings), self._metrics)

    def openapi(self) -> dict[str, Any]:
        """The document, without the status that FastAPI adds everywhere and this server never answers."""
        document = super().openapi()
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document.get("components", {}).get("schemas", {}).pop(name, None)
        return document


class _Counted:
    """Counts requests by endpoint, never by what a stranger wrote into a path."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._metrics.open_requests += 1
        try:
            await self._app(scope, receive, watched)
        finally:
            self._metrics.open_requests -= 1
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.count(route, method=method, status=status, seconds=time.monotonic() - began)
