"""Steps of rows that read one token each, recorded once and replayed: on a GPU hundreds of launches become one.

A CUDA graph has fixed shapes and addresses. So it covers a whole slab, whatever of it is in use, up to a number of
slots that doubles; tokens and positions are copied into its inputs before each replay. Rows that do not take part read
a token at their last position, which their own last token overwrites before anything reads it. On other devices
nothing is recorded.
Legend: C rows of a slab, N tokens, D width.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from chatwright.model.engine.memory import BLOCK, RowMemory, blocks_for
from chatwright.model.engine.planning import NextToken

_MOST = 64  # graphs that are kept; the longest unused goes first

ReadSlab = Callable[[RowMemory, int, Tensor, int], Tensor]
"""Reads a token in every row of a slab: memory, slab, ids and positions (2, C), slots that are read; states (C, D)."""

Replay = Callable[[], Tensor]
Record = Callable[[Callable[[], Tensor]], Replay]


class _Recorded(NamedTuple):
    inputs_2C: Tensor  # noqa: N815
    held: list[Tensor]  # the slab's memory, which the graph points to
    replay: Replay


class RecordedSteps:
    """Replays what it has recorded, and records what is new.

    Args:
        read_slab: the step itself, of tensors of fixed shapes only.
        context_length: of the network; a slab's rows may have room for more.
        record: makes something to replay of it.
    """

    def __init__(self, read_slab: ReadSlab, *, context_length: int, record: Record | None = None):
        self._read_slab = read_slab
        self._context_length = context_length
        self._record = record or cuda_graph
        self._memory: RowMemory | None = None
        self._known: OrderedDict[tuple[int, int], _Recorded] = OrderedDict()  # by slab and slots

    def read(self, memory: RowMemory, singles: Sequence[NextToken]) -> Tensor:
        """Read a token in each row; their states in order, (N, D). `singles` are sorted by row."""
        parts = [self._read_some(memory, slab, list(some)) for slab, some in groupby(singles, lambda one: one.row.slab)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _read_some(self, memory: RowMemory, slab: int, singles: list[NextToken]) -> Tensor:
        rows, _, capacity, _ = memory.layer(slab, 0).shape
        slots = min(capacity, BLOCK * blocks_for(1 + max(single.position for single in singles)))
        inputs_2C = torch.tensor([[0] * rows, [min(capacity, self._context_length) - 1] * rows])
        places = torch.tensor([single.row.place for single in singles])
        inputs_2C[:, places] = torch.tensor([[single.id, single.position] for single in singles]).t()
        recorded = self._recorded(memory, slab, slots, inputs_2C)
        recorded.inputs_2C.copy_(inputs_2C)
        return recorded.replay()[places.to(memory.shape.device)]

    def _recorded(self, memory: RowMemory, slab: int, slots: int, inputs_2C: Tensor) -> _Recorded:
        if memory is not self._memory:
            self._known.clear()
            self._memory = memory
        key = (slab, slots)
        if key not in self._known:
            for old in [one for one in self._known if not memory.has_slab(one[0])]:
                del self._known[old]  # what it points to was given up and should go, too
            while len(self._known) >= _MOST:
                self._known.popitem(last=False)
            own_2C = inputs_2C.to(memory.shape.device)
            held = [memory.layer(slab, number) for number in range(memory.shape.layers)]
            replay = self._record(lambda: self._read_slab(memory, slab, own_2C, slots))
            self._known[key] = _Recorded(own_2C, held, replay)
        self._known.move_to_end(key)
        return self._known[key]


def cuda_graph(act: Callable[[], Tensor]) -> Replay:
    """Record what `act` launches, after two runs that let libraries choose their kernels (PyTorch's notes on CUDA)."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(2):
            act()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other models may be at work in other threads
        states = act()

    def replay() -> Tensor:
        graph.replay()
        return states

    return replay
