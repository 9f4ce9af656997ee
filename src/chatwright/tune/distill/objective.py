"""Distillation as the loop's objective: a micro-batch's summed loss against a teacher beside it, or kept on disk.

Scores of the vocabulary's width exist for a chunk of positions at a time, the teacher's and the student's together.
Legend: B rows, T positions, N target positions, D width, V vocabulary, K tokens kept.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from chatwright.model.network import Network
from chatwright.train.batches import IGNORED, MicroBatch
from chatwright.tune.distill.losses import (
    DistilSettings,
    TopShares,
    mixed,
    soft_loss,
    summed_in_chunks,
    top_loss,
)
from chatwright.tune.tasks import extras_of

_MAX_SCORES = 8 << 20  # numbers of one network's scores at once


class OnlineTeacher:
    """The teacher reads each micro-batch beside the student."""

    def __init__(self, teacher: Network, settings: DistilSettings):
        self._teacher = teacher.requires_grad_(False).eval()
        self._settings = settings

    def __call__(self, network: Network, batch: MicroBatch) -> Tensor:
        """A scalar with a gradient for the student alone."""
        kept_BT = batch.targets_BT != IGNORED
        targets_N = batch.targets_BT[kept_BT]
        student_ND = network.hidden(batch.ids_BT)[kept_BT]
        with torch.no_grad():
            teacher_ND = self._teacher.hidden(batch.ids_BT)[kept_BT]

        def piece(part: slice) -> Tensor:
            scores_NV = network.lm_head(student_ND[part])
            with torch.no_grad():
                wanted_NV = self._teacher.lm_head(teacher_ND[part])
            soft_N = soft_loss(scores_NV, wanted_NV, self._settings)
            return _with_hard(soft_N, scores_NV, targets_N[part], self._settings)

        return summed_in_chunks(piece, len(targets_N), rows=_rows(network))


class KeptTeacher:
    """The teacher's likeliest tokens stand in the batch: `top_ids_NK` and `top_logprobs_NK`, row by row."""

    def __init__(self, settings: DistilSettings):
        self._settings = settings

    def __call__(self, network: Network, batch: MicroBatch) -> Tensor:
        """A scalar with a gradient."""
        extras = extras_of(batch)
        kept_BT = batch.targets_BT != IGNORED
        targets_N, student_ND = batch.targets_BT[kept_BT], network.hidden(batch.ids_BT)[kept_BT]

        def piece(part: slice) -> Tensor:
            scores_NV = network.lm_head(student_ND[part])
            top = TopShares(extras["top_ids_NK"][part], extras["top_logprobs_NK"][part])
            soft_N = top_loss(scores_NV, top, self._settings)
            return _with_hard(soft_N, scores_NV, targets_N[part], self._settings)

        return summed_in_chunks(piece, len(targets_N), rows=_rows(network))


def _with_hard(soft_N: Tensor, scores_NV: Tensor, targets_N: Tensor, settings: DistilSettings) -> Tensor:
    if settings.soft_share == 1:
        return soft_N.sum()
    hard_N = F.cross_entropy(scores_NV.float(), targets_N, reduction="none")
    return mixed(soft_N, hard_N, settings).sum()


def _rows(network: Network) -> int:
    return max(1, _MAX_SCORES // network.config.vocabulary_size)
