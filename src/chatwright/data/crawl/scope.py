"""Which links belong to a crawl: the same-site rule, ports, patterns, depth, and addresses that look like traps.

Pure functions of the address; nothing is asked of any server here.
"""

import re
from typing import NamedTuple

import tld

from chatwright.data import limits
from chatwright.data.crawl.patterns import matches
from chatwright.data.crawl.settings import CrawlSettings
from chatwright.data.crawl.urls import Url

_DEFAULT_PORTS = frozenset({80, 443})
_DIGITS = re.compile(r"[0-9]+")
_MAX_REPEATED_GROUP = 8


class _Site(NamedTuple):
    host: str  # without `www.`
    domain: str
    folder: str


class Scope:
    """What a recipe's crawl may ask for."""

    def __init__(self, config: CrawlSettings):
        self._config = config
        self._sites = tuple(_site(url) for url in config.start_urls)
        self._ports = _DEFAULT_PORTS | {url.port for url in config.start_urls}

    def refusal(self, url: Url, *, depth: int) -> str:
        """Why a link is not followed, in one word; empty if it is.

        The order is that in which a person would want to know.
        """
        if not self.is_same_site(url):
            return "off_site"
        if url.port not in self._ports:
            return "port_not_allowed"
        if depth > self._config.max_depth:
            return "too_deep"
        if any(matches(pattern, url.target) for pattern in self._config.exclude):
            return "excluded"
        return trap(url)

    def not_included(self, url: Url) -> str:
        """A reason if `include` does not name the page: only starts among these are read, for their links."""
        named = not self._config.include or any(matches(pattern, url.target) for pattern in self._config.include)
        return "" if named else "not_included"

    def is_same_site(self, url: Url) -> bool:
        """Whether the address belongs to one of the sites that the crawl began at."""
        mine = _site(url)
        match self._config.same_site:
            case "host":
                return any(mine.host == site.host for site in self._sites)
            case "domain":
                return any(mine.domain == site.domain for site in self._sites)
            case _:
                return any(mine.host == site.host and url.path.startswith(site.folder) for site in self._sites)


def trap(url: Url) -> str:
    """A reason if the address looks as if a server could make such addresses without end."""
    segments = [segment for segment in url.path.split("/") if segment]
    if len(segments) > limits.MAX_URL_SEGMENTS or url.query.count("&") >= limits.MAX_QUERY_FIELDS:
        return "trap_long"
    for size in range(1, _MAX_REPEATED_GROUP + 1):
        run = 0
        for place in range(size, len(segments)):
            run = run + 1 if segments[place] == segments[place - size] else 0
            if run >= size * (limits.MAX_SEGMENT_REPEATS - 1):
                return "trap_repeating"
    return ""


def shape(url: Url) -> str:
    """What addresses have in common that differ in numbers and values only."""
    names = sorted(_DIGITS.sub("0", field.partition("=")[0]) for field in url.query.split("&") if field)
    return f"{url.host}{_DIGITS.sub('0', url.path)}?{'&'.join(names)}"


def _site(url: Url) -> _Site:
    domain = tld.get_fld(f"http://{url.host}/", fail_silently=True, search_private=True)
    folder = url.path[: url.path.rfind("/") + 1]
    return _Site(url.host.removeprefix("www."), domain or url.host, folder)
