"""One HTTP connection, with the bounds that uvicorn lacks: a deadline for headers, a number, refusals in our shape.

Knows nothing of paths, senders and bodies: those are the guard's.
"""

import asyncio
import json
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from chatwright.serve.errors import ApiError

MAX_CONNECTIONS = 1_000  # at once; more are told so and closed
HEADERS_S = 10.0  # from a connection's or a request's first moment to the end of its headers
READ_BYTES = 16 << 10  # at once; what a connection's buffers hold follows from it

_FULL = ApiError(429, "too many connections are open; try again shortly", code="too_many_connections")
_NO_HTTP = ApiError(400, "this is no HTTP request, or its headers are too large", code="bad_request")


class BoundedConnection(H11Protocol):
    """A connection that must say what it wants in time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to count the seconds, or refuse a connection too many."""
        super().connection_made(transport)
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]  # asyncio reads 256 KiB at once else, for each
        self._headers_by: asyncio.TimerHandle | None = None
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(_FULL)
        else:
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._headers_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes up; a request whose headers are not all there keeps its deadline."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._headers_came()
        elif self._headers_by is None and self.timeout_keep_alive_task is None:
            self._await_headers()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words, ours follow
        """Refuse what is no HTTP."""
        self._refuse(_NO_HTTP)

    def _await_headers(self) -> None:
        self._headers_by = self.loop.call_later(HEADERS_S, self.transport.close)

    def _headers_came(self) -> None:
        if self._headers_by is not None:
            self._headers_by.cancel()
            self._headers_by = None

    def _refuse(self, error: ApiError) -> None:
        """Answer without a request, where the state of the conversation still allows it, and close."""
        body = json.dumps(error.body()).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Retry-After", "1"),
            ("Connection", "close"),
        ]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            reason = HTTPStatus(error.status).phrase
            begin = h11.Response(status_code=error.status, headers=headers, reason=reason)
            events = (begin, h11.Data(data=body), h11.EndOfMessage())
            for event in events:
                self.transport.write(self.conn.send(event))
        self.transport.close()
