"""How a server is set up: bounds, who may come in, and what the page shows. Not read from the environment here."""

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

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
    guests: Mapping[str, str] = field(
        default_factory=dict, repr=False
    )  # further tokens by name: own conversations each
    experts: frozenset[str] = frozenset()  # names whose opinions are an expert's
    allowed_hosts: frozenset[str] = LOOPBACK_NAMES  # names in the Host header, against DNS rebinding
    allows_any_address: bool = False  # an address as Host cannot be rebound; for servers that listen on all of theirs
    max_body_bytes: int = 1 << 20
    max_header_bytes: int = 16 << 10
    body_timeout_s: float = 30.0  # for a whole body, however slowly it drips
    max_waiting: int = 64  # answers asked for and not begun; past that 429. An engine begins 32 at once
    page: PageText = PageText()

    @property
    def tokens(self) -> dict[str, str]:
        """Every token that lets in, by the name of who holds it; the owner's name is empty."""
        return {**self.guests, **({"": self.token} if self.token is not None else {})}


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
    guests: Mapping[str, str] | None = None,
    experts: frozenset[str] = frozenset(),
    allowed_hosts: Sequence[str] = (),
    sampling: Sampling | None = None,
    page: PageText | None = None,
) -> ServeSettings:
    """The settings of a server bound to `host`, with its own names let in.

    Raises:
        UsageError: an open address without a token, or a token that could be guessed.
    """
    require_sound_access(host, token)
    for guest in (guests or {}).values():
        require_sound_access(host, guest)
    if guests and token is None:
        raise UsageError("tokens for guests need one for the owner too", hint="set CHATWRIGHT_TOKEN")
    return ServeSettings(
        token=token,
        guests=dict(guests or {}),
        experts=experts,
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


class Guests(NamedTuple):
    """Who else may come in."""

    tokens: dict[str, str]  # by name
    experts: frozenset[str]  # names


def read_guests(path: Path) -> Guests:
    """Names and tokens from a file with a line `name token`, or `name token expert`, for each; `#` begins a comment.

    Raises:
        UsageError: the file cannot be read, or a line is not of this form, or a name stands twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the guests' file `{path}` cannot be read: {error}") from error
    guests: dict[str, str] = {}
    experts = set()
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        is_expert = words[2:] == ["expert"]
        if len(words) != 2 + is_expert or words[0] in guests or words[1] in guests.values():
            raise UsageError(
                f"`{path}` line {number} is no name and token of a further guest",
                hint="write `name token` or `name token expert`, each name once",
            )
        guests[words[0]] = words[1]
        experts |= {words[0]} if is_expert else set()
    return Guests(guests, frozenset(experts))
