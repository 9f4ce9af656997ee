"""Rows of tokens that somebody else chooses: begun with a prompt, gone on with token by token, copied, given up.

For beam search, and for answers that a model learns from. Not for serving: nothing streams, waits or has a text here;
that is `engine`, on the same weights and memory.
Legend: N rows, V vocabulary, D width.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from chatwright.model.engine.memory import BLOCK, Row, RowMemory, blocks_for
from chatwright.model.engine.planning import NextToken, Stretch
from chatwright.model.engine.runner import Runner
from chatwright.model.network import Network

_READ_AT_ONCE = 32 * BLOCK  # tokens of prompts; more leave a processor's cache
_MEMORY_BYTES = 1 << 30  # for keys and values of all open rows; more where a few rows need it


@dataclass(eq=False)
class OpenRow:
    """What has been read, and how much room there is."""

    row: Row
    length: int  # tokens read
    capacity: int  # tokens in all


class Rows:
    """A network's rows.

    Args:
        network: its parameters are copied into a layout for inference; later changes to them are not seen.
    """

    def __init__(self, network: Network):
        self._runner = Runner(network)
        usual = max(1, _MEMORY_BYTES // self._runner.shape.block_bytes)
        self._memory = RowMemory(self._runner.shape, total_blocks=usual)

    def at_work(self) -> AbstractContextManager[None]:
        """Around many steps, which are faster for it."""
        return self._runner.at_work()

    def room_for(self, num_tokens: int, *, least: int = 1) -> int:
        """How many rows of so many tokens may be open at once.

        Args:
            num_tokens: of each row.
            least: without so many rows nothing can be done, so the memory grows to hold them.
        """
        blocks = blocks_for(num_tokens)
        self._memory.total_blocks = max(self._memory.total_blocks, least * blocks)
        return self._memory.total_blocks // blocks

    @torch.inference_mode()
    def begin(self, prompts: Sequence[Sequence[int]], *, capacities: Sequence[int]) -> tuple[list[OpenRow], Tensor]:
        """Read prompts into rows of their own; gives them with the scores of each one's next token, (N, V)."""
        rows = [self._new(capacity) for capacity in capacities]
        last_states = [torch.empty(0)] * len(rows)
        for part in _parts(prompts):
            stretches = [Stretch(rows[n].row, start, prompts[n][start:end]) for n, start, end in part]
            states_ND = self._runner.read(self._memory, (), stretches)
            ends = itertools.accumulate(len(stretch.ids) for stretch in stretches)
            for (number, _, end), state_end in zip(part, ends, strict=True):
                rows[number].length = end
                last_states[number] = states_ND[state_end - 1]
        return rows, self._runner.scores(torch.stack(last_states))

    @torch.inference_mode()
    def step(self, rows: Sequence[OpenRow], tokens: Sequence[int]) -> Tensor:
        """Read one token more in each row; gives the scores of the next ones, (N, V)."""
        order = sorted(range(len(rows)), key=lambda index: rows[index].row)
        singles = [NextToken(rows[index].row, rows[index].length, tokens[index]) for index in order]
        states_ND = self._runner.read(self._memory, singles, ())
        for row in rows:
            row.length += 1
        places = torch.empty(len(order), dtype=torch.long)
        places[torch.tensor(order)] = torch.arange(len(order))
        return self._runner.scores(states_ND[places.to(states_ND.device)])

    def fork(self, row: OpenRow) -> OpenRow:
        """A new row that has read the same."""
        new = self._new(row.capacity)
        self.overwrite(new, row)
        return new

    @torch.inference_mode()
    def overwrite(self, target: OpenRow, source: OpenRow) -> None:
        """Let `target` have read what `source` has."""
        self._memory.copy(source.row, target.row, source.length)
        target.length = source.length

    def close(self, row: OpenRow) -> None:
        """Forget a row."""
        self._memory.give_back(row.row)

    def _new(self, capacity: int) -> OpenRow:
        row = self._memory.take(capacity)
        if row is None:
            raise ValueError(f"{capacity} tokens more do not fit: ask `room_for` first")
        return OpenRow(row, 0, capacity)


def _parts(prompts: Sequence[Sequence[int]]) -> Iterator[list[tuple[int, int, int]]]:
    """What is read at once: a prompt's number with the beginning and end of what is read of it; long ones in blocks."""
    part: list[tuple[int, int, int]] = []
    room = _READ_AT_ONCE
    for number, prompt in enumerate(prompts):
        start = 0
        while start < len(prompt):
            end = min(len(prompt), start + room)
            part.append((number, start, end))
            room -= -(-(end - start) // BLOCK) * BLOCK
            start = end
            if room <= 0:
                yield part
                part, room = [], _READ_AT_ONCE
    if part:
        yield part
