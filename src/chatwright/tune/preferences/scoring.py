"""Log-probabilities of answers under a network: per token, or as sums with counts. The scores never stand whole.

Legend: B rows, T positions, D width, N target positions, V vocabulary.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from chatwright.model.network import Network
from chatwright.train.batches import IGNORED

_MAX_SCORES = 16 << 20  # numbers held at once; beyond, pieces are computed again for their gradient


class AnswerScores(NamedTuple):
    """How likely each row's answer is."""

    sums_B: Float[Tensor, "B"]  # noqa: N815 - the shape suffix of this file's legend
    counts_B: Int[Tensor, "B"]  # noqa: N815 - tokens of the answer

    @property
    def means_B(self) -> Tensor:  # noqa: N802
        """Log-probability per token."""
        return self.sums_B / self.counts_B


def token_logprobs(
    network: Network, ids_BT: Int[Tensor, "B T"], targets_BT: Int[Tensor, "B T"], *, temperature: float = 1.0
) -> Tensor:
    """Log-probability of each target, (B, T); zero where there is none. Other positions cost no output projection.

    Of tokens that were drawn at a temperature, that is the temperature of the distribution that they came from.
    """
    hidden_BTD = network.hidden(ids_BT)
    kept_BT = targets_BT != IGNORED
    hidden_ND, targets_N = hidden_BTD[kept_BT], targets_BT[kept_BT]
    rows = max(1, _MAX_SCORES // network.config.vocabulary_size)
    if len(targets_N) <= rows:
        logprobs_N = _picked(network, hidden_ND, targets_N, temperature)
    else:
        pieces = [
            checkpoint(
                _picked, network, hidden_ND[i : i + rows], targets_N[i : i + rows], temperature, use_reentrant=False
            )
            for i in range(0, len(targets_N), rows)
        ]
        logprobs_N = torch.cat(pieces)
    return logprobs_N.new_zeros(targets_BT.shape).masked_scatter(kept_BT, logprobs_N)


def answer_scores(network: Network, ids_BT: Int[Tensor, "B T"], targets_BT: Int[Tensor, "B T"]) -> AnswerScores:
    """Sums and counts over each row's targets."""
    return AnswerScores(token_logprobs(network, ids_BT, targets_BT).sum(dim=1), (targets_BT != IGNORED).sum(dim=1))


def _picked(network: Network, hidden_ND: Tensor, targets_N: Tensor, temperature: float) -> Tensor:
    return -F.cross_entropy(network.lm_head(hidden_ND).float() / temperature, targets_N, reduction="none")
