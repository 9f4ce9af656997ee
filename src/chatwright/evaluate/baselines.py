"""What no neural network at all gets on the same documents: a byte trigram model, and `xz -9e`.

They place a number: a language model worth its training is well below both.
"""

import lzma
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_ALPHABET = 257  # bytes, and one for the beginning of a document
_BEGIN = 256


class ByteTrigram:
    """Interpolated byte trigrams with Witten-Bell smoothing (Witten and Bell 1991; Chen and Goodman 1999, eq. 7)."""

    def __init__(self) -> None:
        self._trigrams = np.zeros((_ALPHABET * _ALPHABET, 256), dtype=np.int64)

    def learn(self, texts: Iterable[str]) -> "ByteTrigram":
        """Count the byte trigrams of texts; returns itself."""
        flat = self._trigrams.reshape(-1)
        for text in texts:
            contexts, following = _pairs(text)
            np.add.at(flat, contexts * 256 + following, 1)
        return self

    def bits_per_byte(self, texts: Iterable[str]) -> float:
        """Cross-entropy on texts, with the counts learned."""
        bigrams = self._trigrams.reshape(_ALPHABET, _ALPHABET, 256).sum(axis=0)
        unigrams = bigrams.sum(axis=0)
        first = _smooth(unigrams[None, :], np.full((1, 256), 1 / 256))
        second = _smooth(bigrams, first)
        bits = total = 0.0
        for text in texts:
            contexts, following = _pairs(text)
            lower = second[contexts % _ALPHABET, following]
            counts = self._trigrams[contexts]
            seen = counts.sum(axis=1)
            kinds = (counts > 0).sum(axis=1)
            own = counts[np.arange(len(following)), following]
            shares = np.where(seen > 0, (own + kinds * lower) / np.maximum(1, seen + kinds), lower)
            bits -= float(np.log2(shares).sum())
            total += len(following)
        return bits / max(1.0, total)


def _pairs(text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The context of two bytes, as one number, and the byte after it, for each byte of a text."""
    data = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)
    padded = np.concatenate([[_BEGIN, _BEGIN], data])
    return padded[:-2] * _ALPHABET + padded[1:-1], data


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
