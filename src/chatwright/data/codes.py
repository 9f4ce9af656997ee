"""A text as an array of code points, with what each of them is: what normalising and the rules ask of every character.

One look-up a character in NumPy takes the place of a regular expression a question. Not a Unicode database: code
points beyond the first 65,536 count as letters, but for the few that `normalise` names.
"""

import functools
import unicodedata

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8] | NDArray[np.uint32]
Kinds = NDArray[np.uint16]

SPACE = 1  # white space, as `str.split` sees it
WORD = 2  # a letter, a digit or a mark, as `\w` sees it
LETTER = 4
ODD = 8  # what normalising may remove or exchange: control, invisible, special spaces and line ends
MARK = 16  # combining, or a character that has another canonical form
SUSPECT = 32  # takes part in wrong decoding, in a pair with another
COMMON = 64  # the same, but a frequent letter of Greek or Cyrillic: a pair of these alone shows nothing
ALONE = 128  # may show wrong decoding by itself
UNSPACED = 256  # a letter or a mark of writing that sets no spaces between words

_UNSPACED_RANGES = (
    range(0x0E00, 0x0F00),  # Thai and Lao
    range(0x1000, 0x10A0),  # Myanmar
    range(0x1780, 0x1800),  # Khmer
    range(0x3040, 0x3100),  # kana
    range(0x3400, 0x4DC0),  # Han, extension A
    range(0x4E00, 0xA000),  # Han
)

_BMP = 1 << 16
_ASCII = 128


def codes_of(text: str) -> Codes:
    """Code points of a text; those of ASCII take a byte each."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def kinds_of(codes: Codes) -> Kinds:
    """What each code point is."""
    table = _table()
    if codes.dtype == np.uint8:
        return table[:_ASCII][codes]
    if len(codes) and int(codes.max()) >= _BMP:
        return table[np.minimum(codes, _BMP)]
    return table[codes]


def damaged_places(kinds: Kinds) -> NDArray[np.int64]:
    """Places at which wrong decoding could show; elsewhere ftfy's test finds none.

    Its patterns hold two suspects side by side that are not both common letters, or one of those that stand alone.
    """
    first, second = kinds[:-1], kinds[1:]
    pairs = (first & second & SUSPECT != 0) & (first & second & COMMON == 0)
    return np.union1d(np.flatnonzero(pairs), np.flatnonzero(kinds & ALONE))


@functools.cache
def _table() -> Kinds:
    table = np.zeros(_BMP + 1, np.uint16)
    for code in range(_BMP):
        table[code] = _kind(chr(code))
    table[_BMP] = WORD | LETTER | ODD  # tags among them: `normalise` looks again
    suspects, common = _suspects()
    for code in suspects:
        table[code] |= SUSPECT
    for code in common:
        table[code] |= COMMON
    # Windows-1252's and Latin-1's C1 controls, and letters whose neighbour may be any character.
    for code in [*range(0x80, 0xA0), *map(ord, "\u0152\u0153\u00c2\u00c3")]:
        table[code] |= ALONE
    return table


def _kind(character: str) -> int:
    category = unicodedata.category(character)
    kind = SPACE if character.isspace() else 0
    if character.isalnum() or character == "_":
        kind |= WORD
        kind |= LETTER if not character.isdecimal() and character != "_" else 0
    if (kind & LETTER or category[0] == "M") and any(ord(character) in codes for codes in _UNSPACED_RANGES):
        kind |= UNSPACED
    if category[0] in "CZ" and character not in " \n\t":
        kind |= ODD
    if not character.isascii() and (
        unicodedata.combining(character) or not unicodedata.is_normalized("NFC", character)
    ):
        kind |= MARK
    return kind


def _suspects() -> tuple[set[int], set[int]]:
    """Code points of ftfy's classes: those beyond ASCII, and the common letters among them."""
    from ftfy.badness import BADNESS_RE, MOJIBAKE_CATEGORIES

    common = _expand(MOJIBAKE_CATEGORIES["upper_common"]) | _expand(MOJIBAKE_CATEGORIES["lower_common"])
    listed = set().union(*(_expand(members) for members in MOJIBAKE_CATEGORIES.values()))
    listed |= {ord(character) for character in BADNESS_RE.pattern}
    suspects = {code for code in listed if 0x80 <= code < _BMP}
    return suspects, common & suspects


def _expand(members: str) -> set[int]:
    """Code points of a character class without its brackets."""
    found: set[int] = set()
    position = 0
    while position < len(members):
        if members[position + 1 : position + 2] == "-" and position + 2 < len(members):
            found |= set(range(ord(members[position]), ord(members[position + 2]) + 1))
            position += 3
        else:
            found.add(ord(members[position]))
            position += 1
    return found
