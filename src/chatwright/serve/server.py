"""A server for people and programs: binds a port, says where it is, and ends gracefully. The application is `api`'s."""

import asyncio
import contextlib
import errno
import gc
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from chatwright.feedback.conversations import Message
from chatwright.feedback.store import FeedbackStore
from chatwright.foundation.console import say
from chatwright.foundation.errors import ChatwrightError, UsageError
from chatwright.serve.api import GuardedApp, create_app
from chatwright.serve.connections import BoundedConnection, Turns
from chatwright.serve.engine import ChatEngine
from chatwright.serve.settings import ServeSettings, require_sound_access

GRACE_S = 10.0  # for answers that are being written when the server is asked to stop
CUT_S = 5.0  # for answers that were cut to tell so
BACKLOG = 256
WATCH_S = 0.5  # between looks at the watched file


class ChatServer(uvicorn.Server):
    """A uvicorn that ends gracefully: answers may be finished for a while, then they are cut and say so.

    Args:
        app: the application to serve.
        grace_s: seconds for answers that are being written when the server is asked to stop.
        reload: opens the models anew when SIGHUP asks for it; None: the signal is not handled.
        watched: a file; when it is replaced, the models are opened anew too.
    """

    def __init__(
        self,
        app: GuardedApp,
        *,
        grace_s: float,
        reload: Callable[[], Sequence[ChatEngine]] | None = None,
        watched: Path | None = None,
    ):
        super().__init__(bounded_config(app, cancel_after_s=round(grace_s + CUT_S)))
        self._app = app
        self._grace_s = grace_s
        self._reload = reload
        self._watched = watched
        self._over = threading.Event()
        self._reloading = threading.Lock()
        self._cut_now: Callable[[], object] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take connections, and look after the watched file from now on."""
        seen = _state_of(self._watched)  # before anything is served: a change meanwhile is not missed
        await super().startup(sockets)
        if self._watched is not None:
            threading.Thread(target=self._watch, args=(seen,), name="watch", daemon=True).start()

    def _watch(self, seen: tuple[int, ...]) -> None:
        while not self._over.wait(WATCH_S):
            now = _state_of(self._watched)
            if now != seen:
                seen = now
                self.reload_models()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections; let what runs be finished, cut it after its grace, cancel it in the last resort."""
        self._over.set()
        loop = asyncio.get_running_loop()
        self._cut_now = partial(loop.call_soon_threadsafe, self._app.shelf.cut)
        timer = loop.call_later(self._grace_s, self._app.shelf.cut)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature is the system's
        """A first signal asks for the end, a second one cuts the answers at once."""
        if self.should_exit and self._cut_now is not None:
            self._cut_now()
        self.should_exit = True

    def _handle_reload(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature is the system's
        threading.Thread(target=self.reload_models, name="reload", daemon=True).start()

    def reload_models(self) -> None:
        """Open the models anew and offer those that changed; where one cannot be opened, the old ones stay."""
        if self._reload is None:
            return
        try:
            with self._reloading:
                changed = [model for model in self._reload() if self._differs(model)]
                for model in changed:
                    self._app.shelf.replace(model)
        except ChatwrightError as error:
            say(f"error: the models could not be changed, the old ones stay: {error}")
            return
        say(f"models opened anew: {', '.join(model.name for model in changed) or 'none had changed'}")

    def _differs(self, model: ChatEngine) -> bool:
        offer = self._app.shelf.get(model.name)
        return offer is None or offer.model.digest != model.digest

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM while serving, where this is the main thread; none is raised again after it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        if self._reload is not None and hasattr(signal, "SIGHUP"):
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._handle_reload)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _state_of(path: Path | None) -> tuple[int, ...]:
    """What changes when a file is replaced or removed."""
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return ()
    return () if found is None else (found.st_ino, found.st_mtime_ns, found.st_size)


def bounded_config(app: ASGIApp, *, cancel_after_s: int) -> uvicorn.Config:
    """How uvicorn serves an application here: with our bounds, and without a log of requests."""
    return uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", partial(BoundedConnection, turns=Turns())),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",  # what strangers send wrong is counted, not written down
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=cancel_after_s,
    )


def serve(
    models: ChatEngine | Sequence[ChatEngine],
    settings: ServeSettings,
    *,
    store_url: str | Path | None,
    host: str = "127.0.0.1",
    port: int = 8000,
    announce: Callable[[str], None] = say,
    reload: Callable[[], Sequence[ChatEngine]] | None = None,
    watched: Path | None = None,
) -> None:
    """Serve the API and the page until asked to stop.

    Args:
        models: what answers; the first where nobody says which, two for blind comparisons. Held no longer than they
            are offered: once another has taken its place, a model's memory is free, if the caller lets go of it too.
        settings: access, bounds and the page's text, from `settings_for(host, ...)`.
        store_url: the feedback database, a file or any SQLAlchemy URL; None keeps nothing.
        host: the address to bind.
        port: the port; 0 takes a free one.
        announce: told the page's address once the port is open.
        reload: opens the models anew on SIGHUP, for another model without an end of the service.
        watched: a file whose replacement asks for the same.

    Raises:
        UsageError: no token on an open address, a port that is taken or not allowed, an unknown host.
        ChatwrightError: the model has no turn form, or the feedback store cannot be opened.
    """
    require_sound_access(host, settings.token)
    _require_turns(models)
    with open_port(host, port) as listening:
        store = FeedbackStore(store_url) if store_url is not None else None
        try:
            app = create_app(models, store, settings)
            del models  # the shelf alone holds them from now on
            announce(f"{app.shelf.first.model.name} is at {page_address(listening)} (Ctrl-C stops it)")
            with _short_collections():
                ChatServer(app, grace_s=GRACE_S, reload=reload, watched=watched).run(sockets=[listening])
        finally:
            if store is not None:
                store.close()


def _require_turns(models: ChatEngine | Sequence[ChatEngine]) -> None:
    """A model that knows no turns is told now, not at the first question."""
    for model in models if isinstance(models, Sequence) else [models]:
        model.count([Message("user", "Hello")])


@contextlib.contextmanager
def _short_collections() -> Iterator[None]:
    """What is there now stays: without this the garbage collector walks over all libraries' objects again and again.

    A full collection held up every answer for a quarter of a second.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def open_port(host: str, port: int) -> socket.socket:
    """A listening socket, opened before anything else is made, so that a taken port is told at once.

    Raises:
        UsageError: the port is taken or not allowed, or the host is not an address of this machine.
    """
    if not 0 <= port <= 65535:  # checked here: the system's own look-up would cut it to another port
        raise UsageError(f"a port lies between 0 and 65535: {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except socket.gaierror as error:
        raise UsageError(f"`{host}` is not an address: {error.strerror}", hint="use 127.0.0.1") from error
    except OSError as error:
        raise _why_not(host, port, error) from error


def _why_not(host: str, port: int, error: OSError) -> ChatwrightError:
    if error.errno == errno.EADDRINUSE:
        return UsageError(
            f"port {port} of `{host}` is taken by another program", hint="stop it, or use `--port 0` for a free port"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return UsageError(f"port {port} is not allowed to this user", hint="use a port from 1024 on")
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageError(f"`{host}` is not an address of this machine", hint="use 127.0.0.1")
    return ChatwrightError(f"port {port} of `{host}` cannot be opened: {error.strerror}")


def page_address(listening: socket.socket) -> str:
    """The page's address as a browser on this machine takes it."""
    host, port = listening.getsockname()[:2]
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{name}:{port}/"
