"""Micro-batches that carry more than ids and targets: a reference's scores, weights, advantages, a teacher's shares.

The loop asks of a micro-batch only its count, its weight and `to`; the rest is between a source and its objective.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from chatwright.train.batches import MicroBatch
from chatwright.tune.chats import Sample, collate


class TaskBatch(MicroBatch):
    """A micro-batch with named tensors beside it."""

    extras: dict[str, Tensor]

    @classmethod
    def of(cls, ids_BT: Tensor, targets_BT: Tensor, *, count: int, extras: dict[str, Tensor]) -> "TaskBatch":
        """A batch whose loss is divided by `count`: pairs, answers or target tokens."""
        batch = cls(ids_BT, targets_BT, count)
        batch.extras = extras
        return batch

    def to(self, device: torch.device) -> "TaskBatch":
        """The same on a device."""
        if device.type == "cpu":
            return self
        plain = super().to(device)
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.extras.items()}
        return TaskBatch.of(plain.ids_BT, plain.targets_BT, count=self.num_targets, extras=moved)


def one_a_row(samples: Sequence[Sample]) -> MicroBatch:
    """Each sample in a row of its own, for losses that are of rows and not of tokens."""
    return collate([[sample] for sample in samples])


def extras_of(batch: MicroBatch) -> dict[str, Tensor]:
    """What stands beside the ids; an objective of this package meets no other batches."""
    assert isinstance(batch, TaskBatch), "the source and the objective of a stage are made for each other"  # noqa: S101
    return batch.extras
