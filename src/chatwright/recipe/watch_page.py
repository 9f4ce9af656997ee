"""The page of `chatwright watch --page`: a training as it goes, in the look of the report. Reads; changes nothing."""

from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from chatwright.foundation.console import duration, say
from chatwright.foundation.errors import ChatwrightError
from chatwright.foundation.usage import UsageMeter
from chatwright.recipe.report.figures import Curve, curve_of, curves
from chatwright.recipe.report.look import asset
from chatwright.recipe.watch import Watched, find_training, loss_unit, read_events, read_progress, unit_of
from chatwright.serve.guard import Guard
from chatwright.serve.routes.page import STATIC_DIR
from chatwright.serve.server import bounded_config, open_port, page_address
from chatwright.serve.settings import ServeSettings, require_sound_access

_FILES = {
    "": ("watch.html", "text/html"),
    "watch.js": ("watch.js", "text/javascript"),
    "charts.js": ("charts.js", "text/javascript"),
    "report.css": ("report.css", "text/css"),
}


def serve_watch(run_dir: Path, settings: ServeSettings, *, host: str = "127.0.0.1", port: int = 8002) -> None:
    """Serve the page until asked to stop; the training goes on whatever happens here.

    Raises:
        UsageError: no training has begun, an open address without a token, or the port is taken.
    """
    require_sound_access(host, settings.token)
    find_training(run_dir)
    with open_port(host, port) as listening:
        say(f"the training is shown at {page_address(listening)} (Ctrl-C ends the watching, not the training)")
        config = bounded_config(create_watch_app(run_dir, settings), cancel_after_s=5)
        uvicorn.Server(config).run(sockets=[listening])


class _WatchApp(FastAPI):
    """FastAPI behind the guard."""

    def __init__(self, settings: ServeSettings):
        super().__init__(title="chatwright watch", docs_url=None, redoc_url=None, openapi_url=None)
        self._settings = settings

    def build_middleware_stack(self) -> ASGIApp:
        """Everything that FastAPI builds, behind the guard."""
        return Guard(super().build_middleware_stack(), settings=self._settings)


def create_watch_app(run_dir: Path, settings: ServeSettings) -> FastAPI:
    """The page, its files, and `/api/progress`."""
    app, meter = _WatchApp(settings), UsageMeter()

    def progress(_request: Request) -> Response:
        try:
            return JSONResponse(look(run_dir, meter))
        except ChatwrightError as error:  # a stage was published between two looks, or its metrics are torn
            return JSONResponse({"problem": error.what}, status_code=503)

    def file(request: Request) -> Response:
        name, media = _FILES[request.url.path.removeprefix("/")]
        return Response(asset(name), media_type=media)

    def icon(_request: Request) -> Response:
        return Response((STATIC_DIR / "icon.svg").read_bytes(), media_type="image/svg+xml")

    app.add_route("/api/progress", progress, methods=["GET"])
    app.add_route("/icon.svg", icon, methods=["GET"])
    for name in _FILES:
        app.add_route(f"/{name}", file, methods=["GET"])
    return app


def look(run_dir: Path, meter: UsageMeter) -> dict[str, Any]:
    """What the page shows now: words, the share that is done, and the figures as `charts.js` draws them."""
    watched = find_training(run_dir)
    told = read_progress(run_dir, watched)
    usage = meter.look()
    return {
        "run": run_dir.resolve().name,
        "stage": watched.stage,
        "state": watched.state(told.step),
        "done": watched.is_done,
        "held": watched.is_held,
        "step": told.step,
        "steps": told.steps,
        "time": duration(told.seconds),
        "left": None if told.seconds_left is None else duration(told.seconds_left),
        "unit": told.unit,
        "rate": told.rate,
        "utilisation": told.utilisation,
        "skipped": told.skipped,
        "skipped_why": told.skipped_why,
        "processor_share": usage.processor_share,
        "memory_used_bytes": usage.memory_used_bytes,
        "memory_bytes": usage.memory_bytes,
        "figures": _figures(watched),
    }


def _figures(watched: Watched) -> dict[str, Any]:
    steps, evaluations = read_events(watched, "step"), read_events(watched, "evaluation")
    unit = unit_of(steps)
    found: dict[str, Any] = {}
    loss = curve_of("training", steps, [event.get("loss") for event in steps], is_main=True)
    if loss.steps:
        found["loss"] = curves([loss], y_title=loss_unit(unit))
    held: list[Curve] = []
    for name in dict.fromkeys(name for event in evaluations for name in event.get("bits_per_byte") or {}):
        values = [(event.get("bits_per_byte") or {}).get(name) for event in evaluations]
        held.append(curve_of(name, evaluations, values, is_main=name == "all"))
    answers = [event.get("test_bits_per_byte") for event in evaluations]
    if any(value is not None for value in answers):
        held.append(curve_of("test answers", evaluations, answers, is_main=True))
    held = [curve for curve in held if curve.steps]  # a domain may have none that is finite
    if held:
        found["heldout"] = curves(held, y_title="bits per byte")
    rates = curve_of("rate", steps, [event.get(f"{unit}_per_second") for event in steps], is_main=True)
    if rates.steps:
        found["rate"] = curves([rates], y_title=f"{unit} a second")
    return found
