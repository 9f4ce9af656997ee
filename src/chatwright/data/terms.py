"""The words of a text as arrays: where each stands, whether it has a letter, and how often phrases of them recur.

Exact but for hashing: two phrases count as one if 64 bits of them agree. For words that compare whatever the case and
the punctuation, see `duplicates.shingles`.
"""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chatwright.data.codes import LETTER, SPACE, WORD, Codes, codes_of, kinds_of

_BASE = np.uint64(0x9E3779B97F4A7C15)
_PHRASE_BASE = np.uint64(0xD6E8FEB86659FD93)
_MAX_POWERS = 1 << 16  # of a longer word, letters this far apart have the same weight


class TopNgram(NamedTuple):
    """The most frequent phrase: how often it stands, its characters without spaces, its first place among terms."""

    times: int
    characters: int
    first: int


class Terms:
    """White-space separated words with at least one letter, digit or mark."""

    def __init__(self, starts: NDArray[np.int64], ends: NDArray[np.int64], hashes: NDArray[np.uint64], letters: int):
        self._starts = starts
        self._ends = ends
        self._hashes = hashes
        self.with_letter = letters
        self.characters = int((ends - starts).sum())

    def __len__(self) -> int:
        """Number of terms."""
        return len(self._starts)

    def top_ngram(self, size: int) -> TopNgram:
        """The most frequent run of `size` terms; of equally frequent ones the first."""
        count = len(self) - size + 1
        if count < 1:
            return TopNgram(0, 0, 0)
        keys = self._runs(size)
        ordered = np.sort(keys)
        runs = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        sizes = np.diff(np.r_[runs, count])
        most = int(sizes.max())
        first = int(np.argmax(np.isin(keys, ordered[runs[sizes == most]]))) if most > 1 else 0
        lengths = self._ends[first : first + size] - self._starts[first : first + size]
        return TopNgram(most, int(lengths.sum()), first)

    def characters_in_repeated(self, size: int) -> int:
        """Characters of terms within runs of `size` terms that stood in the text before, each counted once."""
        count = len(self) - size + 1
        if count < 1:
            return 0
        keys = self._runs(size)
        _, firsts = np.unique(keys, return_index=True)
        repeats = np.ones(count, np.bool_)
        repeats[firsts] = False
        covered = np.zeros(len(self), np.bool_)
        for offset in range(size):
            covered[offset : offset + count] |= repeats
        return int((self._ends - self._starts)[covered].sum())

    def _runs(self, size: int) -> NDArray[np.uint64]:
        count = len(self) - size + 1
        keys = np.zeros(count, np.uint64)
        for offset in range(size):
            keys *= _PHRASE_BASE
            keys += self._hashes[offset : offset + count]
        return keys

    def phrase(self, text: str, first: int, size: int) -> str:
        """The words of a phrase, as they stand in the text."""
        places = range(first, first + size)
        return " ".join(text[self._starts[place] : self._ends[place]] for place in places)


def terms_of(text: str) -> Terms:
    """The terms of a text."""
    codes = codes_of(text)
    kinds = kinds_of(codes)
    in_word = np.zeros(len(codes) + 2, np.bool_)
    in_word[1:-1] = kinds & SPACE == 0
    edges = np.flatnonzero(in_word[1:] != in_word[:-1])
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return Terms(starts, ends, np.empty(0, np.uint64), 0)
    held = np.bitwise_or.reduceat(kinds, starts)  # the white space behind a word adds nothing that is asked for
    is_term = held & WORD != 0
    hashes = _hashes(codes, kinds, starts)[is_term]
    return Terms(starts[is_term], ends[is_term], hashes, int(np.count_nonzero(held[is_term] & LETTER)))


def _hashes(codes: Codes, kinds: NDArray[np.uint16], starts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A polynomial of each word's code points modulo 2**64."""
    sizes = np.diff(np.r_[0, starts, len(codes)])
    place = np.arange(len(codes)) - np.repeat(np.r_[0, starts], sizes)
    values = codes.astype(np.uint64)
    values *= _powers()[place % _MAX_POWERS]
    values[kinds & SPACE != 0] = 0
    sums: NDArray[np.uint64] = np.add.reduceat(values, starts)
    sums ^= sums >> np.uint64(29)
    sums *= _PHRASE_BASE
    return sums ^ (sums >> np.uint64(32))


@functools.cache
def _powers() -> NDArray[np.uint64]:
    powers = np.full(_MAX_POWERS, _BASE, np.uint64)
    return np.multiply.accumulate(powers)
