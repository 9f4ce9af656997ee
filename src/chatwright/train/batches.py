"""What a step trains on: micro-batches with targets, and the contract of whoever supplies them."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chatwright.foundation.streams import seed_for

IGNORED = -100  # a target that is not learned; PyTorch's own default


class MicroBatch(NamedTuple):
    """Rows that fit the memory at once. Targets stand at the position that predicts them."""

    ids_BT: Tensor  # noqa: N815 - the shape is part of the name
    targets_BT: Tensor  # noqa: N815 - IGNORED where nothing is learned
    num_targets: int
    weight: float = 1.0  # of its targets in the step's mean, beside those of other micro-batches
    keeps_base: bool = False  # it guards what the base predicts, rather than teaching its targets
    documents_BT: Tensor | None = None  # noqa: N815 - which document of its row a position belongs to, where many share
    extras: dict[str, Tensor] | None = None  # what an objective wants beside the ids; between it and its source

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on a device."""
        if device.type == "cpu":
            return self
        documents_BT = self.documents_BT if self.documents_BT is None else _moved(self.documents_BT, device)
        extras = self.extras and {name: _moved(tensor, device) for name, tensor in self.extras.items()}
        return self._replace(
            ids_BT=_moved(self.ids_BT, device),
            targets_BT=_moved(self.targets_BT, device),
            documents_BT=documents_BT,
            extras=extras,
        )

    @property
    def is_divisible(self) -> bool:
        """Whether its rows stand by themselves, so that it can be split between any two of them.

        What carries extras does not: they belong to pairs or positions of rows, and what is counted is not tokens.
        """
        return self.extras is None and len(self.ids_BT) > 1

    def split(self, positions: int) -> list["MicroBatch"]:
        """The same rows in parts of at most so many positions, at least one row each; itself where it fits or must."""
        rows = max(1, positions // self.ids_BT.shape[1])
        if not self.is_divisible or len(self.ids_BT) <= rows:
            return [self]
        return [self._part(slice(start, start + rows)) for start in range(0, len(self.ids_BT), rows)]

    def _part(self, rows: slice) -> "MicroBatch":
        targets_BT = self.targets_BT[rows]
        return self._replace(
            ids_BT=self.ids_BT[rows],
            targets_BT=targets_BT,
            num_targets=int((targets_BT != IGNORED).sum()),
            documents_BT=None if self.documents_BT is None else self.documents_BT[rows],
        )


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    # What is pinned but has gaps would be copied to pageable memory first, and the step would wait for it.
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)


class BatchSource(Protocol):
    """The order of data: a pure function of the step."""

    @property
    def fingerprint(self) -> str:
        """Digest of everything that the order depends on; a resume with another one is refused."""
        ...

    def step(self, number: int) -> list[MicroBatch]:
        """All micro-batches of a step, for all ranks; the loop takes its rank's share."""
        ...


class FittableSource(BatchSource, Protocol):
    """A source that knows its most demanding step, so that what fits can be searched before the first."""

    def longest(self) -> MicroBatch:
        """All rows of a step whose rows are as long as any, in one."""
        ...


class RowOrder(Protocol):
    """Windows in the order of training."""

    def rows(self, first: int, count: int) -> NDArray[np.int64]:
        """`count` windows from row `first`, (count, length + 1)."""
        ...


@dataclass(frozen=True, kw_only=True)
class WindowSource:
    """Next-token batches from windows of a token stream."""

    order: RowOrder
    rows: int  # windows a step
    micro_rows: int  # windows at once
    fingerprint: str

    def step(self, number: int) -> list[MicroBatch]:
        """Windows `number * rows` and on, in micro-batches."""
        ids_RT = torch.from_numpy(self.order.rows(number * self.rows, self.rows))
        parts = (ids_RT[start : start + self.micro_rows] for start in range(0, self.rows, self.micro_rows))
        return [MicroBatch(part[:, :-1], part[:, 1:], part[:, 1:].numel()) for part in parts]

    def longest(self) -> MicroBatch:
        """Any step: all windows are equally long."""
        ids_RT = torch.from_numpy(self.order.rows(0, self.rows))
        return MicroBatch(ids_RT[:, :-1], ids_RT[:, 1:], ids_RT[:, 1:].numel())


def sample_seed(seed: int, step: int, index: int) -> int:
    """Seed of everything random inside one micro-batch, such as dropout."""
    return seed_for(seed, "micro", step, index)
