"""Near duplicates among ranked documents: one sort a band gives candidates, their shingles decide.

Documents are numbered by rank, the one to prefer first. A document that is like a better one that stays is its copy.
Memory: one band's column, the candidate pairs in 8 bytes each, and the mapped pages of a scratch file.
"""

import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from chatwright.data.duplicates.shingles import Hashes, jaccard
from chatwright.data.stretch import Stretch
from chatwright.foundation.stopping import StopFlag

# Buckets up to this size are compared each with each; in larger ones each with the best and with the next better one,
# which keeps a flood of copies linear. Following a copy to the document it is a copy of makes up for what that misses.
MAX_FULL_BUCKET = 48

_SLICE = 1 << 16  # pairs taken apart at once: numbers of Python take ten times their room

Ranks = NDArray[np.int64]


class Copy(NamedTuple):
    """A document that is like a better one."""

    of: int  # rank of the one that stays
    similarity: float


class Copies(NamedTuple):
    """What comparing found: copies by rank, and what it took."""

    copies: dict[int, Copy]
    candidates: int
    compared: int


class Sets(Protocol):
    """Sorted shingle sets by rank."""

    def __getitem__(self, rank: int) -> Hashes:
        """The set of one document."""
        ...


class Slice(NamedTuple):
    """Pairs side by side."""

    better: Ranks
    worse: Ranks


class Candidates:
    """Pairs of ranks that share a band, ordered by the worse document, then by the better.

    Args:
        keys: `worse << 32 | better`, ordered, each once.
    """

    def __init__(self, keys: NDArray[np.uint64]):
        self._keys = keys

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self._keys)

    def in_slices(self) -> Iterator[Slice]:
        """All pairs in their order, a bounded number at a time."""
        for start in range(0, len(self._keys), _SLICE):
            keys = self._keys[start : start + _SLICE]
            better, worse = keys & np.uint64(0xFFFFFFFF), keys >> np.uint64(32)
            yield Slice(better.astype(np.int64), worse.astype(np.int64))

    def members(self) -> Ranks:
        """Every rank of some pair, in order."""
        if not len(self._keys):
            return np.empty(0, np.int64)
        is_member = np.zeros(int(self._keys[-1] >> np.uint64(32)) + 1, np.bool_)
        for pairs in self.in_slices():
            is_member[pairs.better] = is_member[pairs.worse] = True
        return np.flatnonzero(is_member)


def candidate_pairs(bands: Iterable[tuple[Hashes, Ranks]]) -> Candidates:
    """All pairs that share a value in at least one band, once each.

    Args:
        bands: for each band the values of all documents, and beside each the document's rank.
    """
    found = np.empty(0, np.uint64)
    for values, ranks in bands:
        found = _united(found, _pairs_of_band(values, ranks))
    return Candidates(found)


def find_copies(pairs: Candidates, sets: Sets, *, threshold: float, stop: StopFlag | None = None) -> Copies:
    """Go through the documents from the best; one whose Jaccard similarity to one that stays reaches `threshold` goes.

    So no document goes without one that stays and is that similar, and between documents that stay no candidate pair
    is that similar. A candidate that went already is replaced by the document it was a copy of.

    Raises:
        StoppedError: `stop` asked for it.
    """
    copies: dict[int, Copy] = {}
    compared = 0
    tried: set[int] = set()
    current = -1
    slices = Stretch("compare candidates", stop=stop).through(pairs.in_slices(), total=-(-len(pairs) // _SLICE))
    for part in slices:
        for worse, better in zip(part.worse.tolist(), part.better.tolist(), strict=True):
            if worse != current:
                current, tried = worse, set()
            standing = copies[better].of if better in copies else better
            if worse in copies or standing in tried:
                continue
            tried.add(standing)
            compared += 1
            similarity = jaccard(sets[worse], sets[standing])
            if similarity >= threshold:
                copies[worse] = Copy(standing, similarity)
    return Copies(copies, len(pairs), compared)


class ShingleFile:
    """Shingle sets of chosen documents in one file that is mapped, never read whole."""

    def __init__(self, path: Path):
        self._path = path
        self._ranks: Ranks = np.empty(0, np.int64)  # in order
        self._starts: Ranks = np.empty(0, np.int64)  # of the set of each, in the file
        self._ends: Ranks = np.empty(0, np.int64)
        self._values: Hashes = np.empty(0, np.uint64)

    def fill(self, sets: Iterable[tuple[int, Hashes]]) -> None:
        """Write the set of each rank, sorted and without repeats."""
        ranks, ends = array.array("q"), array.array("q")
        end = 0
        with self._path.open("wb") as file:
            for rank, values in sets:
                unique = np.unique(values)
                file.write(unique.data)
                end += len(unique)
                ranks.append(rank)
                ends.append(end)
        as_stored, ends_stored = np.array(ranks, np.int64), np.array(ends, np.int64)
        order = np.argsort(as_stored)
        self._ranks, self._ends = as_stored[order], ends_stored[order]
        self._starts = np.r_[0, ends_stored[:-1]][order]
        if end:
            self._values = np.memmap(self._path, np.uint64, mode="r")

    def __getitem__(self, rank: int) -> Hashes:
        """The set of one document."""
        at = self._ranks.searchsorted(rank)
        return self._values[self._starts[at] : self._ends[at]]


def _united(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """An ordered array with what it lacks of another, in order: little more than the result is held beside it."""
    second = np.unique(second)
    if not len(first):
        return second
    places = np.minimum(first.searchsorted(second), len(first) - 1)
    both = np.concatenate([first, second[first[places] != second]])
    both.sort(kind="stable")  # two runs that are in order are merged
    return both


def _pairs_of_band(values: Hashes, ranks: Ranks) -> NDArray[np.uint64]:
    """Pairs that share a value as `worse << 32 | better`."""
    order = np.lexsort((ranks, values))
    ordered = values[order]
    ranked = ranks[order].astype(np.uint64)
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(order) else np.empty(0, np.int64)
    sizes = np.diff(np.r_[starts, len(order)])
    twos = starts[sizes == 2]
    pieces = [_key(better=ranked[twos], worse=ranked[twos + 1])]
    for start, size in zip(starts[sizes > 2].tolist(), sizes[sizes > 2].tolist(), strict=True):
        pieces.append(_pairs_of_bucket(ranked[start : start + size]))
    return np.concatenate(pieces)


def _pairs_of_bucket(bucket: NDArray[np.uint64]) -> NDArray[np.uint64]:
    size = len(bucket)
    if size <= MAX_FULL_BUCKET:
        better, worse = np.triu_indices(size, k=1)
        return _key(better=bucket[better], worse=bucket[worse])
    best = np.full(size - 1, bucket[0])
    return np.concatenate([_key(better=best, worse=bucket[1:]), _key(better=bucket[:-1], worse=bucket[1:])])


def _key(*, better: NDArray[np.uint64], worse: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return (worse << np.uint64(32)) | better
