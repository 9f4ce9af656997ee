"""What is taken from responses: links into the frontier, pages and their facts into the store.

The caller holds the transaction: the page, its links and its verdict are kept together or not at all.
"""

import collections
import datetime
from types import TracebackType
from typing import Any, Self

from chatwright.data import limits
from chatwright.data.crawl import frontier as states
from chatwright.data.crawl.fetch import Response
from chatwright.data.crawl.frontier import PAGE, Entry, Frontier
from chatwright.data.crawl.rights import rights_of
from chatwright.data.crawl.rules import Rules
from chatwright.data.crawl.scope import Scope
from chatwright.data.crawl.settings import CrawlSettings
from chatwright.data.crawl.sitemaps import read_sitemap
from chatwright.data.crawl.store import Page, Store
from chatwright.data.crawl.urls import RefusedUrl, Url, parse_url
from chatwright.data.crawl.verdicts import Unfetchable
from chatwright.data.crawl.visit import (
    REDIRECTS,
    PageFacts,
    conditional_headers,
    kept_headers,
    media_of,
    new_reader,
    page_facts,
    redirect_target,
    require_page,
)

_GUESSED_SITEMAP_PATH = "/sitemap.xml"


class Harvest:
    """Settles addresses.

    Args:
        config: what belongs to the crawl.
        store: of pages.
        frontier: of addresses, on the same connection.
        rules: of origins.
    """

    def __init__(self, config: CrawlSettings, *, store: Store, frontier: Frontier, rules: Rules):
        self._config = config
        self._store = store
        self._frontier = frontier
        self._rules = rules
        self._scope = Scope(config)
        self._reader = new_reader()
        self._start_origins = {url.origin for url in config.start_urls}
        self._bytes = 0

    def note_sitemaps(self, url: Url) -> None:
        """Take the sitemaps of a start's origin into the frontier, once its rules are known."""
        if not self._config.sitemaps or url.origin not in self._start_origins:
            return
        self._start_origins.discard(url.origin)
        listed = self._rules.sitemaps(url)
        for position, text in enumerate(listed):
            try:
                self._frontier.add(parse_url(text, base=url.at("/")), kind=states.SITEMAP, position=position)
            except RefusedUrl:
                continue  # a line of robots.txt that names nothing
        if not listed:
            guess = url.at(_GUESSED_SITEMAP_PATH)
            self._frontier.add(guess, kind=states.GUESSED_SITEMAP, position=0)

    def conditions(self, url: str) -> dict[str, str]:
        """Header fields that ask only for what changed."""
        return conditional_headers(self._store.page(url))

    def is_at_hand(self, url: str) -> bool:
        """Whether this very crawl fetched the page, which the site's rules then allowed: nothing has to be asked."""
        page = self._store.page(url)
        return page is not None and page.checked >= float(self._store.meta("begun") or 0.0)

    def settle_without_asking(self, entry: Entry, url: Url) -> bool:
        """Settle an address that may not be asked for, or whose page is stored and fresh."""
        if self.is_at_hand(entry.url):
            page = self._store.page(entry.url)
            assert page is not None  # noqa: S101 - that is what being at hand says
            self._settle_page(entry, url, page)
            return True
        refusal = self._rules.refusal(url)
        if refusal is not None:
            self._frontier.settle(entry.url, states.REFUSED, reason=refusal.reason, detail=refusal.detail)
            return True
        page = self._store.page(entry.url)
        if page is not None and self._is_fresh(page):
            self._settle_page(entry, url, page)
            return True
        if self._bytes >= self._config.max_fetched_bytes:
            self._frontier.settle(entry.url, states.REFUSED, reason="byte_limit")
            return True
        return False

    def settle_response(self, entry: Entry, url: Url, response: Response, *, now: float) -> None:
        """Settle an address by what its server said."""
        self._bytes += len(response.body)
        stored = self._store.page(entry.url)
        if response.status == 304 and stored is not None:
            self._store.confirm_page(entry.url, now=now)
            self._settle_page(entry, url, stored)
            return
        has_body = response.status == 200 and (entry.kind != PAGE or media_of(response.headers) is not None)
        body = response.body if has_body else None
        page = self._store.put_page(entry.url, response.status, kept_headers(response), body, now=now)
        self._settle_page(entry, url, page)

    def settle_failure(self, entry: Entry, url: Url, verdict: Unfetchable) -> None:
        """Give an address up; a page that an earlier crawl fetched is kept where the trouble may pass."""
        stored = self._store.page(entry.url)
        if verdict.may_pass and stored is not None and stored.digest is not None:
            self._settle_page(entry, url, stored)
            return
        self._frontier.settle(entry.url, states.FAILED, reason=verdict.reason, detail=verdict.detail)

    def _is_fresh(self, page: Page) -> bool:
        """Whether the page need not be asked for: a date in the future does not ask twice in one crawl."""
        begun = float(self._store.meta("begun") or 0.0)
        return page.checked >= min(self._config.refresh_moment, begun)

    def _settle_page(self, entry: Entry, url: Url, page: Page) -> None:
        try:
            if page.status in REDIRECTS:
                self._settle_redirect(entry, url, redirect_target(page, url))
                return
            require_page(page, entry.kind)
            body = self._store.body(page.digest) if page.digest else b""
            if entry.kind == PAGE:
                self._settle_document(entry, url, page, page_facts(entry.url, body, page.headers, self._reader))
            else:
                self._settle_sitemap(entry, url, body)
        except Unfetchable as verdict:
            self._frontier.settle(entry.url, states.FAILED, reason=verdict.reason, detail=verdict.detail)

    def _settle_redirect(self, entry: Entry, url: Url, target: Url) -> None:
        shown = str(target)
        if shown == entry.url or shown in self._frontier.redirected_from(entry.url):
            raise Unfetchable("redirect_loop", f"to {shown}")
        if entry.hops >= limits.MAX_REDIRECTS:
            raise Unfetchable("too_many_redirects", f"to {shown}")
        reason = self._scope.refusal(target, depth=entry.depth)
        if reason:
            self._frontier.settle(entry.url, states.REFUSED, reason=reason, detail=f"redirect to {shown}")
            return
        place = {"depth": entry.depth, "hops": entry.hops + 1, "parent": entry.place, "position": -1}
        self._frontier.add(target, kind=entry.kind, via=str(url), **place)
        self._frontier.settle(entry.url, states.REDIRECTED, detail=shown)

    def _settle_document(self, entry: Entry, url: Url, page: Page, said: PageFacts) -> None:
        site_says = self._rules.reservation(url)
        rights = rights_of(page.headers, said.meta, site_says=site_says)
        refused = collections.Counter(said.refused)
        if said.nofollow:
            refused["nofollow"] += said.nofollow
        if rights.nofollow:
            refused["nofollow"] += len(said.links)
        else:
            links = [said.canonical, *said.links] if said.canonical else said.links
            self._add_links(entry, links, refused)
        facts: dict[str, Any] = {
            "digest": page.digest,
            "bytes": page.size,
            "media": said.media,
            "content_type": page.headers.get("content-type", ""),
            "fetched": datetime.datetime.fromtimestamp(page.fetched, datetime.UTC).isoformat(timespec="seconds"),
            "canonical": said.canonical,
            "licence": said.licence,
            "language": said.language,
            "noindex": rights.noindex,
            "tdm": rights.tdm,
            "evidence": rights.evidence,
            "links_refused": dict(sorted(refused.items())),
        }
        reason = self._scope.not_included(url)
        self._frontier.settle(entry.url, states.REFUSED if reason else states.KEPT, reason=reason, facts=facts)

    def _add_links(self, entry: Entry, links: list[str], refused: "collections.Counter[str]") -> None:
        depth = entry.depth + 1
        for position, text in enumerate(links):
            target = parse_url(text)
            reason = self._scope.refusal(target, depth=depth) or self._scope.not_included(target)
            if reason:
                refused[reason] += 1
            else:
                self._frontier.add(target, depth=depth, via=entry.url, parent=entry.place, position=position)

    def _settle_sitemap(self, entry: Entry, url: Url, body: bytes) -> None:
        listed = read_sitemap(body)
        refused: collections.Counter[str] = collections.Counter()
        for position, text in enumerate(listed.pages):
            target = self._listed(text, url, refused)
            if target is None:
                continue
            reason = self._scope.refusal(target, depth=0) or self._scope.not_included(target)
            if reason:
                refused[reason] += 1
            else:
                self._frontier.add(target, via=entry.url, parent=entry.place, position=position)
        for position, text in enumerate(listed.sitemaps):
            target = self._listed(text, url, refused)
            if target is None:
                continue
            if entry.kind == states.INNER_SITEMAP:
                refused["sitemap_nesting"] += 1
            elif target.host != url.host and not self._scope.is_same_site(target):
                refused["off_site"] += 1
            else:
                place = {"parent": entry.place, "position": position}
                self._frontier.add(target, kind=states.INNER_SITEMAP, via=entry.url, **place)
        facts = {"links_refused": dict(sorted(refused.items()))}
        if listed.problem and entry.kind != states.GUESSED_SITEMAP:
            self._frontier.settle(entry.url, states.FAILED, reason="bad_sitemap", detail=listed.problem, facts=facts)
        else:
            self._frontier.settle(entry.url, states.KEPT, facts=facts)

    def _listed(self, text: str, url: Url, refused: "collections.Counter[str]") -> Url | None:
        try:
            return parse_url(text, base=url)
        except RefusedUrl as verdict:
            refused[verdict.reason] += 1
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()
