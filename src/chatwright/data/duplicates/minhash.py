"""MinHash signatures of shingle sets, folded into bands for locality-sensitive hashing.

Two texts whose shingle sets have the Jaccard similarity s agree in one row with probability s, so in at least one of
b bands of r rows with 1 - (1 - s**r)**b (Broder 1997; Leskovec, Rajaraman and Ullman, "Mining of massive datasets",
section 3.4). Candidates only: `pairs` verifies them on the shingles themselves.
"""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chatwright.data.duplicates.shingles import Hashes, mixed
from chatwright.foundation.streams import seed_for

_BLOCK_SHINGLES = 4096  # hashed under all permutations at once: some 2 MB
_FOLD = np.uint64(0x9E3779B97F4A7C15)


class _Permutations(NamedTuple):
    factors: NDArray[np.uint32]  # odd, so that each maps 32-bit values one to one
    offsets: NDArray[np.uint32]


def band_hashes(shingles: Hashes, *, bands: int, rows: int) -> Hashes:
    """One 64-bit value a band, (bands,); texts that share one are candidates.

    Args:
        shingles: of one text, at least one; repeats do no harm.
        bands: number of bands.
        rows: permutations in each; `bands * rows` in all.
    """
    signature = _signature(shingles, bands * rows).astype(np.uint64).reshape(bands, rows)
    folded = np.zeros(bands, np.uint64)
    for row in range(rows):
        folded *= _FOLD
        folded += signature[:, row] + np.uint64(1)
    return mixed(folded)


def found_with(similarity: float, *, bands: int, rows: int) -> float:
    """Probability that two texts of this similarity become candidates."""
    return 1.0 - (1.0 - similarity**rows) ** bands


def _signature(shingles: Hashes, permutations: int) -> NDArray[np.uint32]:
    """Least value of each permutation x -> factor * x + offset modulo 2**32 over the upper halves of the hashes."""
    factors, offsets = _permutations(permutations)
    values = (shingles >> np.uint64(32)).astype(np.uint32)
    least = np.full(permutations, np.iinfo(np.uint32).max, np.uint32)
    for start in range(0, len(values), _BLOCK_SHINGLES):
        block = np.multiply.outer(factors, values[start : start + _BLOCK_SHINGLES])
        block += offsets[:, None]
        np.minimum(least, block.min(axis=1), out=least)
    return least


@functools.cache
def _permutations(number: int) -> _Permutations:
    generator = np.random.default_rng(seed_for(0, "minhash", number))
    factors, offsets = generator.integers(0, 1 << 32, size=(2, number), dtype=np.uint32)
    return _Permutations(factors | np.uint32(1), offsets)
