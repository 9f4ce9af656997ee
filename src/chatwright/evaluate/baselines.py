"""What no neural network at all gets on the same documents: a byte trigram model, and `xz -9e`.

They place a number: a language model worth its training is well below both.
"""

import lzma
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_ALPHABET = 257  # bytes, and one for the beginning of a document
_BEGIN = 256
_ROWS = 16_384  # contexts whose counts are gathered at once


class ByteTrigram:
    """Interpolated byte trigrams with Witten-Bell smoothing (Witten and Bell 1991; Chen and Goodman 1999, eq. 7)."""

    def __init__(self) -> None:
        self._trigrams = np.zeros((_ALPHABET * _ALPHABET, 256), dtype=np.int64)

    def learn(self, texts: Iterable[str]) -> "ByteTrigram":
        """Count the byte trigrams of texts; returns itself."""
        flat = self._trigrams.reshape(-1)
        for text in texts:
            contexts, following = _pairs(text.encode())
            np.add.at(flat, contexts * 256 + following, 1)
        return self

    def bits_per_byte(self, texts: Iterable[str]) -> float:
        """Cross-entropy on texts, with the counts learned."""
        bigram_shares = self._bigram_shares()
        bits = total = 0.0
        for text in texts:
            data = text.encode()
            bits -= float(np.log2(self._shares(data, bigram_shares)).sum())
            total += len(data)
        return bits / max(1.0, total)

    def shares(self, data: bytes) -> NDArray[np.float64]:
        """Probability of each byte after the two before it, (len(data),)."""
        return self._shares(data, self._bigram_shares())

    def _bigram_shares(self) -> NDArray[np.float64]:
        bigrams = self._trigrams.reshape(_ALPHABET, _ALPHABET, 256).sum(axis=0)
        unigrams = bigrams.sum(axis=0)
        return _smooth(bigrams, _smooth(unigrams[None, :], np.full((1, 256), 1 / 256)))

    def _shares(self, data: bytes, bigram_shares: NDArray[np.float64]) -> NDArray[np.float64]:
        pieces = [np.empty(0)]
        contexts, following = _pairs(data)
        for start in range(0, len(data), _ROWS):  # a row of counts is 2 KB: a long document is taken in pieces
            context, byte = contexts[start : start + _ROWS], following[start : start + _ROWS]
            lower = bigram_shares[context % _ALPHABET, byte]
            counts = self._trigrams[context]
            seen = counts.sum(axis=1)
            kinds = (counts > 0).sum(axis=1)
            own = counts[np.arange(len(byte)), byte]
            pieces.append(np.where(seen > 0, (own + kinds * lower) / np.maximum(1, seen + kinds), lower))
        return np.concatenate(pieces)


class _Pairs(NamedTuple):
    """For each byte of a text, the two bytes before it as one number, and itself."""

    contexts: NDArray[np.int64]
    following: NDArray[np.int64]


def _pairs(data: bytes) -> _Pairs:
    following = np.frombuffer(data, dtype=np.uint8).astype(np.int64)
    padded = np.concatenate([[_BEGIN, _BEGIN], following])
    return _Pairs(padded[:-2] * _ALPHABET + padded[1:-1], following)


def _smooth(counts: NDArray[np.int64], lower: NDArray[np.float64]) -> NDArray[np.float64]:
    seen = counts.sum(axis=1, keepdims=True)
    kinds = (counts > 0).sum(axis=1, keepdims=True)
    mixed = (counts + kinds * lower) / np.maximum(1, seen + kinds)
    return np.where(seen > 0, mixed, lower)


def xz_bits_per_byte(texts: Iterable[str]) -> float:
    """Size of all texts together under `xz -9e`, in bits per byte of text."""
    data = "\n".join(texts).encode()
    if not data:
        return math.nan
    return 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data)
