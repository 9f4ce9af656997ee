"""Unicode of a text made sound and uniform: wrong decoding repaired, NFC, invisible characters out, plain newlines.

Every function gives the text and how many places it changed. Nothing here drops a document.
All patterns are linear; a test times each on its worst case.
"""

import functools
import re
import sys
import unicodedata
from collections import Counter
from typing import NamedTuple

import numpy as np

from chatwright.data.codes import ALONE, MARK, ODD, SUSPECT, Kinds, codes_of, damaged_places, kinds_of

# A text is stable after two rounds but for constructed ones; these stop at the limit.
_MAX_ROUNDS = 8
# Runs of combining marks are cut at the length of Unicode's stream-safe format (UAX 15, section 13):
# no writing system needs more, and canonical ordering of a run takes time with the square of its length.
_MAX_COMBINING_MARKS = 30

_MARKS_END = 0x20000  # planes beyond the second hold no combining mark; looking through them all takes half a second

_NEWLINE = re.compile(r"\r\n|[\r\v\f\x85\u2028\u2029]")
_BLANK_LINES = re.compile(r"\n{3,}")
_SPACES = re.compile(r"[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_ODD_ASCII = bytes(code for code in (*range(0x20), 0x7F) if chr(code) not in "\n\t")
_INVISIBLE = {
    "control_characters": re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufff9-\ufffb\ufdd0-\ufdef\ufffe\uffff]"),
    # Joiners carry meaning after letters of Persian or Indic scripts and within emoji, so only stray ones go.
    "zero_width_characters": re.compile(
        r"[\u00ad\u180e\u200b\u2060-\u2064\u206a-\u206f\ufeff\U000e0000-\U000e007f]"
        r"|(?<![^\x00-\x7f\u200c\u200d])[\u200c\u200d]"
    ),
    "bidi_characters": re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"),
}


class Normalised(NamedTuple):
    """A text and the places changed, by name of the change."""

    text: str
    changes: dict[str, int]


def normalise(text: str, *, repair: bool = True) -> Normalised:
    """Apply all steps until nothing changes any more, so that a second call changes nothing.

    Args:
        text: any text, lone surrogates excepted.
        repair: undo wrong decoding ("â€™" for an apostrophe).
    """
    changes: Counter[str] = Counter()
    for _ in range(_MAX_ROUNDS):
        before = text
        text, is_settled = _one_round(text, repair=repair, changes=changes)
        if is_settled or text == before:
            break
    return Normalised(text, {name: count for name, count in changes.items() if count})


def _has_odd_ascii(text: str) -> bool:
    """Whether ASCII text holds what normalising removes or exchanges."""
    data = text.encode("ascii")
    return len(data.translate(None, _ODD_ASCII)) != len(data)


class _Round(NamedTuple):
    text: str
    is_settled: bool  # another round cannot change anything, told without making it


def _one_round(text: str, *, repair: bool, changes: Counter[str]) -> _Round:
    if text.isascii():  # nothing to repair or compose, and lines that are tidy stay so
        return _Round(tidy_lines(_without_odd_characters(text, changes) if _has_odd_ascii(text) else text), True)
    before = text
    kinds = kinds_of(codes_of(text))
    present = int(np.bitwise_or.reduce(kinds)) if len(kinds) else 0
    if repair and present & (SUSPECT | ALONE):
        repaired = _repair_lines(text, kinds, changes)
        if repaired != text:
            text, present = repaired, -1  # it may hold anything now
    if present & ODD:
        text = _without_odd_characters(text, changes)
    if present & MARK and not text.isascii():
        text, count = _long_combining_runs().subn(r"\1", text)
        changes["combining_marks_cut"] += count
    if not text.isascii() and not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
        changes["composed"] += 1
    return _Round(tidy_lines(text), text == before and not present & ALONE)


def _without_odd_characters(text: str, changes: Counter[str]) -> str:
    if not text.isascii():
        text, count = _SPACES.subn(" ", text)
        changes["spaces"] += count
    text, count = _NEWLINE.subn("\n", text)
    changes["newlines"] += count
    for name, pattern in _INVISIBLE.items():
        text, count = pattern.subn("", text)
        changes[name] += count
    return text


def _repair_lines(text: str, kinds: Kinds, changes: Counter[str]) -> str:
    """Repair by lines, so that a sound line beside a damaged one stays as it is.

    ftfy costs ten times all other steps, its own test for damage as much as they do; a look at the classes of
    neighbouring characters (`codes.damaged_places`) leaves few lines to it.
    """
    places = damaged_places(kinds)
    if not len(places):
        return text
    import ftfy
    from ftfy.badness import is_bad

    lines = text.split("\n")
    ends = np.cumsum([len(line) + 1 for line in lines])
    for position in np.unique(np.searchsorted(ends, places, side="right")).tolist():
        line = lines[position]
        if is_bad(line):
            repaired = ftfy.fix_encoding(line)
            if repaired != line:
                lines[position] = repaired
                changes["encoding_repaired"] += 1
    return "\n".join(lines)


def tidy_lines(text: str) -> str:
    """No spaces at line ends, at most one blank line in a row, none at the ends."""
    # A pattern for trailing spaces would be quadratic on long runs of them: `rstrip` is not.
    if " \n" in text or "\t\n" in text or text[-1:] in {" ", "\t"}:
        text = "\n".join(line.rstrip() for line in text.split("\n"))
    if "\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n", text)
    return text.strip("\n")


@functools.cache
def _long_combining_runs() -> "re.Pattern[str]":
    marks = [code for code in range(0x300, _MARKS_END) if unicodedata.combining(chr(code))]
    ranges = []
    start = previous = marks[0]
    for code in [*marks[1:], sys.maxunicode + 2]:
        if code != previous + 1:
            ranges.append(f"{re.escape(chr(start))}-{re.escape(chr(previous))}")
            start = code
        previous = code
    marked = "[" + "".join(ranges) + "]"
    return re.compile(f"({marked}{{{_MAX_COMBINING_MARKS}}}){marked}+")


def strip_punctuation(text: str) -> str:
    """Remove every character of Unicode's punctuation classes."""
    return text.translate({ord(c): None for c in set(text) if unicodedata.category(c).startswith("P")})


def strip_symbols(text: str) -> str:
    """Remove every character of Unicode's symbol classes: currency, mathematics, arrows, emoji and the like."""
    return text.translate({ord(c): None for c in set(text) if unicodedata.category(c).startswith("S")})
