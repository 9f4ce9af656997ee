"""Licences told from the words and links of a document, as SPDX names. What is not recognised is not guessed.

Not legal advice: the words that were found are kept beside the name as evidence.
"""

import re
from typing import NamedTuple
from urllib.parse import urlsplit

_MAX_EVIDENCE_CHARACTERS = 200
_CREATIVE_COMMONS = re.compile(
    r"creativecommons\.org/(?:licenses/(?P<kind>by(?:-nc)?(?:-sa|-nd)?)/(?P<version>\d\.\d)|(?P<zero>publicdomain/zero)"
    r"|(?P<mark>publicdomain/mark))",
    re.IGNORECASE,
)
_PHRASES = (
    (re.compile(r"\bCC0(?: 1\.0)?\b"), "CC0-1.0"),
    (re.compile(r"\bCC[ -]BY[ -]NC[ -]SA[ -](\d\.\d)", re.IGNORECASE), "CC-BY-NC-SA-{}"),
    (re.compile(r"\bCC[ -]BY[ -]NC[ -]ND[ -](\d\.\d)", re.IGNORECASE), "CC-BY-NC-ND-{}"),
    (re.compile(r"\bCC[ -]BY[ -]SA[ -](\d\.\d)", re.IGNORECASE), "CC-BY-SA-{}"),
    (re.compile(r"\bCC[ -]BY[ -]NC[ -](\d\.\d)", re.IGNORECASE), "CC-BY-NC-{}"),
    (re.compile(r"\bCC[ -]BY[ -]ND[ -](\d\.\d)", re.IGNORECASE), "CC-BY-ND-{}"),
    (re.compile(r"\bCC[ -]BY[ -](\d\.\d)", re.IGNORECASE), "CC-BY-{}"),
)
_NAMED = re.compile(r"licen[sc]e[\"'\s>]", re.IGNORECASE)
_TAG = re.compile(r"<(?:a|link|area)\s[^<>]{0,2000}>", re.IGNORECASE)
_REL = re.compile(r"""\srel\s*=\s*["']?[^"'>]{0,200}\blicen[sc]e\b""", re.IGNORECASE)
_HREF = re.compile(r"""\shref\s*=\s*["']?([^"'\s>]{1,1000})""", re.IGNORECASE)


class Licence(NamedTuple):
    """A licence and who says so."""

    name: str  # SPDX, or the address that was named
    evidence: str


def recognise(text: str) -> str:
    """The SPDX name of the licence that a sentence or an address names, empty where none is recognised."""
    return licence_in(text, said_by="").name


def licence_in(text: str, *, said_by: str) -> Licence:
    """The licence that words name, with those words as evidence; both empty where none is recognised."""
    found = _CREATIVE_COMMONS.search(text)
    if found and found["kind"]:
        name = f"CC-{found['kind'].upper()}-{found['version']}"
    elif found:
        name = "CC0-1.0" if found["zero"] else "CC-PDM-1.0"
    else:
        matches = ((pattern.search(text), name) for pattern, name in _PHRASES)
        found, name = next((pair for pair in matches if pair[0]), (None, ""))
    if found is None:
        return Licence("", "")
    words = text[max(0, found.start() - _MAX_EVIDENCE_CHARACTERS // 2) : found.end() + 20]
    return Licence(name.format(*found.groups()), shortened(f"{said_by}: {words}"))


def licence_of_page(html: str) -> Licence | None:
    """The licence that a page names by `rel="license"` (HTML Living Standard, section 4.6.6.10).

    Args:
        html: the page; linear time, whatever it holds.
    """
    if not _NAMED.search(html):
        return None
    for tag in _TAG.finditer(html):
        link = _HREF.search(tag[0]) if _REL.search(tag[0]) else None
        if link:
            address = link[1]
            name = recognise(address) or (address if is_web_address(address) else "")
            if name:
                return Licence(name, shortened(f"page: rel=license {address}"))
    return None


def is_web_address(address: str) -> bool:
    """Whether an address is one of the web."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def shortened(evidence: str) -> str:
    """Evidence on one line, cut to a length that a column holds well."""
    line = " ".join(evidence.split())
    return line if len(line) <= _MAX_EVIDENCE_CHARACTERS else f"{line[: _MAX_EVIDENCE_CHARACTERS - 1]}…"
