"""robots.txt as RFC 9309 says it: what a site lets this crawler fetch, how fast, and where its sitemaps are.

Protego reads the rules. It matches product tokens more loosely than the RFC, so names of agents are made exact first.
Besides the RFC: `Crawl-delay`, `Request-rate`, and `Content-Signal` / `Content-Usage`, which speak of training.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from protego import Protego

from chatwright.data import limits
from chatwright.data.crawl.fetch import Bounds, Response
from chatwright.data.crawl.urls import RefusedUrl, Url, parse_url
from chatwright.data.crawl.verdicts import Unfetchable

TOKEN = "chatwright"  # the product token that sites write rules for  # noqa: S105
PATH = "/robots.txt"
FOUND = "found"
UNAVAILABLE = "unavailable"  # 4xx: everything is allowed (RFC 9309, 2.3.1.3)
UNREACHABLE = "unreachable"  # 5xx and silence: nothing is allowed (2.3.1.4)

_AGENT_LINE = re.compile(r"(?i)^[ \t]*user-?agent[ \t]*:[ \t]*([^#\r\n]*)")
_PRODUCT = re.compile(r"[A-Za-z_-]+")
_BOUNDS = Bounds(limits.MAX_ROBOTS_BYTES, is_prefix_enough=True)
_REDIRECTS = (301, 302, 303, 307, 308)

Get = Callable[[Url, Bounds], Response]


class RobotsFile(NamedTuple):
    """What asking for a robots.txt gave."""

    outcome: str
    text: str = ""
    detail: str = ""


def fetch_robots(origin: Url, get: Get) -> RobotsFile:
    """Ask an origin for its rules, following at most five redirects, to other hosts too (RFC 9309, 2.3.1.2).

    A redirect loop counts as unavailable, as the RFC says; a redirect to where this crawler may not go as unreachable.

    Args:
        origin: any URL of the origin.
        get: one request; every redirect goes through it, so each address is checked.

    Raises:
        Unfetchable: what may pass when asked again: silence, 5xx, 429.
    """
    url = origin.at(PATH)
    for _ in range(limits.MAX_REDIRECTS + 1):
        try:
            response = get(url, _BOUNDS)
        except Unfetchable as verdict:
            if verdict.may_pass:
                raise
            return RobotsFile(UNREACHABLE, detail=f"{verdict.reason}: {verdict.detail}")
        if response.status not in _REDIRECTS:
            return _from_response(response)
        try:
            target = parse_url(response.headers.get("location", ""), base=url)
        except RefusedUrl as refused:
            return RobotsFile(UNREACHABLE, detail=f"redirect to {refused.reason}")
        if url.scheme == "https" and target.scheme == "http":
            return RobotsFile(UNREACHABLE, detail="redirect from https to http")
        url = target
    return RobotsFile(UNAVAILABLE, detail=f"more than {limits.MAX_REDIRECTS} redirects")


def _from_response(response: Response) -> RobotsFile:
    if 200 <= response.status < 300:
        body = response.body
        if len(body) >= limits.MAX_ROBOTS_BYTES:  # a rule cut in two would be another rule
            body = body[: max(body.rfind(b"\n"), body.rfind(b"\r")) + 1]
        return RobotsFile(FOUND, body.decode("utf-8-sig", "replace").replace("\0", ""))
    detail = f"status {response.status}"
    if response.status == 429 or not 400 <= response.status < 500:
        wait_s = retry_after_s(response)
        raise Unfetchable(f"http_{response.status}", detail, may_pass=True, wait_s=wait_s)
    return RobotsFile(UNAVAILABLE, detail=detail)


def retry_after_s(response: Response) -> float | None:
    """Seconds that a server asked to wait, if it said so in seconds."""
    text = response.headers.get("retry-after", "").strip()
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


class Robots:
    """The rules of one origin for this crawler."""

    def __init__(self, file: RobotsFile):
        self.outcome = file.outcome
        self.detail = file.detail
        text = _with_exact_agents(file.text)
        self._rules = Protego.parse(text)
        self.sitemaps = tuple(dict.fromkeys(self._rules.sitemaps))
        self._reservations = _training_rules(text)

    def allows(self, url: Url) -> bool:
        """Whether the page may be fetched."""
        if self.outcome == FOUND:
            return bool(self._rules.can_fetch(str(url), TOKEN))
        return self.outcome == UNAVAILABLE

    @property
    def delay_s(self) -> float:
        """Seconds between requests that the site asks for; 0 if it asks for none."""
        delay = self._rules.crawl_delay(TOKEN) or 0.0
        rate = self._rules.request_rate(TOKEN)
        return max(float(delay), rate.seconds / rate.requests if rate and rate.requests else 0.0)

    def reserves(self, url: Url) -> bool:
        """Whether the site says here that its pages are not for training."""
        fitting = [rule for rule in self._reservations if url.target.startswith(rule.prefix)]
        return bool(fitting) and max(fitting, key=lambda rule: (len(rule.prefix), rule.is_reserved)).is_reserved


def _with_exact_agents(text: str) -> str:
    """Groups for this crawler are those whose product token is equal to ours, whatever their case (2.2.1)."""

    def exact(line: str) -> str:
        found = _AGENT_LINE.match(line)
        if found is None:
            return line
        name = found.group(1).strip()
        product = _PRODUCT.match(name)
        if name.startswith("*"):
            return "User-agent: *"
        is_ours = product is not None and product.group(0).lower() == TOKEN
        return f"User-agent: {TOKEN if is_ours else 'another'}"

    return "\n".join(map(exact, text.splitlines()))


class _TrainingRule(NamedTuple):
    prefix: str
    is_reserved: bool


def _training_rules(text: str) -> list[_TrainingRule]:
    """Lines that speak of training, of our group if there is one, otherwise of everybody's."""
    groups: dict[str, list[_TrainingRule]] = {}
    agents: list[str] = []
    is_open = False  # whether further agents join the group
    for line in text.splitlines():
        name, colon, value = line.partition("#")[0].partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon:
            continue
        if name == "user-agent":
            agents = [*agents, value] if is_open else [value]
            is_open = True
            groups.setdefault(value, [])
            continue
        is_open = False
        rule = _training_rule(value) if name in ("content-signal", "content-usage") else None
        if rule is not None:
            for agent in agents:
                groups[agent].append(rule)
    return groups.get(TOKEN, groups.get("*", []))


def _training_rule(value: str) -> _TrainingRule | None:
    prefix, rest = "/", value
    if value.startswith("/"):
        prefix, _, rest = value.partition(" ")
    verdict = says_no_training(rest)
    return None if verdict is None else _TrainingRule(prefix, verdict)


def says_no_training(text: str) -> bool | None:
    """What `ai-train=no` (Content Signals) or `train-ai=n` (the IETF's draft) says; None if it says nothing."""
    for part in text.lower().replace(";", ",").split(","):
        name, _, value = part.partition("=")
        if name.strip() in ("ai-train", "train-ai", "tdm"):
            return value.strip() in ("no", "n")
    return None
