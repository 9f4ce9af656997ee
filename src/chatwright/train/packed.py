"""Next-token batches of rows into which whole documents are packed. Not for the packing itself (tokens/packing.py)."""

from dataclasses import dataclass

import torch

from chatwright.tokens.packing import PackedOrder
from chatwright.train.batches import IGNORED, MicroBatch


@dataclass(frozen=True, kw_only=True)
class PackedSource:
    """Packed rows, a bounded number at once; each micro-batch counts the targets that it really has."""

    order: PackedOrder
    rows: int  # a step
    micro_rows: int  # at once
    fingerprint: str
    separate: bool = False  # documents of a row do not attend to each other

    def step(self, number: int) -> list[MicroBatch]:
        """Rows `number * rows` and on, in micro-batches."""
        whole = self._batch(number * self.rows, self.rows)
        length = whole.ids_BT.shape[1]
        return whole.split(self.micro_rows * length)

    def longest(self) -> MicroBatch:
        """Any step: all rows are equally long."""
        return self._batch(0, self.rows)

    def _batch(self, first: int, count: int) -> MicroBatch:
        ids_BT, targets_BT, pieces_BT = map(torch.from_numpy, self.order.rows(first, count))
        documents_BT = pieces_BT if self.separate else None
        return MicroBatch(ids_BT, targets_BT, int((targets_BT != IGNORED).sum()), documents_BT=documents_BT)
