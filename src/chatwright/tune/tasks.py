"""Micro-batches that carry more than ids and targets: a reference's scores, weights, advantages, a teacher's shares.

The loop asks of a micro-batch only its count, its weight and `to`; the rest is between a source and its objective.
"""

from collections.abc import Sequence

from torch import Tensor

from chatwright.train.batches import MicroBatch
from chatwright.tune.chats import Sample, collate


def task_batch(ids_BT: Tensor, targets_BT: Tensor, *, count: int, extras: dict[str, Tensor]) -> MicroBatch:
    """A batch with named tensors beside it, whose loss is divided by `count`: pairs, answers or target tokens."""
    return MicroBatch(ids_BT, targets_BT, count, extras=extras)


def one_a_row(samples: Sequence[Sample]) -> MicroBatch:
    """Each sample in a row of its own, for losses that are of rows and not of tokens."""
    return collate([[sample] for sample in samples])


def extras_of(batch: MicroBatch) -> dict[str, Tensor]:
    """What stands beside the ids; an objective of this package meets no other batches."""
    assert batch.extras is not None, "the source and the objective of a stage are made for each other"  # noqa: S101
    return batch.extras
