"""Documents packed whole into rows of one length: best fit decreasing, longer ones split. Not for a stream's windows.

Ding et al. 2024 ("Fewer truncations improve language modeling") pack so; best fit decreasing is Johnson's (1973).
Unlike windows over the stream, a row cuts no document that it could hold, and nothing is cropped: a longer document
becomes full rows and a rest, which is packed like any other document.

A piece of n tokens takes n positions: each of its tokens is a target, read from the token before it. Before a
document's first token stands the end-of-text token of the document before, as in held-out measurements.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chatwright.foundation.errors import DataError
from chatwright.foundation.streams import Permutation, seed_for
from chatwright.tokens.shards import TokenSplit

_PADDING = -1  # no document


class Packing(NamedTuple):
    """Which stretches of a stream share a row."""

    length: int  # positions of a row
    starts: NDArray[np.int64]  # of each piece in the stream, row by row
    lengths: NDArray[np.int64]  # of each piece, at most `length`
    offsets: NDArray[np.int64]  # of each row's pieces among all, (rows + 1,)
    split: int  # documents that are longer than a row

    @property
    def num_rows(self) -> int:
        """Rows."""
        return len(self.offsets) - 1

    @property
    def tokens(self) -> int:
        """Tokens in all rows."""
        return int(self.lengths.sum())

    @property
    def waste(self) -> float:
        """Share of positions that hold nothing."""
        return 1 - self.tokens / max(1, self.num_rows * self.length)

    def described(self, documents: int) -> str:
        """One line for the person."""
        return (
            f"packing: {documents:,} documents in {self.num_rows:,} rows of {self.length:,} tokens, "
            f"{self.waste:.2%} of the positions empty; {self.split:,} longer than a row are split, the others are whole"
        )


class PackedRows(NamedTuple):
    """Rows as a step reads them, each (rows, length)."""

    ids: NDArray[np.int64]
    targets: NDArray[np.int64]  # `ignored` where nothing stands
    pieces: NDArray[np.int64]  # number of the piece in its row, `_PADDING` behind the last


def pack(starts: NDArray[np.int64], lengths: NDArray[np.int64], *, length: int) -> Packing:
    """Pack documents into rows; the same documents give the same rows.

    Args:
        starts: of each document in the stream.
        lengths: of each, at least 1.
        length: positions of a row.
    """
    pieces = _pieces(starts, lengths, length)
    order = np.lexsort((pieces[0], -pieces[1]))  # longest first, of equal ones the first in the stream
    begins, sizes = pieces[0][order], pieces[1][order]
    rows = _best_fit(sizes, length)
    together = np.argsort(rows, kind="stable")
    offsets = np.searchsorted(rows[together], np.arange(int(rows.max(initial=-1)) + 2))
    return Packing(length, begins[together], sizes[together], offsets, int(np.count_nonzero(lengths > length)))


def _pieces(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and length of each piece: full rows of a document, then its rest."""
    numbers = -(-lengths // length)
    within = np.arange(int(numbers.sum())) - np.repeat(np.cumsum(numbers) - numbers, numbers)
    begins = np.repeat(starts, numbers) + within * length
    return begins, np.minimum(np.repeat(starts + lengths, numbers) - begins, length)


def _best_fit(sizes: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Row of each piece, the pieces from the longest: the fullest row that has room, or a new one.

    Rows are kept by the room they have left; a bit set says which rooms there are, so that the least that is enough is
    found by one shift.
    """
    rows = np.empty(len(sizes), np.int64)
    by_room: list[list[int]] = [[] for _ in range(length + 1)]
    rooms = number = 0
    for place, size in enumerate(sizes.tolist()):
        enough = rooms >> size
        if enough:
            room = size + (enough & -enough).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, row, number = length, number, number + 1
        left = room - size
        if left:
            if not by_room[left]:
                rooms |= 1 << left
            by_room[left].append(row)
        rows[place] = row
    return rows


class PackedOrder:
    """Packed rows in the order of training: every epoch visits each row once, shuffled anew.

    Args:
        split: the documents.
        length: positions of a row.
        seed: of the order.
        end_of_text: id that stands before the stream's first document.
        ignored: the target where there is none.

    Raises:
        DataError: there is no document.
    """

    def __init__(self, split: TokenSplit, *, length: int, seed: int, end_of_text: int, ignored: int):
        starts, lengths = split.all_spans()
        if not len(starts):
            raise DataError("the corpus has no training tokens to pack", hint="add documents to `collect.sources`")
        self.packing = pack(starts, lengths, length=length)
        self.num_documents = len(starts)
        self._split = split
        self._seed = seed
        self._end_of_text = end_of_text
        self._ignored = ignored

    def rows(self, first: int, count: int) -> PackedRows:
        """`count` rows from row `first` of the training; rows count on through the epochs."""
        length = self.packing.length
        ids = np.full((count, length), self._end_of_text, np.int64)
        targets = np.full((count, length), self._ignored, np.int64)
        pieces = np.full((count, length), _PADDING, np.int64)
        for number in range(count):
            self._fill(self._place(first + number), ids[number], targets[number], pieces[number])
        return PackedRows(ids, targets, pieces)

    def _place(self, row: int) -> int:
        epoch, position = divmod(row, self.packing.num_rows)
        return Permutation(self.packing.num_rows, seed_for(self._seed, "packed", epoch))[position]

    def _fill(self, row: int, ids: NDArray[np.int64], targets: NDArray[np.int64], pieces: NDArray[np.int64]) -> None:
        begin, end = int(self.packing.offsets[row]), int(self.packing.offsets[row + 1])
        position = 0
        for number in range(begin, end):
            start, size = int(self.packing.starts[number]), int(self.packing.lengths[number])
            stretch = slice(position, position + size)
            targets[stretch] = self._split.slice(start, size)
            ids[position] = self._split.slice(start - 1, 1)[0] if start else self._end_of_text
            ids[position + 1 : position + size] = targets[position : position + size - 1]
            pieces[stretch] = number - begin
            position += size
