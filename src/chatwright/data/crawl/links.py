"""What a page says to a crawler: links, its canonical address, robots tags, reservations, its licence.

Runs in a sandboxed child (`data.sandbox`): hostile markup can take minutes or memory without end. lxml is fast and
lenient; resiliparse took seconds to give the attributes of a thousand links.
"""

import contextlib
import re
from typing import Any

from lxml import etree

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
    url = parse_url(page["url"])
    root = _parsed(page["html"])
    base = _base(root, url)
    result: dict[str, Any] = {"canonical": "", "licence": "", "meta": {}, "language": _language(root)}
    refused: dict[str, int] = {}
    links: dict[str, bool] = {}
    for element in root.iter("a", "area"):
        rel, href = _words(element, "rel"), element.get("href")
        if href is None:
            continue
        if "license" in rel and not result["licence"]:
            result["licence"] = href.strip()[: limits.MAX_URL_CHARACTERS]
        try:
            target = str(parse_url(href, base=base))
        except RefusedUrl as verdict:
            refused[verdict.reason] = refused.get(verdict.reason, 0) + 1
            continue
        links[target] = links.get(target, False) or not rel & {"nofollow", "ugc", "sponsored"}
    for element in root.iter("link"):
        _note_link(element, base, result)
    for element in root.iter("meta"):
        name = (element.get("name") or "").strip().lower()
        if name in _META_NAMES:
            before = result["meta"].get(name)
            content = (element.get("content") or "")[:1_000]
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


def _parsed(html: str) -> Any:
    """The tree of a page; an empty one if nothing can be made of it. The network and entities are never asked."""
    parser = etree.HTMLParser(encoding="utf-8", no_network=True, huge_tree=True, remove_comments=True, remove_pis=True)
    try:
        root = etree.fromstring(html.replace("\0", "").encode("utf-8", "replace"), parser)  # noqa: S320 - see above
    except etree.XMLSyntaxError:
        root = None
    return etree.Element("html") if root is None else root


def _base(root: Any, url: Url) -> Url:
    for element in root.iter("base"):
        try:
            return parse_url(element.get("href") or "", base=url)
        except RefusedUrl:
            break
    return url


def _note_link(element: Any, base: Url, result: dict[str, Any]) -> None:
    rel, href = _words(element, "rel"), element.get("href")
    if href and "license" in rel:
        result["licence"] = href.strip()[: limits.MAX_URL_CHARACTERS]
    if href and "canonical" in rel and not result["canonical"]:
        with contextlib.suppress(RefusedUrl):
            result["canonical"] = str(parse_url(href, base=base))


def _language(root: Any) -> str:
    language = (root.get("lang") or "").strip()
    return language if re.fullmatch(r"[A-Za-z0-9-]{2,35}", language) else ""


def _words(element: Any, name: str) -> set[str]:
    return set((element.get(name) or "").lower().split())
