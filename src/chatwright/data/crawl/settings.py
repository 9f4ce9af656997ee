"""The settings of the source `website`: where to begin, what belongs to it, how much and how fast.

There is none to ignore robots.txt, to leave out the verification of certificates, or to name another crawler.
"""

import datetime
import importlib.metadata
import ipaddress
from collections.abc import Iterator
from typing import Any, Literal

from chatwright.data.crawl.addresses import Network
from chatwright.data.crawl.robots import TOKEN
from chatwright.data.crawl.urls import RefusedUrl, Url, parse_url
from chatwright.data.document import UNKNOWN_LICENCE
from chatwright.foundation import storage
from chatwright.foundation.config import Config

_MIN_DELAY_S = 0.1
# What a crawl finds depends on nothing else: with other values of these, links are followed anew from stored pages.
_DECIDES = (
    *("start", "sitemaps", "same_site", "include", "exclude", "allow_private", "refresh_before"),
    *("max_depth", "max_pages", "max_fetched_bytes", "max_alike"),
)


class CrawlSettings(Config):
    """What a crawl fetches, and how; the source `website` adds what all sources have."""

    start: tuple[str, ...]  # URLs to begin at
    contact: str  # an e-mail address or a page about you: owners of sites see it in the `User-Agent`
    store: str | None = None  # folder that keeps pages between runs; None: `crawls/HOST`
    sitemaps: bool = True  # also begin at what sitemaps list
    same_site: Literal["host", "domain", "prefix"] = (
        "host"  # of the start: its host, its registrable domain, its folder
    )
    include: tuple[str, ...] = ()  # patterns with `*` over path and query; none takes all
    exclude: tuple[str, ...] = ()
    max_depth: int = 16  # links from a start
    max_pages: int = 10_000  # addresses asked for
    max_fetched_bytes: int = 2 << 30  # of bodies; no further page is begun beyond it
    max_alike: int = 1_000  # addresses that differ in numbers and values only, as calendars make them without end
    delay_s: float = 1.0  # between requests to a host; a longer `Crawl-delay` is kept
    concurrency: int = 8  # hosts at once, each with one connection
    allow_private: tuple[str, ...] = ()  # networks that are not public, such as "10.1.0.0/16"
    refresh_before: str | None = None  # a date: pages looked at before it are asked for again if they changed
    reserved: Literal["drop", "keep"] = "drop"  # pages whose owner reserves text and data mining
    noindex: Literal["drop", "keep"] = "drop"  # pages that ask not to be indexed
    domain: str | None = None  # None takes the first host
    licence: str = UNKNOWN_LICENCE  # of pages that declare none

    def problems(self) -> Iterator[str]:
        """Start URLs, contact, patterns, numbers and networks that mean something."""
        yield from self._start_problems()
        if not _is_contact(self.contact):
            yield f"`contact` must be an e-mail address or an http(s) URL, for owners of sites: {self.contact!r}"
        for pattern in (*self.include, *self.exclude):
            if not pattern.startswith(("/", "*")):
                yield f"a pattern begins with `/` or `*`, such as `/docs/*`: {pattern!r}"
        for name, least in (
            ("max_depth", 0),
            ("max_pages", 1),
            ("max_fetched_bytes", 1),
            ("max_alike", 1),
            ("concurrency", 1),
        ):
            if getattr(self, name) < least:
                yield f"`{name}` must be at least {least}: {getattr(self, name)}"
        if self.concurrency > 64:
            yield f"`concurrency` must be at most 64: {self.concurrency}"
        if not _MIN_DELAY_S <= self.delay_s <= 3_600:
            yield f"`delay_s` must lie between {_MIN_DELAY_S} and 3600: {self.delay_s}"
        yield from self._network_problems()
        if self.refresh_before is not None and _moment(self.refresh_before) is None:
            yield f"`refresh_before` must be a date such as 2026-11-23: {self.refresh_before!r}"

    def _start_problems(self) -> Iterator[str]:
        if not self.start:
            yield "`start` names no URL"
        for text in self.start:
            try:
                parse_url(text)
            except RefusedUrl as refused:
                yield f"`start` has an address that cannot be fetched ({refused.reason}, {refused.detail}): {text!r}"

    def _network_problems(self) -> Iterator[str]:
        for text in self.allow_private:
            try:
                ipaddress.ip_network(text)
            except ValueError:
                yield f"`allow_private` takes networks such as `10.1.0.0/16`: {text!r}"

    @property
    def start_urls(self) -> tuple[Url, ...]:
        """The start addresses."""
        return tuple(map(parse_url, self.start))

    @property
    def networks(self) -> tuple[Network, ...]:
        """Networks that are not public and may be connected to."""
        return tuple(map(ipaddress.ip_network, self.allow_private))

    @property
    def name(self) -> str:
        """The first host: names the store and the domain where the recipe does not."""
        return self.start_urls[0].host

    @property
    def agent(self) -> str:
        """The `User-Agent` field."""
        return f"{TOKEN}/{importlib.metadata.version('chatwright')} (+{self.contact})"

    @property
    def refresh_moment(self) -> float:
        """Seconds since 1970 before which a page counts as old; 0 without a date."""
        moment = None if self.refresh_before is None else _moment(self.refresh_before)
        return 0.0 if moment is None else moment.timestamp()

    @property
    def traversal(self) -> str:
        """Digest of the settings that decide which pages a crawl finds."""
        values: dict[str, Any] = self.model_dump(mode="json")
        return storage.digest_json({name: values[name] for name in _DECIDES})


def _is_contact(text: str) -> bool:
    if not text.isascii() or not text.isprintable() or any(character in text for character in " ()<>\\\"',;"):
        return False
    if text.startswith(("http://", "https://")):
        return "." in text.partition("//")[2]
    name, at, host = text.partition("@")
    return bool(name and at) and "." in host and "@" not in host


def _moment(text: str) -> datetime.datetime | None:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
