"""From a finished crawl to documents: which pages are kept, and under which reason each other address is counted.

The first page in the order of the crawl stays of those that are equal, so the choice does not depend on speed.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from chatwright.data.crawl.frontier import GUESSED_SITEMAP, KEPT, PAGE, REDIRECTED, Frontier, Settled
from chatwright.data.crawl.rights import RESERVED
from chatwright.data.crawl.settings import CrawlSettings


class Choice(NamedTuple):
    """An address: kept if `reason` is empty."""

    url: str
    reason: str
    detail: str
    facts: dict[str, Any]


def choose(config: CrawlSettings, frontier: Frontier) -> Iterator[Choice]:
    """Every address of the crawl in its order, but for sitemaps that were read and guesses that missed."""
    own = _own_canonicals(frontier)
    first: dict[str, str] = {}
    for settled in frontier.settled():
        if settled.kind != PAGE:
            if settled.state != KEPT and settled.kind != GUESSED_SITEMAP:
                yield Choice(settled.url, settled.reason or "sitemap_redirected", settled.detail, {})
            continue
        verdict = _verdict(config, settled)
        if verdict is None:
            canonical = settled.facts["canonical"]
            if canonical != settled.url and canonical in own:
                verdict = ("duplicate_canonical", f"the page says it is {canonical}")
            else:
                same = first.setdefault(settled.facts["digest"], settled.url)
                if same != settled.url:
                    verdict = ("duplicate_content", f"the same as {same}")
        yield Choice(settled.url, *(verdict or ("", "")), settled.facts)


def _own_canonicals(frontier: Frontier) -> frozenset[str]:
    """Kept pages that say of themselves that they are the original, or say nothing."""
    return frozenset(
        settled.url
        for settled in frontier.settled()
        if settled.kind == PAGE
        and settled.state == KEPT
        and settled.facts["canonical"] in ("", settled.url)
        and not settled.facts["noindex"]
    )


def _verdict(config: CrawlSettings, settled: Settled) -> tuple[str, str] | None:
    if settled.state == REDIRECTED:
        return "redirected", f"to {settled.detail}"
    if settled.state != KEPT:
        return settled.reason, settled.detail
    if config.noindex == "drop" and settled.facts["noindex"]:
        return "noindex", ""
    if config.reserved == "drop" and settled.facts["tdm"] == RESERVED:
        return "tdm_reserved", settled.facts["evidence"]
    return None


def refused_links(frontier: Frontier) -> dict[str, int]:
    """Links that were not followed, by reason, over all pages."""
    total: dict[str, int] = {}
    for settled in frontier.settled():
        for reason, count in settled.facts.get("links_refused", {}).items():
            total[reason] = total.get(reason, 0) + count
    return dict(sorted(total.items()))
