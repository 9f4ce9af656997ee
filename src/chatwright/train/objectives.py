"""What is learned: functions from a network and a micro-batch to a summed loss. The loop knows nothing else of them."""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from chatwright.model.network import Network
from chatwright.train.batches import IGNORED, MicroBatch
from chatwright.train.scores import summed_cross_entropy

# Scores of so many numbers are held at once; beyond, the loss is taken in pieces (scores.py).
# Where an adapter stands on the output projection, the pieces' scores are computed again in the backward pass.
_MAX_SCORES = 64 << 20


class Objective(Protocol):
    """A loss, in nats, summed over the micro-batch's targets."""

    def __call__(self, network: Network, batch: MicroBatch) -> Tensor:
        """A scalar with a gradient."""
        ...


def next_token(network: Network, batch: MicroBatch) -> Tensor:
    """Cross-entropy of each target, summed. Positions without a target cost no output projection."""
    hidden_ND = network.hidden(batch.ids_BT, documents_BT=batch.documents_BT).flatten(0, 1)
    targets_N = batch.targets_BT.flatten()
    if batch.num_targets < targets_N.numel():
        kept_N = targets_N != IGNORED
        hidden_ND, targets_N = hidden_ND[kept_N], targets_N[kept_N]
    rows = max(1, _MAX_SCORES // network.config.vocabulary_size)
    if len(targets_N) <= rows:
        return _loss(network, hidden_ND, targets_N)
    if _is_plain(network.lm_head):
        return summed_cross_entropy(hidden_ND, network.lm_head.weight, targets_N)
    pieces = [
        checkpoint(
            _loss, network, hidden_ND[start : start + rows], targets_N[start : start + rows], use_reentrant=False
        )
        for start in range(0, len(targets_N), rows)
    ]
    return torch.stack(pieces).sum()


def _is_plain(projection: nn.Module) -> bool:
    """Whether nothing is added to the output projection, such as an adapter's hook."""
    return type(projection) is nn.Linear and not projection._forward_hooks and not projection._forward_pre_hooks


def _loss(network: Network, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    return F.cross_entropy(network.lm_head(hidden_ND).float(), targets_N, reduction="sum")
