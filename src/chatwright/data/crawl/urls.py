"""URLs as this crawler means them: one parser, whose parts are both checked and connected to.

Many holes in fetchers come from two parsers that read one text differently. Here the text is read once into `Url`;
host and port of the connection, the `Host` field and the request line are all made from its parts.
"""

import ipaddress
import re
import string
import urllib.parse
from typing import NamedTuple, Self

import idna

from chatwright.data import limits

_SCHEMES = {"http": 80, "https": 443}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMERIC = re.compile(r"(?:[0-9]+|0[xX][0-9a-fA-F]*)")
_UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")
_PATH_SAFE = "%/!$&'()*+,;=:@-._~"
_QUERY_SAFE = _PATH_SAFE + "?"

# Names of fields that carry a visit or a campaign and never a page of its own.
_SESSION_FIELDS = frozenset(
    "jsessionid phpsessid sessionid session_id sid aspsessionid cfid cftoken zenid osCsid gclid fbclid msclkid mc_cid "
    "mc_eid yclid igshid".lower().split()
)
_SESSION_PREFIXES = ("utm_", "aspsessionid")
_SESSION_SEGMENT = re.compile(r";(?:jsessionid|sid|phpsessid)=[^/;]*", re.IGNORECASE)


class RefusedUrl(Exception):  # noqa: N818 - a verdict on a link, not an error of ours
    """A text that is no URL this crawler will ask for, with the reason under which it is counted."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


class Url(NamedTuple):
    """An absolute address of a page in its one spelling."""

    scheme: str
    host: str  # lower case, IDNA, or an IP address without brackets
    port: int
    path: str  # begins with `/`, percent-encoded
    query: str  # without `?`

    @property
    def origin(self) -> str:
        """Scheme, host and port: what one robots.txt speaks for."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port as the `Host` field has them."""
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return shown if self.port == _SCHEMES[self.scheme] else f"{shown}:{self.port}"

    @property
    def target(self) -> str:
        """Path and query as the request line has them."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def at(self, path: str) -> Self:
        """Another path of the same origin, without a query."""
        return self._replace(path=path, query="")

    def __str__(self) -> str:
        """The URL in its one spelling."""
        return f"{self.origin}{self.target}"


def parse_url(text: str, *, base: Url | None = None) -> Url:
    """Read an absolute URL, or a link on the page `base`.

    Spelling is made one: scheme and host in lower case, default port and fragment dropped, escapes and dot segments
    resolved (RFC 3986, 6.2.2), fields that carry a session or a campaign dropped. The order of fields is kept.

    Raises:
        RefusedUrl: `bad_url`, `scheme_not_allowed`, `userinfo`, `ambiguous_host` or `url_too_long`.
    """
    text = text.strip("\x00\t\n\r\f\v ").replace("\t", "").replace("\n", "").replace("\r", "")
    if len(text) > limits.MAX_URL_CHARACTERS:
        raise RefusedUrl("url_too_long", f"{len(text)} characters")
    if _CONTROL.search(text):
        raise RefusedUrl("bad_url", "control character")
    text = _forward_slashes(text.partition("#")[0])
    if base is not None and not _SCHEME.match(text):
        text = _absolute(text, base)
    scheme_match = _SCHEME.match(text)
    scheme = scheme_match.group(1).lower() if scheme_match else ""
    if scheme not in _SCHEMES:
        raise RefusedUrl("scheme_not_allowed", scheme or "none")
    rest = text[len(scheme) + 1 :]
    if not rest.startswith("//"):
        raise RefusedUrl("bad_url", "no host")
    authority, path, query = _split(rest[2:])
    host, port = _host_and_port(authority, scheme)
    url = Url(scheme, host, port, _normal_path(path), _normal_query(query))
    if len(str(url)) > limits.MAX_URL_CHARACTERS:
        raise RefusedUrl("url_too_long", f"{len(str(url))} characters")
    return url


def _forward_slashes(text: str) -> str:
    """Before the query, browsers read a backslash as a slash; so must a check that is to hold."""
    before, mark, query = text.partition("?")
    return before.replace("\\", "/") + mark + query


def _absolute(text: str, base: Url) -> str:
    try:
        return urllib.parse.urljoin(str(base), text)
    except ValueError:
        raise RefusedUrl("bad_url", "it cannot be joined to its page") from None


class _Split(NamedTuple):
    authority: str
    path: str
    query: str


def _split(text: str) -> _Split:
    before, _, query = text.partition("?")
    authority, slash, path = before.partition("/")
    return _Split(authority, slash + path, query)


class _Place(NamedTuple):
    host: str
    port: int


def _host_and_port(authority: str, scheme: str) -> _Place:
    if "@" in authority:
        raise RefusedUrl("userinfo", "a name or password before the host")
    if authority.startswith("["):
        inner, bracket, tail = authority[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise RefusedUrl("bad_url", "bad brackets around a host")
        host, digits = _ipv6(inner), tail[1:]
    else:
        name, _, digits = authority.partition(":")
        host = _host_name(name)
    if not digits:
        return _Place(host, _SCHEMES[scheme])
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 5 and 1 <= int(digits) <= 65_535):
        raise RefusedUrl("bad_url", "bad port")
    return _Place(host, int(digits))


def _ipv6(text: str) -> str:
    if "%" in text:
        raise RefusedUrl("ambiguous_host", "an address with a zone")
    try:
        return ipaddress.IPv6Address(text).compressed
    except ValueError:
        raise RefusedUrl("bad_url", "bad IPv6 address") from None


def _host_name(name: str) -> str:
    """A name in ASCII, or a dotted IPv4 address; other spellings of an address are refused, not guessed."""
    if not name or "%" in name:
        raise RefusedUrl("bad_url" if not name else "ambiguous_host", "no host" if not name else "escape in a host")
    try:
        host = name.lower() if name.isascii() else idna.encode(name, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise RefusedUrl("bad_url", "bad international name") from None
    host = host.removesuffix(".")
    labels = host.split(".")
    if _NUMERIC.fullmatch(labels[-1]):  # RFC 3986 leaves octal, hexadecimal and short forms to the platform
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise RefusedUrl("ambiguous_host", "a number that platforms read differently") from None
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise RefusedUrl("bad_url", "bad host name")
    return host


def _normal_path(path: str) -> str:
    path = _normal_escapes(_SESSION_SEGMENT.sub("", path) or "/", safe=_PATH_SAFE)
    kept: list[str] = []
    *inner, last = path.split("/")[1:]
    for segment in inner:
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    if last in (".", ".."):
        kept = kept[:-1] if last == ".." else kept
        last = ""
    return "/" + "/".join([*kept, last])


def _normal_query(query: str) -> str:
    fields = [field for field in query.split("&") if field and not _is_session(field)]
    return _normal_escapes("&".join(fields), safe=_QUERY_SAFE)


def _is_session(field: str) -> bool:
    name = field.partition("=")[0].lower()
    return name in _SESSION_FIELDS or name.startswith(_SESSION_PREFIXES)


def _normal_escapes(text: str, *, safe: str) -> str:
    """Escapes in capitals, none where none is needed, one wherever one is."""

    def spelled(match: "re.Match[str]") -> str:
        character = chr(int(match.group(1), 16))
        return character if character in _UNRESERVED else match.group(0).upper()

    text = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", text)
    return urllib.parse.quote(_ESCAPE.sub(spelled, text), safe=safe, errors="replace")
