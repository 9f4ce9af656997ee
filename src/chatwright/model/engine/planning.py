"""What one step reads, as index tensors and masks made once for all layers. Nothing is multiplied here.

Legend: N tokens of the step, M readers, S slots, C rows, Q queries that share a key head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from chatwright.model.engine.memory import BLOCK, Row, RowMemory, Shape


class Stretch(NamedTuple):
    """Tokens that a row reads next; the first stands at `start`, a multiple of the block."""

    row: Row
    start: int
    ids: Sequence[int]


class NextToken(NamedTuple):
    """The one token that a row reads next."""

    row: Row
    position: int
    id: int


class Masks(NamedTuple):
    """Who may read which slot: zero or minus infinity, to be added to scores."""

    whole: Tensor  # in layers that read everything before
    near: Tensor | None  # in layers that read no further back than the window


class Run(NamedTuple):
    """Rows side by side in one slab that read one token each."""

    slab: int
    places: slice
    tokens: slice  # of the step
    slots: int  # read: whole blocks
    last: int | None  # position of the furthest token; None where only tensors know it
    masks: Masks  # (C, 1, 1, S)


class Tile(NamedTuple):
    """A block's worth of a stretch: at most BLOCK tokens that read all slots up to their block's end."""

    row: Row
    start: int
    tokens: slice
    masks: Masks  # (Q * BLOCK, S)


@dataclass(frozen=True)
class Step:
    """What one pass computes: single tokens first, then stretches, in the order of their tokens."""

    ids_N: Tensor  # noqa: N815
    positions_N: Tensor  # noqa: N815
    singles: tuple[Tensor, Tensor]  # slots' and rows' index for writing single tokens
    runs: list[Run]
    tiles: list[Tile]
    stretches: list[tuple[Stretch, slice]]
    memory: RowMemory


def plan(
    singles: Sequence[NextToken],
    stretches: Sequence[Stretch],
    *,
    memory: RowMemory,
    queries: int,
    window: int | None,
) -> Step:
    """The step's index tensors, made once for all layers.

    Args:
        singles: sorted by row.
        stretches: in any order.
        memory: holds their rows.
        queries: heads that share a key head.
        window: tokens that sliding layers read, the reader itself too.
    """
    device = memory.shape.device
    ids = [single.id for single in singles]
    positions = [single.position for single in singles]
    tiles: list[Tile] = []
    placed: list[tuple[Stretch, slice]] = []
    for stretch in stretches:
        begin = len(ids)
        ids += stretch.ids
        positions += range(stretch.start, stretch.start + len(stretch.ids))
        placed.append((stretch, slice(begin, len(ids))))
        for offset in range(0, len(stretch.ids), BLOCK):
            tokens = slice(begin + offset, min(begin + offset + BLOCK, len(ids)))
            start = stretch.start + offset
            readers_M = torch.arange(start, start + BLOCK, device=device).repeat(queries)
            tiles.append(Tile(stretch.row, start, tokens, _masks(readers_M, start + BLOCK, window, memory.shape)))
    positions_N = torch.tensor(positions, device=device)
    places = torch.tensor([single.row.place for single in singles], device=device)
    runs = _runs(singles, positions_N, window, memory.shape)
    singles_index = (places, positions_N[: len(singles)])
    return Step(torch.tensor(ids, device=device), positions_N, singles_index, runs, tiles, placed, memory)


def whole_slab(
    slab: int, ids_C: Tensor, positions_C: Tensor, *, slots: int, memory: RowMemory, window: int | None
) -> Step:
    """A step of one token in every row of a slab, of tensors alone: what a graph can record.

    Args:
        slab: whose rows read.
        ids_C: of the tokens.
        positions_C: theirs.
        slots: that are read.
        memory: holds the slab.
        window: tokens that sliding layers read, the reader itself too.
    """
    every = slice(0, len(ids_C))
    places_C = torch.arange(len(ids_C), device=ids_C.device)
    run = Run(slab, every, every, slots, None, _masks_of_rows(positions_C, slots, window, memory.shape))
    return Step(ids_C, positions_C, (places_C, positions_C), [run], [], [], memory)


def _masks_of_rows(positions_C: Tensor, slots: int, window: int | None, shape: Shape) -> Masks:
    whole, near = _masks(positions_C, slots, window, shape)
    return Masks(whole[:, None, None], None if near is None else near[:, None, None])


def _runs(singles: Sequence[NextToken], positions_N: Tensor, window: int | None, shape: Shape) -> list[Run]:
    runs: list[Run] = []
    begin = 0
    for end in range(1, len(singles) + 1):
        last = singles[end - 1].row
        if end < len(singles) and singles[end].row == Row(last.slab, last.place + 1):
            continue
        first = singles[begin].row
        furthest = max(single.position for single in singles[begin:end])
        slots = (furthest // BLOCK + 1) * BLOCK
        masks = _masks_of_rows(positions_N[begin:end], slots, window, shape)
        runs.append(Run(first.slab, slice(first.place, last.place + 1), slice(begin, end), slots, furthest, masks))
        begin = end
    return runs


def _masks(readers_M: Tensor, slots: int, window: int | None, shape: Shape) -> Masks:
    """(M, S) for readers at these positions: minus infinity at slots that they must not read."""
    slots_S = torch.arange(slots, device=shape.device)
    readers_M1 = readers_M.unsqueeze(1)
    nothing = torch.zeros((len(readers_M), slots), dtype=shape.dtype, device=shape.device)
    behind_MS = slots_S > readers_M1
    whole = nothing.masked_fill(behind_MS, -torch.inf)
    if window is None:
        return Masks(whole, None)
    return Masks(whole, nothing.masked_fill_(behind_MS | (slots_S <= readers_M1 - window), -torch.inf))
