"""Words and n-grams of words as 64-bit hashes, for a whole text at once in NumPy. Not for tokens of a model.

A word is a run of letters, digits and marks, whatever the case. In writing without spaces (Chinese, Japanese, Korean,
Thai, Lao, Khmer) every character is a word of its own, so that a page in it has as many shingles as any other.
"""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

# Bytes of UTF-8. Everything above ASCII counts as a letter, but for general punctuation (U+2000..U+203F).
_PUNCTUATION_LEAD = 0xE2, 0x80
# Lead bytes of U+3000..U+DFFF (kana, Han, Hangul), U+20000 and beyond, and of Thai, Lao and Khmer.
_SINGLES_FROM, _SINGLES_TO = 0xE3, 0xED
_SUPPLEMENTARY_LEAD = 0xF0
_FIRST_SPECIAL = 0xE0  # no byte below it needs a second look
_THAI_LEADS = ((0xE0, 0xB8), (0xE0, 0xB9), (0xE0, 0xBA), (0xE0, 0xBB), (0xE1, 0x9E), (0xE1, 0x9F))
_BLOCK_BYTES = 1 << 20  # of text hashed at once: bounds the memory of a book to some ten of these
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that its powers never vanish
_NGRAM_BASE = np.uint64(0xD6E8FEB86659FD93)


def word_hashes(text: str) -> Hashes:
    """One hash a word of `text`, in order: equal words give equal hashes, whatever the case.

    Source of the scheme: a polynomial of the word's bytes modulo 2**64, mixed once (splitmix64, Steele et al. 2014).
    """
    data = np.frombuffer(text.lower().encode("utf-8", "replace"), dtype=np.uint8)
    pieces = []
    start = 0
    while start < len(data):
        stop = _end_of_block(data, start)
        pieces.append(_hashes_of_block(data[start:stop]))
        start = stop
    return np.concatenate(pieces) if pieces else np.empty(0, np.uint64)


def shingles(words: Hashes, *, size: int) -> Hashes:
    """Hashes of all runs of `size` words; of the whole text, if it is shorter and not empty.

    Args:
        words: what `word_hashes` gives.
        size: words in a shingle.
    """
    size = min(size, len(words)) or 1
    count = len(words) - size + 1
    result = np.zeros(max(0, count), np.uint64)
    for offset in range(size):
        result *= _NGRAM_BASE
        result += words[offset : offset + count]
    return mixed(result)


def jaccard(first: Hashes, second: Hashes) -> float:
    """Share of common elements among all of two sets, each sorted and without repeats."""
    if not len(first) or not len(second):
        return 0.0
    places = np.searchsorted(second, first)
    places[places == len(second)] = 0
    common = int(np.count_nonzero(second[places] == first))
    return common / (len(first) + len(second) - common)


def mixed(values: Hashes) -> Hashes:
    """Every bit of a value spread over all bits, in place (the finaliser of splitmix64)."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _end_of_block(data: NDArray[np.uint8], start: int) -> int:
    """Where a block ends: behind a byte that belongs to no word, if one is near."""
    stop = start + _BLOCK_BYTES
    if stop >= len(data):
        return len(data)
    gaps = np.flatnonzero(~_word_bytes()[data[start:stop]])
    return start + int(gaps[-1]) + 1 if len(gaps) else stop


def _hashes_of_block(data: NDArray[np.uint8]) -> Hashes:
    is_word = _word_bytes()[data]
    begins = is_word.copy()
    begins[1:] &= ~is_word[:-1]
    values = _letter_values()[data]  # 0 for what belongs to no word
    if int(data.max()) >= _FIRST_SPECIAL:
        _mark_singles(data, begins, values)
    starts = np.flatnonzero(begins)
    if not len(starts):
        return np.empty(0, np.uint64)
    powers = _powers()
    values *= powers.of[: len(values)]
    sums: Hashes = np.add.reduceat(values, starts)
    sums *= powers.inverse[starts]  # a word gives the same wherever it stands
    return mixed(sums)


def _mark_singles(data: NDArray[np.uint8], begins: NDArray[np.bool_], values: Hashes) -> None:
    """Take general punctuation out of words, and begin a word at each character of writing without spaces."""
    lead, second = data[:-2], data[1:-1]
    marks = np.flatnonzero((lead == _PUNCTUATION_LEAD[0]) & (second == _PUNCTUATION_LEAD[1]))
    after = marks[marks + 3 < len(data)] + 3
    begins[after] |= values[after] != 0
    for offset in range(3):
        values[marks + offset] = 0
        begins[marks + offset] = False
    begins |= (data >= _SINGLES_FROM) & (data <= _SINGLES_TO) | (data == _SUPPLEMENTARY_LEAD)
    for first, following in _THAI_LEADS:
        begins[:-2] |= (lead == first) & (second == following)


@functools.cache
def _word_bytes() -> NDArray[np.bool_]:
    table = np.zeros(256, np.bool_)
    table[[ord(character) for character in "0123456789abcdefghijklmnopqrstuvwxyz_"]] = True
    table[0x80:] = True
    return table


@functools.cache
def _letter_values() -> Hashes:
    values = mixed(np.arange(1, 257, dtype=np.uint64) * _BASE)
    values[~_word_bytes()] = 0
    return values


class _Powers(NamedTuple):
    of: Hashes
    inverse: Hashes


@functools.cache
def _powers() -> _Powers:
    """Powers of the base and of its inverse modulo 2**64, one for each place of a block."""
    inverse = np.uint64(pow(int(_BASE), -1, 1 << 64))
    tables = []
    for base in (_BASE, inverse):
        table = np.full(_BLOCK_BYTES, base, np.uint64)
        table[0] = 1
        tables.append(np.multiply.accumulate(table))
    return _Powers(*tables)
