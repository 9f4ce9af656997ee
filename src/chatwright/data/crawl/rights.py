"""What a page and its site say of being kept and mined: robots tags and reservations of text and data mining.

Where two places contradict each other, the one that reserves counts: stricter than the priorities of the W3C's TDM
Reservation Protocol (2024), and never wrong towards the owner. Not legal advice.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from chatwright.data.crawl.patterns import matches_rule
from chatwright.data.crawl.robots import TOKEN, says_no_training
from chatwright.data.crawl.urls import Url

TDMREP_PATH = "/.well-known/tdmrep.json"
RESERVED = "reserved"
NOT_RESERVED = "not_reserved"
_DIRECTIVES_WITH_VALUES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


class Rights(NamedTuple):
    """The verdicts on one page."""

    noindex: bool
    nofollow: bool
    tdm: str  # RESERVED, NOT_RESERVED, or empty: nothing was said
    evidence: str  # where the reservation stands


def rights_of(headers: Mapping[str, str], meta: Mapping[str, str], *, site_says: str = "") -> Rights:
    """Verdicts from the response's headers and the page's `meta` tags (names in lower case).

    Args:
        headers: of the response.
        meta: `robots`, `chatwright`, `tdm-reservation`, `tdm-policy` as the page has them.
        site_says: `tdmrep.json` or `robots.txt` if one of them reserves this page, `!tdmrep.json` if it frees it.
    """
    directives = _directives(headers.get("x-robots-tag", ""))
    directives |= _plain(meta.get("robots", "")) | _plain(meta.get(TOKEN, ""))
    said = [
        (_reservation(meta.get("tdm-reservation", "")), "meta tdm-reservation"),
        (_reservation(headers.get("tdm-reservation", "")), "header tdm-reservation"),
        (says_no_training(headers.get("content-usage", "")), "header Content-Usage"),
        (True if directives & {"noai", "notrain"} else None, "robots tag noai"),
        (None if not site_says else not site_says.startswith("!"), site_says.removeprefix("!")),
    ]
    reserving = [place for verdict, place in said if verdict]
    freed = any(verdict is False for verdict, _ in said)
    return Rights(
        noindex=bool(directives & {"noindex", "none"}),
        nofollow=bool(directives & {"nofollow", "none"}),
        tdm=RESERVED if reserving else NOT_RESERVED if freed else "",
        evidence=", ".join(reserving),
    )


class _Rule(NamedTuple):
    location: str
    is_reserved: bool


class TdmRules:
    """A site's `/.well-known/tdmrep.json`; what is not sound is as if it were not there (the protocol's own rule)."""

    def __init__(self, data: bytes = b""):
        self._rules = tuple(_rules(data))

    def verdict(self, url: Url) -> bool | None:
        """What the first rule that fits says; None if none fits."""
        for rule in self._rules:
            if matches_rule(rule.location, url.target):
                return rule.is_reserved
        return None


def _rules(data: bytes) -> list[_Rule]:
    try:
        value: Any = json.loads(data) if data else []
    except (ValueError, RecursionError):
        return []
    rules = []
    for entry in value if isinstance(value, list) else ():
        location = entry.get("location") if isinstance(entry, dict) else None
        verdict = _reservation(str(entry.get("tdm-reservation", ""))) if isinstance(location, str) else None
        if isinstance(location, str) and verdict is not None:
            rules.append(_Rule(location, verdict))
    return rules


def _reservation(text: str) -> bool | None:
    first = text.partition(",")[0].strip()
    return {"1": True, "0": False}.get(first)


def _directives(text: str) -> frozenset[str]:
    """Directives of `X-Robots-Tag` for everybody or for us.

    `agent: a, b` speaks for that agent until the next one or the end of the line: each header field is one.
    """
    kept: set[str] = set()
    for line in text.lower().split("\n"):
        is_ours = True
        for part in line.split(","):
            name, colon, rest = part.partition(":")
            is_agent = bool(colon) and name.strip() not in _DIRECTIVES_WITH_VALUES
            if is_agent:
                is_ours = name.strip() in ("*", TOKEN)
            if is_ours:
                kept.add((rest if is_agent else part).strip())
    return frozenset(kept)


def _plain(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.lower().split(","))
