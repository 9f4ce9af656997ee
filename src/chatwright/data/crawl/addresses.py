"""Which network addresses may be connected to: public ones, and the private networks that a recipe names.

A name is resolved once, every address of the answer is checked, and the connection goes to a checked address: what
the name says a moment later (DNS rebinding) no longer matters.
"""

import concurrent.futures
import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Final

from chatwright.data import limits
from chatwright.data.crawl.verdicts import Unfetchable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str, int], Sequence[str]]


# IANA's special-purpose registries, written out: `is_global` differs between versions of Python.
def _networks(text: str) -> tuple[Network, ...]:
    return tuple(map(ipaddress.ip_network, text.split()))


_NOT_PUBLIC_4: Final = _networks(
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
    "192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 "
    "203.0.113.0/24 224.0.0.0/4 240.0.0.0/4"
)
_GLOBAL_6: Final = ipaddress.IPv6Network("2000::/3")  # all that is handed out for the public
_NOT_PUBLIC_6: Final = _networks("2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
# Where clouds answer with credentials: no recipe opens these.
_METADATA: Final = frozenset(
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "fd00:ec2::254")
)


def is_public(address: Address) -> bool:
    """Whether anybody on the internet could mean this address; an IPv4 address inside an IPv6 one is looked at too."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    inner = _embedded(address)
    if inner is not None:
        return is_public(inner)
    return address in _GLOBAL_6 and not any(address in network for network in _NOT_PUBLIC_6)


def is_allowed(address: Address, private: Sequence[Network]) -> bool:
    """Whether a connection may be made, with the private networks that the recipe names."""
    inner = _embedded(address) if isinstance(address, ipaddress.IPv6Address) else None
    meanings = [address] if inner is None else [address, inner]
    if not _METADATA.isdisjoint(meanings):
        return False
    named = any(one.version == network.version and one in network for one in meanings for network in private)
    return named or is_public(address)


def checked_addresses(host: str, port: int, *, resolver: Resolver, private: Sequence[Network]) -> list[str]:
    """Addresses of a host that a connection may be made to, in the order of the answer.

    One address that is not allowed refuses the host: a mixed answer is an attack or a mistake.

    Raises:
        Unfetchable: `private_address`, or `dns_failed`, which may pass.
    """
    try:
        found: list[Address] = [ipaddress.ip_address(host)]
    except ValueError:
        found = [ipaddress.ip_address(text.partition("%")[0]) for text in resolver(host, port)]
    refused = [str(address) for address in found if not is_allowed(address, private)]
    if refused:
        raise Unfetchable("private_address", f"{host} is {', '.join(refused[:3])}")
    if not found:
        raise Unfetchable("dns_failed", f"no address for {host}", may_pass=True)
    return list(dict.fromkeys(map(str, found)))


class SystemResolver:
    """The system's resolver with a time limit, which `getaddrinfo` itself has not."""

    def __init__(self) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(8, thread_name_prefix="resolve")

    def __call__(self, host: str, port: int) -> Sequence[str]:
        """Addresses of a name.

        Raises:
            Unfetchable: `dns_failed`.
        """
        asked = self._pool.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            answer = asked.result(timeout=limits.CONNECT_TIME_LIMIT_S)
        except TimeoutError:
            raise Unfetchable("dns_failed", f"{host}: no answer in time", may_pass=True) from None
        except (OSError, UnicodeError) as error:
            raise Unfetchable("dns_failed", f"{host}: {error}", may_pass=True) from None
        return [str(entry[4][0]) for entry in answer]

    def close(self) -> None:
        """Leave running look-ups to themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one would reach, where that is what it means."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64 or int(address) >> 32 == 0:  # NAT64, and the old IPv4-compatible form
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
