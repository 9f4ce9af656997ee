"""The page's files from a closed table: no path of a request ever names a file."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

STATIC_DIR = Path(__file__).parent.with_name("static")
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def router(directory: Path = STATIC_DIR) -> APIRouter:
    """One route for each file of a folder, read once; `index.html` is the page itself."""
    routes = APIRouter(include_in_schema=False)
    for file in sorted(directory.iterdir()):
        if file.suffix in MEDIA_TYPES:
            path = "/" if file.name == "index.html" else f"/static/{file.name}"
            handler = _static_file(file.read_bytes(), MEDIA_TYPES[file.suffix])
            routes.add_api_route(path, handler, methods=["GET", "HEAD"])
    return routes


def _static_file(content: bytes, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def static_file() -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return static_file
