"""The gate before every request: who may come in, with what size and shape. Knows nothing of models or chat.

Everything is denied but what is allowed by name. `/health` alone needs no token. Nothing reads a body before its
sender, its type and its announced size are found good; then it is read whole, within bytes and seconds.
"""

import asyncio
import base64
import binascii
import contextlib
import hmac
import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatwright.serve.errors import ApiError
from chatwright.serve.settings import ServeSettings

OPEN_PATH = "/health"
SMALL_BODY_BYTES = 32 << 10  # bodies that always find room; of larger ones so much is held at once while they come in:
HELD_BYTES = 8 << 20
DRAINED_BYTES = 16 << 20
DRAINED_S = 2.0
METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})
CONTENT_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """ASGI middleware in front of the whole application.

    Args:
        app: what stands behind the gate.
        settings: who may come in and how much they may bring.
    """

    def __init__(self, app: ASGIApp, *, settings: ServeSettings):
        self._app = app
        self._settings = settings
        self._held_bytes = 0  # of large bodies that are being read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        sealed = _with_security_headers(send)
        incoming = _Incoming(receive)
        try:
            scope["chatwright.owner"] = check_request(scope, self._settings)
            body = await self._read_body(scope, incoming)
        except ApiError as error:
            await _drain(incoming)
            await error.response()(scope, receive, sealed)
            return
        except ConnectionError:
            return
        await self._app(scope, _replay(body, receive), sealed)

    async def _read_body(self, scope: Scope, incoming: "_Incoming") -> bytes:
        limit = self._settings.max_body_bytes
        chunks: list[bytes] = []
        size = held = 0
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                while not incoming.is_complete:
                    chunks.append(await incoming.chunk())
                    size += len(chunks[-1])
                    if size > limit or (size and scope["method"] not in METHODS_WITH_BODY):
                        raise _too_large(limit if size > limit else 0)
                    if size > SMALL_BODY_BYTES:
                        self._held_bytes += size - held
                        held = size
                    if held and self._held_bytes > HELD_BYTES:
                        raise ApiError(429, "too much is being sent at once", code="busy", headers=_AGAIN | _CLOSE)
                return b"".join(chunks)
        except TimeoutError:
            raise ApiError(408, "the body did not arrive in time", code="request_timeout", headers=_CLOSE) from None
        finally:
            self._held_bytes -= held


_CLOSE = {"Connection": "close"}
_AGAIN = {"Retry-After": "1"}


def check_request(scope: Scope, settings: ServeSettings) -> str:
    """Refuse what may not come in, judged by path and headers alone.

    Returns:
        Whose request it is: the name that goes with its token, empty for the owner and where no token is asked for.

    Raises:
        ApiError: the first thing found wrong; the order never tells a stranger which paths exist.
    """
    headers = Headers(scope["headers"])
    if sum(len(name) + len(value) for name, value in scope["headers"]) > settings.max_header_bytes:
        raise ApiError(431, "the headers are too large", code="headers_too_large", headers=_CLOSE)
    _check_host(headers, settings)
    _check_origin(headers)
    _check_path(scope)
    owner = ""
    if scope["path"] != OPEN_PATH and settings.tokens:
        owner = _owner_of_token(headers, settings.tokens)
    if scope["method"] in METHODS_WITH_BODY:
        _check_body_headers(headers, settings.max_body_bytes, may_be_empty=scope["method"] == "DELETE")
    return owner


class Headers:
    """Request headers by name, as often as they were sent."""

    def __init__(self, raw: list[tuple[bytes, bytes]]):
        self._raw = raw

    def all(self, name: str) -> list[str]:
        """Every value of this header, in order."""
        wanted = name.encode()
        return [value.decode("latin-1") for key, value in self._raw if key.lower() == wanted]

    def only(self, name: str) -> str | None:
        """The value of a header that may stand once at most.

        Raises:
            ApiError: it stands more than once.
        """
        values = self.all(name)
        if len(values) > 1:
            raise ApiError(400, f"the header `{name}` stands more than once", code="bad_header")
        return values[0] if values else None


