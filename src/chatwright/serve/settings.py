"""How a server is set up: bounds, who may come in, and what the page shows. Not read from the environment here."""

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from chatwright.foundation.errors import UsageError
from chatwright.model.generation import Sampling

MIN_TOKEN_LENGTH = 16
WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, kw_only=True, slots=True)
class PageText:
    """What the page shows before anyone said anything."""

    title: str = "chatwright"
    greeting: str = "Ask the model something."
    starters: tuple[str, ...] = ()  # questions that the page offers


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeSettings:
    """Everything that a server depends on beside its model and its store."""

    sampling: Sampling = field(default_factory=Sampling)  # where a request leaves something out
    token: str | None = field(default=None, repr=False)  # asked of every caller; None: anyone who reaches the port
    allowed_hosts: frozenset[str] = LOOPBACK_NAMES  # names in the Host header, against DNS rebinding
    allows_any_address: bool = False  # an address as Host cannot be rebound; for servers that listen on all of theirs
    max_body_bytes: int = 1 << 20
    max_header_bytes: int = 16 << 10
    body_timeout_s: float = 30.0  # for a whole body, however slowly it drips
    max_waiting: int = 16  # answers asked for and not begun; past that 429
    page: PageText = PageText()


def is_loopback(host: str) -> bool:
    """Whether a bind to `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hosts_of_bind(host: str) -> frozenset[str]:
    """Names under which a server bound to `host` is called."""
    own = socket.gethostname() if host in WILDCARDS else host
    return LOOPBACK_NAMES | {own.lower()}


def settings_for(
    host: str,
    *,
    token: str | None = None,
    allowed_hosts: Sequence[str] = (),
    sampling: Sampling | None = None,
    page: PageText | None = None,
) -> ServeSettings:
    """The settings of a server bound to `host`, with its own names let in.

    Raises:
        UsageError: an open address without a token, or a token that could be guessed.
    """
    require_sound_access(host, token)
    return ServeSettings(
        token=token,
        allowed_hosts=hosts_of_bind(host) | {name.lower() for name in allowed_hosts},
        allows_any_address=host in WILDCARDS,
        sampling=sampling or Sampling(),
        page=page or PageText(),
    )


def require_sound_access(host: str, token: str | None) -> None:
    """Refuse a server that others could reach without a token, and a token that could be guessed.

    Raises:
        UsageError: with what to do.
    """
    if token is None and not is_loopback(host):
        raise UsageError(
            f"a server on `{host}` can be reached by other machines and has no token",
            hint="set a token, or bind to 127.0.0.1",
        )
    if token is not None and (len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable()):
        raise UsageError(
            f"a token needs at least {MIN_TOKEN_LENGTH} printable ASCII characters, this one has {len(token)}",
            hint="`python3 -c 'import secrets; print(secrets.token_urlsafe(24))'` makes one",
        )
