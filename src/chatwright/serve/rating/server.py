"""Serves a study on one port until asked to stop."""

from collections.abc import Callable

import uvicorn

from chatwright.feedback.ratings import Study
from chatwright.foundation.console import say
from chatwright.serve.rating.app import create_rating_app
from chatwright.serve.server import bounded_config, open_port, page_address
from chatwright.serve.settings import ServeSettings, require_sound_access


def serve_study(
    study: Study,
    settings: ServeSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    announce: Callable[[str], None] = say,
) -> None:
    """Serve the page for raters.

    Raises:
        UsageError: no token on an open address, or the port is taken.
    """
    require_sound_access(host, settings.token)
    with open_port(host, port) as listening:
        announce(f"the page for raters is at {page_address(listening)} (Ctrl-C stops it)")
        config = bounded_config(create_rating_app(study, settings), cancel_after_s=5)
        uvicorn.Server(config).run(sockets=[listening])
