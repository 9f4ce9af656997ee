"""A socket to a checked address, with one deadline over everything that goes through it.

The name in the URL is what TLS verifies; the address is what was checked. Neither proxies nor cookies nor redirects:
those are decisions for those above.
"""

import socket
import ssl
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from chatwright.data import limits
from chatwright.data.crawl.addresses import Network, Resolver, checked_addresses
from chatwright.data.crawl.urls import Url
from chatwright.data.crawl.verdicts import Unfetchable

_POLL_S = 0.25  # how soon a wait notices that the crawl was stopped
_BLOCK_BYTES = 65_536


class Wire:
    """Bytes to and from one host. Every call ends by the deadline set for the request."""

    def __init__(self, connection: socket.socket, *, stopped: threading.Event):
        self._connection = connection
        self._stopped = stopped
        self.deadline = 0.0

    def send(self, data: bytes) -> None:
        """Send all of `data`.

        Raises:
            Unfetchable: `timeout` or `connection_lost`.
        """
        try:
            self._connection.settimeout(self._left_s())
            self._connection.sendall(data)
        except TimeoutError:
            raise _too_slow() from None
        except OSError as error:
            raise _lost(error) from None

    def receive(self) -> bytes:
        """Some bytes, or none at the end.

        Raises:
            Unfetchable: `timeout`, `connection_lost`, or `stopped`, which is no verdict on the page.
        """
        while True:
            if self._stopped.is_set():
                raise Unfetchable("stopped", may_pass=True)
            try:
                self._connection.settimeout(min(self._left_s(), _POLL_S))
                return self._connection.recv(_BLOCK_BYTES)
            except TimeoutError:
                continue  # `_left_s` ends the loop
            except OSError as error:
                raise _lost(error) from None

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def _left_s(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise _too_slow()
        return left

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Connector:
    """Opens wires to addresses that may be connected to.

    Args:
        resolver: gives the addresses of a name.
        private: networks beside the public one.
        tls: verifies certificates; there is no setting to leave that out.
        stopped: ends waits when the crawl is stopped.
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        private: Sequence[Network] = (),
        tls: ssl.SSLContext | None = None,
        stopped: threading.Event | None = None,
    ):
        self._resolver = resolver
        self._private = tuple(private)
        self._tls = tls or ssl.create_default_context()
        self._stopped = stopped or threading.Event()

    def open(self, url: Url, *, deadline: float) -> Wire:
        """Connect to the host of `url`, at one of its addresses, all of which were checked.

        Raises:
            Unfetchable: `private_address`, `dns_failed`, `connection_failed`, `tls_failed` or `timeout`.
        """
        addresses = checked_addresses(url.host, url.port, resolver=self._resolver, private=self._private)
        failure = Unfetchable("connection_failed", "no address", may_pass=True)
        for address in addresses:
            left = min(deadline - time.monotonic(), limits.CONNECT_TIME_LIMIT_S)
            if left <= 0:
                raise _too_slow()
            try:
                connection = socket.create_connection((address, url.port), timeout=left)
            except OSError as error:
                failure = Unfetchable("connection_failed", f"{address}: {error}", may_pass=True)
                continue
            wire = Wire(self._secured(connection, url), stopped=self._stopped)
            wire.deadline = deadline
            return wire
        raise failure

    def _secured(self, connection: socket.socket, url: Url) -> socket.socket:
        if url.scheme == "http":
            return connection
        try:
            return self._tls.wrap_socket(connection, server_hostname=url.host)
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise Unfetchable("tls_failed", f"{url.host}: {error.verify_message}") from None
        except OSError as error:
            connection.close()
            raise Unfetchable("tls_failed", f"{url.host}: {error}", may_pass=True) from None


def _too_slow() -> Unfetchable:
    return Unfetchable("timeout", f"longer than {limits.FETCH_TIME_LIMIT_S:g} s", may_pass=True)


def _lost(error: OSError) -> Unfetchable:
    return Unfetchable("connection_lost", str(error), may_pass=True)
