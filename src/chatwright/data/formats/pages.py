"""A page as a record: with the licence that it names, and what it and its server say of indexing and mining.

Nothing is dropped here; what a source does with the verdicts is `sources.permitted`.
"""

import html
import re
from collections.abc import Mapping

from chatwright.data.crawl.rights import Rights, rights_of
from chatwright.data.crawl.robots import TOKEN
from chatwright.data.document import HTML
from chatwright.data.formats.record import ALLOWED, DISALLOWED, Record
from chatwright.data.licences import licence_of_page

_ROBOTS = ("robots", TOKEN)
_META_NAMES = (*_ROBOTS, "tdm-reservation")
# Read without a tree, which hostile pages make dear: a tag in a comment counts too, never wrong towards the owner.
_META = re.compile(r"<meta\s([^<>]{1,4000})>", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"""\b(name|content)\s{0,9}=\s{0,9}(?:"([^"]*)"|'([^']*)'|([^\s"']+))""", re.IGNORECASE)


def page_record(text: str, headers: Mapping[str, str], *, media: str = HTML) -> Record:
    """A page's text with what its owner says.

    Args:
        text: the page, HTML or plain.
        headers: of the response, as `rights_of` takes them; empty for a file.
        media: tags are looked for in HTML alone.
    """
    licence = licence_of_page(text) if media == HTML else None
    meta = meta_of(text) if media == HTML else {}
    rights = rights_of(headers, meta)
    return Record(
        text,
        media=media,
        licence=licence.name if licence else "",
        licence_evidence=licence.evidence if licence else "",
        robots=_robots_verdict(rights, headers, meta),
        tdm=rights.tdm,
        tdm_evidence=rights.evidence,
    )


def meta_of(page: str) -> dict[str, str]:
    """What the `meta` tags of an HTML page say of robots and reservations, by their names in lower case."""
    found: dict[str, str] = {}
    for tag in _META.finditer(page):
        words = {name.lower(): html.unescape(a or b or c) for name, a, b, c in _ATTRIBUTE.findall(tag[1])}
        name = words.get("name", "").strip().lower()
        if name in _META_NAMES:
            content = words.get("content", "")
            found[name] = f"{found[name]}, {content}" if name in found else content
    return found


def _robots_verdict(rights: Rights, headers: Mapping[str, str], meta: Mapping[str, str]) -> str:
    """Empty where nothing is said: `robots.txt` is not a part of a page's record."""
    if rights.noindex:
        return DISALLOWED
    return ALLOWED if "x-robots-tag" in headers or any(name in meta for name in _ROBOTS) else ""
