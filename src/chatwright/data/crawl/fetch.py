"""One request and its response, within limits of time, bytes and ratio. A redirect is an answer, not an instruction.

h11 reads and writes HTTP without a socket of its own: so the socket can be ours, pinned to a checked address and held
to a deadline, which libraries that own their connections do not let us promise.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import h11
import pyarrow as pa

from chatwright.data import limits
from chatwright.data.crawl.urls import Url
from chatwright.data.crawl.verdicts import Unfetchable
from chatwright.data.crawl.wire import Connector, Wire

_CODECS = {"gzip": "gzip", "x-gzip": "gzip", "br": "brotli", "zstd": "zstd"}
_ACCEPT = "text/html, application/xhtml+xml, text/plain;q=0.9, */*;q=0.1"
_ACCEPT_ENCODING = "gzip, br, zstd"
_MAX_INTERIM = 10


class Head(NamedTuple):
    """Status and headers: enough to decide whether the body is wanted."""

    status: int
    headers: dict[str, str]  # names in lower case; repeated fields joined, see `_joined`


class Response(NamedTuple):
    """A whole response: nothing of one that ended early is ever given."""

    status: int
    headers: dict[str, str]
    body: bytes  # decompressed
    stored_bytes: int  # as they came


class Bounds(NamedTuple):
    """How much of a body is read."""

    max_bytes: int  # as stored and as decompressed
    is_prefix_enough: bool = False  # take the beginning of a longer body instead of refusing it


PAGE_BOUNDS = Bounds(limits.MAX_RESPONSE_BYTES)


def wants_any_body(head: Head) -> bool:  # noqa: ARG001 - the signature is `Session.get`'s
    """Read every body."""
    return True


class Session:
    """Requests to one host, one after the other, on a connection that is kept while both sides want it.

    Args:
        connector: opens connections.
        agent: the `User-Agent` field.
        contact: the `From` field, if it is an e-mail address.
        time_limit_s: of one request, from the name to the last byte.
    """

    def __init__(
        self, connector: Connector, *, agent: str, contact: str = "", time_limit_s: float = limits.FETCH_TIME_LIMIT_S
    ):
        self._connector = connector
        self._time_limit_s = time_limit_s
        self._fixed = {"user-agent": agent, "accept": _ACCEPT, "accept-encoding": _ACCEPT_ENCODING}
        if "@" in contact:
            self._fixed["from"] = contact
        self._wire: Wire | None = None
        self._state = h11.Connection(h11.CLIENT)
        self._origin = ""
        self._is_answered = False

    def get(
        self,
        url: Url,
        *,
        headers: Mapping[str, str] | None = None,
        bounds: Bounds = PAGE_BOUNDS,
        wants_body: Callable[[Head], bool] = wants_any_body,
    ) -> Response:
        """Ask for `url` and read its whole response.

        Args:
            url: what to ask for.
            headers: further fields, such as `if-none-match`.
            bounds: of the body.
            wants_body: whether the body is to be read at all; without it the response has none.

        Raises:
            Unfetchable: with a reason, nothing of a broken response is given.
        """
        deadline = time.monotonic() + self._time_limit_s
        fields = [("host", url.authority), *(self._fixed | dict(headers or {})).items()]
        request = h11.Request(method="GET", target=url.target, headers=fields)
        is_kept = self._wire is not None and self._origin == url.origin
        try:
            return self._exchange(url, request, deadline, bounds, wants_body)
        except Unfetchable as verdict:
            self.close()
            if not is_kept or self._is_answered or verdict.reason != "connection_lost":
                raise
        # The server closed a kept connection before it answered anything: that says nothing about the page.
        return self._exchange(url, request, deadline, bounds, wants_body)

    def close(self) -> None:
        """Close the connection."""
        if self._wire is not None:
            self._wire.close()
        self._wire = None

    def _exchange(
        self, url: Url, request: h11.Request, deadline: float, bounds: Bounds, wants_body: Callable[[Head], bool]
    ) -> Response:
        self._is_answered = False
        wire = self._open(url, deadline)
        try:
            wire.send((self._state.send(request) or b"") + (self._state.send(h11.EndOfMessage()) or b""))
            head = self._head(wire)
            declared = head.headers.get("content-length", "")
            stored = self._body(wire, bounds, declared=declared) if wants_body(head) else b""
        except h11.RemoteProtocolError as error:
            reason = "cut_short" if self._state.trailing_data[1] else "bad_http"
            raise Unfetchable(reason, str(error)[:200], may_pass=True) from None
        is_done = self._state.our_state is h11.DONE and self._state.their_state is h11.DONE
        if is_done and self._state.trailing_data == (b"", False):  # bytes beyond the response belong to nobody
            self._state.start_next_cycle()
        else:
            self.close()
        body = decompressed(stored, head.headers.get("content-encoding", ""), bounds)
        return Response(head.status, head.headers, body, len(stored))

    def _open(self, url: Url, deadline: float) -> Wire:
        if self._wire is not None and self._origin == url.origin:
            self._wire.deadline = deadline
            return self._wire
        self.close()
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.MAX_RESPONSE_HEADER_BYTES)
        self._wire = self._connector.open(url, deadline=deadline)
        self._origin = url.origin
        return self._wire

    def _head(self, wire: Wire) -> Head:
        """The final status and headers; interim responses are passed over, a bounded number of them."""
        for _ in range(_MAX_INTERIM):
            event = self._next(wire)
            if isinstance(event, h11.Response):
                return Head(event.status_code, _joined(event.headers))
        raise Unfetchable("bad_http", "no final response", may_pass=True)

    def _body(self, wire: Wire, bounds: Bounds, *, declared: str) -> bytes:
        if not bounds.is_prefix_enough and declared.isdecimal() and int(declared[:20]) > bounds.max_bytes:
            raise Unfetchable("too_large", f"{declared[:20]} bytes")
        blocks: list[bytes] = []
        size = 0
        while isinstance(event := self._next(wire), h11.Data):
            blocks.append(bytes(event.data))
            size += len(event.data)
            if size > bounds.max_bytes:
                if not bounds.is_prefix_enough:
                    raise Unfetchable("too_large", f"more than {bounds.max_bytes} bytes")
                break
        return b"".join(blocks)[: bounds.max_bytes]

    def _next(self, wire: Wire) -> Any:
        """The next event; h11 raises where a connection ends before the message that it announced."""
        while (event := self._state.next_event()) is h11.NEED_DATA:
            data = wire.receive()
            if not data and not self._is_answered:
                raise Unfetchable("connection_lost", "closed without an answer", may_pass=True)
            self._is_answered = True
            self._state.receive_data(data)
        return event


def decompressed(data: bytes, encodings: str, bounds: Bounds) -> bytes:
    """A body without its content encodings.

    Raises:
        Unfetchable: `bomb` beyond the bounds or the ratio of `limits`, `bad_encoding`, `unknown_encoding`.
    """
    names = [name.strip().lower() for name in encodings.split(",") if name.strip().lower() not in ("", "identity")]
    if len(names) > 1:
        raise Unfetchable("unknown_encoding", f"{len(names)} encodings on top of each other")
    if not names or not data:
        return data
    codec = _CODECS.get(names[0])
    if codec is None:
        raise Unfetchable("unknown_encoding", names[0])
    most = min(bounds.max_bytes, max(limits.COMPRESSION_FLOOR_BYTES, limits.MAX_COMPRESSION_RATIO * len(data)))
    try:
        with pa.CompressedInputStream(pa.BufferReader(data), codec) as stream:
            body: bytes = stream.read(most + 1)
    except (OSError, pa.ArrowException) as error:
        raise Unfetchable("bad_encoding", str(error)[:200], may_pass=True) from None
    if len(body) > most and not bounds.is_prefix_enough:
        raise Unfetchable("bomb", f"{len(data)} bytes give more than {most}")
    return body[:most]


def _joined(fields: Any) -> dict[str, str]:
    """Fields by name; repeated ones joined by commas (RFC 9110, 5.3).

    Of `X-Robots-Tag` each keeps a line: a crawler that one field names is not who the next one speaks to.
    """
    joined: dict[str, str] = {}
    for name, value in fields:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        between = "\n" if key == "x-robots-tag" else ", "
        joined[key] = f"{joined[key]}{between}{text}" if key in joined else text
    return joined
