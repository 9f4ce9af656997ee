"""Where keys and values live: rows of fixed blocks in slabs, and the blocks of prompts that others may begin with.

Rows that are written to lie side by side, so that a step reads many of them through one view and copies nothing
(gathering scattered blocks at each step was measured, `docs/log.md`). What is shared between prompts is kept apart,
block by block, under the digest of all tokens up to the block's end, and copied into a row: a copy costs a thousandth
of reading the tokens again.
Legend: C rows of a slab, G key heads, S slots, K head width.
"""

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from chatwright.model.engine import pages

BLOCK = 64  # tokens; attention reads whole blocks, so that the shapes of its sums depend on the position only
_SLAB_BLOCKS = 128  # a slab has as many rows as fit into so many blocks
_MAX_SLAB_ROWS = 16


class Row(NamedTuple):
    """One row of a slab. Rows of a slab sort by their place."""

    slab: int
    place: int


class Shape(NamedTuple):
    """What a token leaves behind."""

    layers: int
    key_heads: int
    head_width: int
    dtype: torch.dtype
    device: torch.device

    @property
    def block_bytes(self) -> int:
        """Of one block in all layers, keys and values."""
        return 2 * self.layers * self.key_heads * self.head_width * BLOCK * self.dtype.itemsize


@dataclass(frozen=True)
class Slab:
    """Rows of equal capacity, side by side."""

    layers: list[Tensor]  # one (C, 2G, S, K) a layer: keys' heads, then values'
    free: list[int]  # places, lowest last

    @property
    def num_rows(self) -> int:
        """Taken or free."""
        return int(self.layers[0].shape[0])

    @property
    def capacity(self) -> int:
        """Tokens a row."""
        return int(self.layers[0].shape[2])


class RowMemory:
    """Rows for what is being written, within a budget.

    Args:
        shape: what a token leaves behind.
        total_blocks: of all rows together.
    """

    def __init__(self, shape: Shape, *, total_blocks: int):
        self.shape = shape
        self.total_blocks = total_blocks
        self.used_blocks = 0
        self._slabs: dict[int, Slab] = {}
        self._next_slab = 0

    def take(self, num_tokens: int) -> Row | None:
        """A row for so many tokens, or None where the budget has no room now."""
        blocks = blocks_for(num_tokens)
        if self.used_blocks + blocks > self.total_blocks:
            return None
        fitting = (n for n, slab in self._slabs.items() if slab.free and slab.capacity == blocks * BLOCK)
        number = next(fitting, None)
        if number is None:
            number = self._new_slab(blocks)
        self.used_blocks += blocks
        return Row(number, self._slabs[number].free.pop())

    def give_back(self, row: Row) -> None:
        """The row's tokens are forgotten; a slab without rows in use is given up."""
        slab = self._slabs[row.slab]
        if row.place in slab.free:
            raise ValueError(f"{row} is given back twice")
        slab.free.append(row.place)
        slab.free.sort(reverse=True)
        self.used_blocks -= slab.capacity // BLOCK
        if len(slab.free) == slab.num_rows and len(self._slabs) > 1:
            del self._slabs[row.slab]

    def layer(self, slab: int, number: int) -> Tensor:
        """(C, 2G, S, K) of one layer."""
        return self._slabs[slab].layers[number]

    def has_slab(self, number: int) -> bool:
        """Whether it was not given up."""
        return number in self._slabs

    def copy(self, source: Row, target: Row, num_tokens: int) -> None:
        """Give `target` the first tokens of `source`."""
        for number in range(self.shape.layers):
            kept = self.layer(source.slab, number)[source.place, :, :num_tokens]
            self.layer(target.slab, number)[target.place, :, :num_tokens] = kept

    def could_ever_hold(self, num_tokens: int) -> bool:
        """Whether a row of so many tokens fits the whole budget."""
        return blocks_for(num_tokens) <= self.total_blocks

    def _new_slab(self, blocks: int) -> int:
        self._slabs = {n: slab for n, slab in self._slabs.items() if len(slab.free) < slab.num_rows}
        rows = max(1, min(_MAX_SLAB_ROWS, _SLAB_BLOCKS // blocks, self.total_blocks // blocks))
        sizes = (rows, 2 * self.shape.key_heads, blocks * BLOCK, self.shape.head_width)
        # Zeros: what is masked out is multiplied by zero, and that must not be zero times infinity.
        layers = [self._zeros(sizes) for _ in range(self.shape.layers)]
        number = self._next_slab
        self._next_slab += 1
        self._slabs[number] = Slab(layers, list(range(rows))[::-1])
        return number

    def _zeros(self, sizes: tuple[int, ...]) -> Tensor:
        if self.shape.device.type == "cpu":
            return pages.empty(sizes, self.shape.dtype).zero_()
        return torch.zeros(sizes, dtype=self.shape.dtype, device=self.shape.device)


def blocks_for(num_tokens: int) -> int:
    """Blocks of a row for so many tokens: powers of two, so that rows of few sizes share slabs."""
    return 1 << max(0, -(-num_tokens // BLOCK) - 1).bit_length()


class PrefixStore:
    """Blocks of prompts that were read, for those that begin alike; the longest unused go first.

    Args:
        max_blocks: kept at most; 0 keeps none.
    """

    def __init__(self, *, max_blocks: int):
        self._max_blocks = max_blocks
        self._blocks: OrderedDict[bytes, list[Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def copy_into(self, memory: RowMemory, row: Row, ids: Sequence[int]) -> int:
        """Fill a row with what is known of its beginning; returns the tokens that need not be read.

        At least the last token is left to read: its state gives the first scores.
        """
        found = list(itertools.takewhile(self._blocks.__contains__, _digests(ids[:-1])))
        for index, digest in enumerate(found):
            slots = slice(index * BLOCK, (index + 1) * BLOCK)
            for number, stored in enumerate(self._blocks[digest]):
                memory.layer(row.slab, number)[row.place, :, slots] = stored
        self._touch(found)
        return len(found) * BLOCK

    def keep(self, memory: RowMemory, row: Row, ids: Sequence[int]) -> None:
        """Keep every whole block of a row that holds `ids`."""
        if not self._max_blocks:
            return
        digests = list(_digests(ids))[: self._max_blocks]
        for index, digest in enumerate(digests):
            if digest not in self._blocks:
                slots = slice(index * BLOCK, (index + 1) * BLOCK)
                layers = range(memory.shape.layers)
                self._blocks[digest] = [memory.layer(row.slab, n)[row.place, :, slots].clone() for n in layers]
        self._touch(digests)
        while len(self._blocks) > self._max_blocks:
            self._blocks.popitem(last=False)

    def _touch(self, digests: Sequence[bytes]) -> None:
        """Used just now; a text's first block last, for without it the others cannot be reached."""
        for digest in reversed(digests):
            self._blocks.move_to_end(digest)


def _digests(ids: Sequence[int]) -> Iterator[bytes]:
    """One digest for each whole block, of all tokens up to its end."""
    digest = b""
    for start in range(0, len(ids) - BLOCK + 1, BLOCK):
        text = b",".join(b"%d" % number for number in ids[start : start + BLOCK])
        digest = hashlib.blake2b(digest + text, digest_size=32).digest()
        yield digest
