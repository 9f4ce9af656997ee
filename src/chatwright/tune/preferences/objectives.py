"""The preference losses as the loop's objectives: from a micro-batch of pairs or verdicts to a summed loss.

Legend: B rows (P preferred answers, then P others), P pairs, N answers, T positions.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from chatwright.model.network import Network
from chatwright.train.batches import IGNORED, MicroBatch
from chatwright.tune.preferences import losses
from chatwright.tune.preferences.scoring import AnswerScores, answer_scores, token_logprobs
from chatwright.tune.tasks import extras_of

ObjectiveKind = Literal["dpo", "ipo", "simpo", "orpo", "kto", "grpo"]


class Strengths(NamedTuple):
    """The numbers of the losses; each loss reads its own."""

    beta: float
    margin: float = 0.0
    label_smoothing: float = 0.0
    anchor: float = 0.0
    good_weight: float = 1.0
    bad_weight: float = 1.0


def _dpo(scores: AnswerScores, reference_B: Tensor, strengths: Strengths) -> Tensor:
    chosen_P, rejected_P = (scores.sums_B - reference_B).chunk(2)
    return losses.dpo(chosen_P, rejected_P, beta=strengths.beta, label_smoothing=strengths.label_smoothing)


def _ipo(scores: AnswerScores, reference_B: Tensor, strengths: Strengths) -> Tensor:
    chosen_P, rejected_P = ((scores.sums_B - reference_B) / scores.counts_B).chunk(2)
    return losses.ipo(chosen_P, rejected_P, beta=strengths.beta)


def _simpo(scores: AnswerScores, reference_B: Tensor, strengths: Strengths) -> Tensor:  # noqa: ARG001 - it has none
    chosen_P, rejected_P = scores.means_B.chunk(2)
    return losses.simpo(chosen_P, rejected_P, beta=strengths.beta, margin=strengths.margin)


def _orpo(scores: AnswerScores, reference_B: Tensor, strengths: Strengths) -> Tensor:  # noqa: ARG001 - it has none
    chosen_P, rejected_P = scores.means_B.chunk(2)
    return losses.orpo(chosen_P, rejected_P, -chosen_P, beta=strengths.beta)


_PAIR_LOSSES: dict[ObjectiveKind, Callable[[AnswerScores, Tensor, Strengths], Tensor]] = {
    "dpo": _dpo,
    "ipo": _ipo,
    "simpo": _simpo,
    "orpo": _orpo,
}


class _WeightedObjective:
    """A loss of each row or pair of rows, weighed and summed."""

    def __init__(self, strengths: Strengths, *, weights: str):
        self._strengths = strengths
        self._weights = weights

    def __call__(self, network: Network, batch: MicroBatch) -> Tensor:
        """A scalar with a gradient."""
        extras = extras_of(batch)
        values = self._values(answer_scores(network, batch.ids_BT, batch.targets_BT), extras)
        return (values * extras[self._weights]).sum()

    def _values(self, scores: AnswerScores, extras: Mapping[str, Tensor]) -> Tensor:
        raise NotImplementedError


class PairObjective(_WeightedObjective):
    """Weighted loss of pairs, summed; with an anchor also the preferred answers' mean nats (Pang et al. 2024, eq. 1).

    A preference loss asks only that the preferred answer gains more than the other: both may fall. The anchor holds it.
    """

    def __init__(self, kind: ObjectiveKind, strengths: Strengths):
        super().__init__(strengths, weights="weights_P")
        self._loss = _PAIR_LOSSES[kind]

    def _values(self, scores: AnswerScores, extras: Mapping[str, Tensor]) -> Tensor:
        value_P = self._loss(scores, extras["reference_B"], self._strengths)
        if self._strengths.anchor:
            value_P = value_P - self._strengths.anchor * scores.means_B.chunk(2)[0]
        return value_P


class VerdictObjective(_WeightedObjective):
    """Weighted KTO loss of single answers, summed."""

    def __init__(self, strengths: Strengths):
        super().__init__(strengths, weights="weights_N")

    def _values(self, scores: AnswerScores, extras: Mapping[str, Tensor]) -> Tensor:
        return losses.kto(
            scores.sums_B - extras["reference_N"],
            extras["is_good_N"],
            baseline=extras["baseline"],
            beta=self._strengths.beta,
            good_weight=self._strengths.good_weight,
            bad_weight=self._strengths.bad_weight,
        )


class PolicyObjective:
    """GRPO on answers that were just written: mean over each answer's tokens, summed over answers.

    The policy is the distribution that the answers were drawn from, so at their temperature, as in TRL.
    """

    def __init__(self, strengths: Strengths, *, temperature: float = 1.0):
        self._strengths = strengths
        self._temperature = temperature

    def __call__(self, network: Network, batch: MicroBatch) -> Tensor:
        """A scalar with a gradient. Written and learned with the same weights, the ratio is one: nothing is clipped."""
        extras = extras_of(batch)
        logprobs_BT = token_logprobs(network, batch.ids_BT, batch.targets_BT, temperature=self._temperature)
        is_target_BT = batch.targets_BT != IGNORED
        value_BT = losses.grpo(
            logprobs_BT,
            logprobs_BT.detach(),
            extras["reference_BT"],
            extras["advantages_B"],
            beta=self._strengths.beta,
        )
        kept_BT = torch.where(is_target_BT, value_BT, 0.0)
        return (kept_BT.sum(dim=1) / is_target_BT.sum(dim=1)).sum()
