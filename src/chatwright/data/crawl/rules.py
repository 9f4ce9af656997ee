"""The rules of each origin, fetched once a day: robots.txt and, beside it, `tdmrep.json`.

Rules that could not be fetched allow nothing, and are asked for again by the next run.
"""

from collections.abc import Callable
from typing import NamedTuple

from chatwright.data import limits
from chatwright.data.crawl.clock import Clock
from chatwright.data.crawl.fetch import Bounds, Response
from chatwright.data.crawl.rights import TDMREP_PATH, TdmRules
from chatwright.data.crawl.robots import UNREACHABLE, Robots, RobotsFile, fetch_robots
from chatwright.data.crawl.store import Origin, Store
from chatwright.data.crawl.urls import Url
from chatwright.data.crawl.verdicts import Unfetchable

_IDENTITY = {"accept-encoding": "identity", "accept": "text/plain, */*;q=0.1"}
_TDMREP_BOUNDS = Bounds(limits.MAX_TDMREP_BYTES)
# Failures that say more than that rules are missing: they are told by their own name.
_OF_THE_HOST = frozenset({"private_address", "dns_failed", "connection_failed", "tls_failed"})
_MAX_PARSED = 256  # origins whose parsed rules are held in memory


def fetch_origin(url: Url, get: Callable[..., Response], *, now: float) -> Origin:
    """Ask an origin for its rules: two requests, and those of redirects.

    Raises:
        Unfetchable: what may pass.
    """
    robots = fetch_robots(url, lambda place, bounds: get(place, headers=_IDENTITY, bounds=bounds))
    tdmrep = b""
    if robots.outcome != UNREACHABLE:
        tdmrep = _fetch_tdmrep(url.at(TDMREP_PATH), get)
    return Origin(robots.outcome, robots.text, robots.detail, tdmrep, now)


def _fetch_tdmrep(url: Url, get: Callable[..., Response]) -> bytes:
    """The file, or nothing if there is none; only silence and a troubled server are worth asking again."""
    try:
        response = get(url, headers=_IDENTITY, bounds=_TDMREP_BOUNDS)
    except Unfetchable as verdict:
        if verdict.may_pass:
            raise
        return b""
    if response.status >= 500 or response.status == 429:
        raise Unfetchable(f"http_{response.status}", "tdmrep.json", may_pass=True)
    return response.body if response.status == 200 else b""


class Refusal(NamedTuple):
    """Why an address may not be asked for."""

    reason: str
    detail: str


class _Known(NamedTuple):
    robots: Robots
    tdmrep: TdmRules
    checked: float


class Rules:
    """Rules by origin, from the store where they are fresh.

    Args:
        store: keeps them.
        clock: tells their age.
    """

    def __init__(self, store: Store, clock: Clock):
        self._store = store
        self._clock = clock
        self._parsed: dict[str, _Known] = {}
        self._given_up: dict[str, Origin] = {}

    def is_known(self, url: Url) -> bool:
        """Whether the origin's rules are at hand and no older than a day."""
        found = self._of(url)
        return found is not None and 0 <= self._clock.now() - found.checked <= limits.ROBOTS_FRESH_S

    def put(self, url: Url, origin: Origin) -> None:
        """Take an origin's rules as they were fetched."""
        if origin.outcome == UNREACHABLE:
            self._given_up[url.origin] = origin
        else:
            self._store.put_origin(url.origin, origin)
        self._remember(url, origin)

    def give_up(self, url: Url, verdict: Unfetchable) -> None:
        """Take it that nothing is allowed, for this run: not stored, so that the next one asks again."""
        self.put(url, Origin(UNREACHABLE, "", f"{verdict.reason}: {verdict.detail}", b"", self._clock.now()))

    def refusal(self, url: Url) -> Refusal | None:
        """Why a page may not be fetched; None if it may. `is_known` comes first."""
        robots = self._known(url).robots
        if robots.outcome == UNREACHABLE:
            reason, _, detail = robots.detail.partition(": ")
            if reason in _OF_THE_HOST:
                return Refusal(reason, detail)
            return Refusal("robots_unreachable", robots.detail)
        if not robots.allows(url):
            return Refusal("robots_disallowed", "")
        if robots.delay_s > limits.MAX_CRAWL_DELAY_S:
            return Refusal("robots_too_slow", f"a delay of {robots.delay_s:g} s")
        return None

    def delay_s(self, url: Url) -> float:
        """Seconds between requests that the origin asks for; 0 if that is not known."""
        found = self._of(url)
        return 0.0 if found is None else min(found.robots.delay_s, limits.MAX_CRAWL_DELAY_S)

    def sitemaps(self, url: Url) -> tuple[str, ...]:
        """Addresses of sitemaps in robots.txt."""
        return self._last_said(url).robots.sitemaps

    def reservation(self, url: Url) -> str:
        """Which of the origin's files reserves a page; with `!` before it if one says that it does not."""
        known = self._last_said(url)
        verdict = known.tdmrep.verdict(url)
        if known.robots.reserves(url):
            return "robots.txt Content-Signal"
        return "" if verdict is None else "tdmrep.json" if verdict else "!tdmrep.json"

    def _of(self, url: Url) -> _Known | None:
        found = self._parsed.get(url.origin)
        if found is not None:
            return found
        stored = self._given_up.get(url.origin) or self._store.origin(url.origin)
        return None if stored is None else self._remember(url, stored)

    def _known(self, url: Url) -> _Known:
        found = self._of(url)
        assert found is not None, f"the rules of {url.origin} were not asked for"  # noqa: S101
        return found

    def _last_said(self, url: Url) -> _Known:
        """An origin's rules as they were last had, even if they cannot be had now: what it reserved stays reserved."""
        stored = self._store.origin(url.origin) if url.origin in self._given_up else None
        return self._known(url) if stored is None else _parsed(stored)

    def _remember(self, url: Url, origin: Origin) -> _Known:
        if len(self._parsed) >= _MAX_PARSED:
            self._parsed.pop(next(iter(self._parsed)))
        self._parsed[url.origin] = _parsed(origin)
        return self._parsed[url.origin]


def _parsed(origin: Origin) -> _Known:
    robots = Robots(RobotsFile(origin.outcome, origin.robots, origin.detail))
    return _Known(robots, TdmRules(origin.tdmrep), origin.checked)
