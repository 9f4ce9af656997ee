"""One HTTP connection, with what uvicorn lacks: a deadline for headers, a number, turns, refusals in our shape.

Knows nothing of senders and bodies: those are the guard's. Of paths it knows one, which is heard before all others.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from http import HTTPStatus

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from chatwright.serve.errors import ApiError
from chatwright.serve.guard import OPEN_PATH

MAX_CONNECTIONS = 1_000  # at once; more are told so and closed
HEADERS_S = 10.0  # from a connection's or a request's first moment to the end of its headers
READ_BYTES = 16 << 10  # at once; what a connection's buffers hold follows from it
HEARD_A_ROUND = 4  # connections in one round of the event loop: a few milliseconds, however many have something to say

_FULL = ApiError(429, "too many connections are open; try again shortly", code="too_many_connections")
_NO_HTTP = ApiError(400, "this is no HTTP request, or its headers are too large", code="bad_request")


_ASKS_FOR_HEALTH = f"GET {OPEN_PATH} ".encode()


class Turns:
    """Whose bytes are looked at when: so many connections in one round of the event loop, the others in their order.

    Without it a round takes as long as all that have something to say, and who comes anew waits for several of them, as
    does each next piece of an answer.

    Args:
        per_round: how many act in one round.
    """

    def __init__(self, per_round: int = HEARD_A_ROUND):
        self._per_round = per_round
        self._line: deque[Callable[[], None]] = deque()
        self._taken = 0
        self._is_on = False

    def ask(self, act: Callable[[], None]) -> None:
        """Act at once where this round has room and nobody waits, else when it is its turn."""
        if not self._is_on:
            self._is_on = True
            asyncio.get_running_loop().call_soon(self._next_round)
        if self._line or self._taken >= self._per_round:
            self._line.append(act)
        else:
            self._taken += 1
            act()

    def _next_round(self) -> None:
        acting = [self._line.popleft() for _ in range(min(self._per_round, len(self._line)))]
        self._taken = len(acting)
        self._is_on = bool(acting)
        if acting:
            asyncio.get_running_loop().call_soon(self._next_round)
        for act in acting:
            act()


class BoundedConnection(H11Protocol):
    """A connection that must say what it wants in time, and is heard in turn.

    Args:
        turns: shared by all connections of a server; the other arguments are uvicorn's.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        turns: Turns,
    ):
        super().__init__(config, server_state, app_state, _loop)
        self._turns = turns
        self._waits = False
        self._is_new = True
        self._headers_by: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to count the seconds, or refuse a connection too many."""
        super().connection_made(transport)
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]  # asyncio reads 256 KiB at once else, for each
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(_FULL)
        else:
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._headers_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes up, to be looked at in turn; a new connection that asks whether all is well is heard at once."""
        if self.transport.is_closing():
            return
        if self._is_new and data.startswith(_ASKS_FOR_HEALTH):
            self.conn.receive_data(data)
            self._hear()
        else:
            super().data_received(data)
        self._is_new = False

    def handle_events(self) -> None:
        """Look at the bytes that came when it is this connection's turn; until then no more are read."""
        if not self.conn.trailing_data[0]:
            self._hear()
            return
        self.flow.pause_reading()
        if not self._waits:
            self._waits = True
            self._turns.ask(self._take_turn)

    def _take_turn(self) -> None:
        self._waits = False
        if self in self.connections and not self.transport.is_closing():
            self.flow.resume_reading()
            self._hear()

    def _hear(self) -> None:
        """A request whose headers are not all there keeps its deadline."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._headers_came()
        elif self._headers_by is None and self.timeout_keep_alive_task is None and not self.transport.is_closing():
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
