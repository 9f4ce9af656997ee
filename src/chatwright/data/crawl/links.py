"""What a page says to a crawler: links, its canonical address, robots tags, reservations, its licence.

Runs in a sandboxed child (`data.sandbox`): hostile markup can take minutes or memory without end. resiliparse reads
broken HTML as browsers do.
"""

import re
from typing import Any

from chatwright.data import limits
from chatwright.data.crawl.urls import RefusedUrl, Url, parse_url

_META_NAMES = frozenset({"robots", "chatwright", "tdm-reservation", "tdm-policy"})
_CREATIVE_COMMONS = re.compile(
    r"^https?://creativecommons\.org/(?:licenses/(?P<kind>by(?:-nc)?(?:-sa|-nd)?)|publicdomain/(?P<free>zero|mark))"
    r"/(?P<version>\d\.\d)"
)


def read_page(page: dict[str, str]) -> dict[str, Any]:
    """Read `html` that came from `url`. Takes and gives JSON values, for the sandbox.

    Returns:
        `links`: absolute URLs in the order of the page, each once, those that its author vouches for;
        `refused`: counts of links by the reason that they are none; `nofollow`: links not vouched for;
        `canonical`, `licence`, `language`: as declared, or empty; `meta`: robots tags and reservations.
    """
    from resiliparse.parse.html import HTMLTree

    url = parse_url(page["url"])
    document: Any = HTMLTree.parse(page["html"]).document
    base = _base(document, url)
    result: dict[str, Any] = {"canonical": "", "licence": "", "meta": {}, "language": _language(document)}
    refused: dict[str, int] = {}
    links: dict[str, bool] = {}
    for element in document.query_selector_all("a[href], area[href]"):
        rel = _words(element, "rel")
        if "license" in rel and not result["licence"]:
            result["licence"] = element.getattr("href").strip()[: limits.MAX_URL_CHARACTERS]
        try:
            target = str(parse_url(element.getattr("href"), base=base))
        except RefusedUrl as verdict:
            refused[verdict.reason] = refused.get(verdict.reason, 0) + 1
            continue
        links[target] = links.get(target, False) or not rel & {"nofollow", "ugc", "sponsored"}
    for element in document.query_selector_all("link[href]"):
        _note_link(element, base, result)
    for element in document.query_selector_all("meta[name]"):
        name = (element.getattr("name") or "").strip().lower()
        if name in _META_NAMES:
            before = result["meta"].get(name)
            content = (element.getattr("content") or "")[:1_000]
            result["meta"][name] = f"{before}, {content}" if before else content
    followed = [target for target, is_vouched in links.items() if is_vouched]
    if len(followed) > limits.MAX_LINKS_PER_PAGE:
        refused["too_many_links"] = len(followed) - limits.MAX_LINKS_PER_PAGE
    result["links"] = followed[: limits.MAX_LINKS_PER_PAGE]
    return result | {"refused": refused, "nofollow": len(links) - len(followed)}


def licence_name(url: str) -> str:
    """The SPDX name of a Creative Commons licence that a page links to; the link itself for others."""
    found = _CREATIVE_COMMONS.match(url)
    if found is None:
        return url
    if found["free"]:
        return "CC0-1.0" if found["free"] == "zero" else "CC-PDM-1.0"
    return f"CC-{found['kind'].upper()}-{found['version']}"


def _base(document: Any, url: Url) -> Url:
    element = document.query_selector("base[href]")
    if element is None:
        return url
    try:
        return parse_url(element.getattr("href"), base=url)
    except RefusedUrl:
        return url


def _note_link(element: Any, base: Url, result: dict[str, Any]) -> None:
    rel = _words(element, "rel")
    if "license" in rel:
        result["licence"] = element.getattr("href").strip()[: limits.MAX_URL_CHARACTERS]
    if "canonical" in rel and not result["canonical"]:
        try:
            result["canonical"] = str(parse_url(element.getattr("href"), base=base))
        except RefusedUrl:
            return


def _language(document: Any) -> str:
    root = document.query_selector("html")
    language = ((root.getattr("lang") or "") if root is not None else "").strip()
    return language if re.fullmatch(r"[A-Za-z0-9-]{2,35}", language) else ""


def _words(element: Any, name: str) -> set[str]:
    return set((element.getattr(name) or "").lower().split())
