"""Scores of a document that curricula, mixtures and reports use. Nothing is dropped by them.

- compression: bytes of the text as UTF-8 over bytes that zlib makes of it; repetitive text has a high one.
- Flesch reading ease (Flesch 1948): 206.835 - 1.015 * words / sentences - 84.6 * syllables / words. Its constants are
  English; `syllable_count` says what counts as a syllable.
- MTLD (McCarthy and Jarvis 2010): mean number of words in which the share of distinct words stays above 0.72, read
  forwards and backwards; of the first `MTLD_WORDS` words, since it is a mean over stretches of some hundred.
"""

import functools
import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MTLD_WORDS = 1024
_MTLD_FACTOR = 0.72
_ZLIB_LEVEL = 1
_SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f\u0964](?=\s|$)")
_DIGITS = 4


class Scores(NamedTuple):
    """Figures of one text."""

    characters: int
    compression: float
    flesch: float
    mtld: float


def score(text: str, words: Sequence[str]) -> Scores:
    """All scores of a text.

    Args:
        text: cleaned.
        words: its pieces between white space.
    """
    data = text.encode()
    compression = len(data) / len(zlib.compress(data, _ZLIB_LEVEL)) if data else 0.0
    return Scores(
        len(text),
        round(compression, _DIGITS),
        round(flesch(text, num_words=len(words)), _DIGITS),
        round(mtld(words[:MTLD_WORDS]), _DIGITS),
    )


def flesch(text: str, *, num_words: int) -> float:
    """Reading ease; higher is easier, 0 without words."""
    if not num_words:
        return 0.0
    sentences = max(1, len(_SENTENCE_END.findall(text)))
    syllables = max(num_words, syllable_count(text))
    return 206.835 - 1.015 * num_words / sentences - 84.6 * syllables / num_words


def syllable_count(text: str) -> int:
    """Runs of vowels, but for a silent e at the end of a word ("cake", not "table" or "the"). ASCII letters only."""
    kinds = np.zeros(len(text) + 4, np.int8)  # room for the three letters before, and the one after
    kinds[3:-1] = _letter_kinds()[np.frombuffer(text.encode("ascii", "replace"), np.uint8)]
    third, second, before, here, after = (kinds[place : len(text) + place] for place in (0, 1, 2, 3, 4))
    runs = np.count_nonzero((here >= _VOWEL) & (before < _VOWEL))
    final = (here == _E) & (after == 0)
    of_short_word = (before == _CONSONANT) & ((second >= _VOWEL) | (_is_consonant(second) & (third >= _VOWEL)))
    of_l = (before == _L) & (second >= _VOWEL)
    return int(runs - np.count_nonzero(final & (of_short_word | of_l)))


def _is_consonant(kinds: NDArray[np.int8]) -> NDArray[np.bool_]:
    result: NDArray[np.bool_] = (kinds == _CONSONANT) | (kinds == _L)
    return result


def mtld(words: Sequence[str]) -> float:
    """Lexical diversity; 0 without words."""
    if not words:
        return 0.0
    lowered = [word.lower() for word in words]
    return (_factor_length(lowered) + _factor_length(lowered[::-1])) / 2


def _factor_length(words: Sequence[str]) -> float:
    """Mean words of a factor in one direction.

    A factor ends where the share of distinct words has fallen to the limit. With d distinct words so far that cannot be
    before d over the limit words, so all words up to there are taken at once.
    """
    factors = 0.0
    seen: set[str] = set()
    start = here = 0
    while here < len(words):
        stop = max(here + 1, start + int(len(seen) / _MTLD_FACTOR))
        seen.update(words[here:stop])
        here = min(stop, len(words))
        if len(seen) <= _MTLD_FACTOR * (here - start):
            factors += 1
            seen.clear()
            start = here
    if here > start:
        factors += (1 - len(seen) / (here - start)) / (1 - _MTLD_FACTOR)
    return len(words) / factors if factors else float(len(words))


_CONSONANT, _L, _VOWEL, _E = 1, 2, 3, 4


@functools.cache
def _letter_kinds() -> NDArray[np.int8]:
    kinds = np.zeros(256, np.int8)
    for code in range(256):
        letter = chr(code).lower()
        if "a" <= letter <= "z":
            kinds[code] = {"e": _E, "l": _L}.get(letter, _VOWEL if letter in "aiouy" else _CONSONANT)
    return kinds