def _check_host(headers: Headers, settings: ServeSettings) -> None:
    host = _name_of(headers.only("host") or "")
    if host is not None and host in settings.allowed_hosts:
        return
    if host is not None and settings.allows_any_address:
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host)
            return
    raise ApiError(403, "this server is not known by that host name", code="host_not_allowed")


def _name_of(authority: str) -> str | None:
    """The host of `name:port`, without brackets and in small letters; None where it is not one."""
    try:
        parts = urlsplit(f"//{authority}")
        _ = parts.port  # raises where it is no number
    except ValueError:
        return None
    is_plain = parts.netloc == authority and "@" not in authority and not (parts.path or parts.query or parts.fragment)
    return parts.hostname if is_plain else None


def _check_origin(headers: Headers) -> None:
    """A browser says where a request comes from: only pages of this very server may send."""
    origin = headers.only("origin")
    if origin is None:
        return
    scheme, separator, authority = origin.partition("://")
    same = scheme in ("http", "https") and bool(separator) and authority.lower() == (headers.only("host") or "").lower()
    if not same:
        raise ApiError(403, "requests from other origins are not allowed", code="origin_not_allowed")


def _check_path(scope: Scope) -> None:
    """Only plain paths: what a second decoder could read otherwise is refused, not repaired."""
    path: str = scope["path"]
    raw = scope.get("raw_path", b"") or path.encode(errors="replace")
    odd = any(ord(letter) < 32 or letter in "\\\x7f" for letter in path)
    if odd or not path.startswith("/") or "//" in path or b"%" in raw or {".", ".."} & set(path.split("/")):
        raise ApiError(400, "this path is not plain", code="bad_path")


def _owner_of_token(headers: Headers, tokens: Mapping[str, str]) -> str:
    """The name that goes with the token given; all are compared, so that time tells nothing."""
    kind, _, given = (headers.only("authorization") or "").partition(" ")
    if kind.lower() == "basic":  # how a browser asks a person for it; the user name does not matter
        try:
            given = base64.b64decode(given, validate=True).decode("latin-1").partition(":")[2]
        except (binascii.Error, ValueError):
            given = ""
    elif kind.lower() != "bearer":
        given = ""
    offered = given.strip().encode()
    names = [name for name, token in tokens.items() if hmac.compare_digest(offered, token.encode())]
    if not names:
        asked = {"WWW-Authenticate": 'Basic realm="chatwright", charset="UTF-8"'}
        raise ApiError(401, "a valid token is needed", code="invalid_api_key", headers=asked)
    return names[0]


def _check_body_headers(headers: Headers, limit: int, *, may_be_empty: bool) -> None:
    if may_be_empty and headers.only("transfer-encoding") is None and (headers.only("content-length") or "0") == "0":
        return
    kind = (headers.only("content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "the body must be `application/json`", code="unsupported_media_type")
    if (headers.only("content-encoding") or "identity").strip().lower() != "identity":
        raise ApiError(415, "compressed bodies are not accepted", code="unsupported_encoding")
    length = headers.only("content-length")
    if length is not None and not (length.isascii() and length.isdigit()):
        raise ApiError(400, "`Content-Length` is not a number", code="bad_header", headers=_CLOSE)
    if length is not None and (len(length) > 18 or int(length) > limit):
        raise _too_large(limit)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body may have {limit} bytes at most", code="body_too_large", headers=_CLOSE)


class _Incoming:
    """The body as it comes in, and whether all of it did."""

    def __init__(self, receive: Receive):
        self._receive = receive
        self.is_complete = False

    async def chunk(self) -> bytes:
        """The next bytes.

        Raises:
            ConnectionError: the sender is gone.
        """
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.is_complete = True
            raise ConnectionError
        self.is_complete = not message.get("more_body", False)
        content: bytes = message.get("body", b"")
        return content


async def _drain(incoming: _Incoming) -> None:
    """Take what a refused sender still sends, within bounds: hung up on while sending, it would not read why."""
    left = DRAINED_BYTES
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(DRAINED_S):
            while left > 0 and not incoming.is_complete:
                left -= len(await incoming.chunk())


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give the body that was read once as one message; then what the connection says, such as its end."""
    pending = [body]

    async def replayed() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replayed


def _with_security_headers(send: Send) -> Send:
    async def sealed(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(SECURITY_HEADERS)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sealed
