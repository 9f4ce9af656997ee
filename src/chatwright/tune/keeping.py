"""What guards a fine-tune against forgetting: on base text, the base's own predictions are the target.

The divergence from the base, taken on text like its training text, is zero where nothing has been forgotten, so that
it hinders learning only where learning would harm (compare Li and Hoiem 2016, "Learning without forgetting"; the
direction, base first, is theirs). Next-token loss on the same text, plain replay, also pulls where nothing was lost.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatwright.model.attachment import Attachment
from chatwright.model.network import Network
from chatwright.train.batches import IGNORED, MicroBatch
from chatwright.train.objectives import next_token


class KeepingBase:
    """An objective: answers are learned from their tokens, marked batches from the base's predictions.

    Args:
        network: the base, before anything is trained.
        trained: what is trained: an adapter, which is switched off to ask the base, or the network itself, of which a
            frozen copy is kept then.
        is_wanted: whether any batch will be marked; without, no copy is kept.
    """

    def __init__(self, network: Network, trained: nn.Module, *, is_wanted: bool = True):
        self._adapter = trained if isinstance(trained, Attachment) else None
        needs_copy = is_wanted and self._adapter is None
        self._copy = copy.deepcopy(network).requires_grad_(False).eval() if needs_copy else None

    def __call__(self, network: Network, batch: MicroBatch) -> Tensor:
        """Nats, summed over the targets: cross-entropy, or the divergence of the network from its base."""
        if not batch.keeps_base:
            return next_token(network, batch)
        wanted_NV = self._base_scores(network, batch)
        return F.kl_div(
            F.log_softmax(_scores(network, batch), -1), F.log_softmax(wanted_NV, -1), reduction="sum", log_target=True
        )

    @torch.no_grad()
    def _base_scores(self, network: Network, batch: MicroBatch) -> Tensor:
        if self._copy is not None:
            return _scores(self._copy, batch)
        assert self._adapter is not None  # noqa: S101 - one of the two is set
        with self._adapter.switched_off():
            return _scores(network, batch)


def _scores(network: Network, batch: MicroBatch) -> Tensor:
    """Scores at the positions that have a target; (N, vocabulary), float32."""
    hidden_ND = network.hidden(batch.ids_BT, documents_BT=batch.documents_BT)[batch.targets_BT != IGNORED]
    scores: Tensor = network.lm_head(hidden_ND).float()
    return scores
