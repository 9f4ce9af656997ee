"""Preferences as micro-batches: pairs, or single verdicts, in an order that is a pure function of the step.

Legend: B rows, T positions, P pairs, N answers.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from chatwright.feedback.conversations import Message
from chatwright.foundation.streams import Permutation, seed_for
from chatwright.model.network import Network
from chatwright.model.prompts import ChatEncoder
from chatwright.train.batches import IGNORED, MicroBatch
from chatwright.tune.chats import Sample
from chatwright.tune.preferences.losses import kto_baseline
from chatwright.tune.preferences.scoring import answer_scores
from chatwright.tune.reference import Learner
from chatwright.tune.rollouts import Answered
from chatwright.tune.tasks import one_a_row, task_batch


class EncodedPair(NamedTuple):
    """A pair as ids, with its weight."""

    chosen: Answered
    rejected: Answered
    weight: float


class EncodedVerdict(NamedTuple):
    """An answer as ids, with its thumb and weight."""

    answered: Answered
    is_good: bool
    weight: float


def encode_answer(messages: Sequence[Message], answer: str, encoder: ChatEncoder) -> Answered:
    """What the model reads, and what it should or should not say, with the end of its turn.

    The answer's ids are those of its own turn alone: some templates write earlier turns otherwise in a prompt than in a
    conversation that is trained on. An answer with a thought of its own is one to a prompt that leaves room for it; any
    other follows the empty thought, where the template has one.
    """
    asked, thinking = messages[-1:], "</think>" in answer
    alone = encoder.conversation([*asked, Message("assistant", answer)]).ids
    end = len(alone) - alone[::-1].index(encoder.end)
    begin = len(encoder.prompt(asked, thinking=thinking))
    return Answered(encoder.prompt(messages, thinking=thinking), alone[begin:end])


def as_sample(answered: Answered) -> Sample:
    """Inputs, and targets on the answer alone."""
    ids = [*answered.prompt, *answered.answer]
    return Sample(ids[:-1], [IGNORED] * (len(answered.prompt) - 1) + answered.answer)


def sums_of(network: Network, answers: Sequence[Answered], *, rows: int) -> Tensor:
    """Log-probability of each answer, (N,), without gradients; rows of like length are computed together."""
    order = sorted(range(len(answers)), key=lambda index: len(answers[index].prompt) + len(answers[index].answer))
    sums_N = torch.zeros(len(answers))
    device = network.lm_head.weight.device
    with torch.no_grad():
        for start in range(0, len(order), rows):
            part = order[start : start + rows]
            batch = one_a_row([as_sample(answers[index]) for index in part]).to(device)
            sums_N[part] = answer_scores(network, batch.ids_BT, batch.targets_BT).sums_B.cpu()
    return sums_N


class StepOrder(NamedTuple):
    """How rows are spread over steps."""

    rows: int  # pairs or verdicts a step
    micro_rows: int  # at once
    seed: int
    fingerprint: str  # of the rows, the order and the settings


class PairSource:
    """Pairs of a step: the preferred answers' rows, then the others'. Counts pairs.

    Args:
        pairs: what to learn.
        reference_sums: log-probabilities under the reference, chosen then rejected of each pair, (P, 2).
        order: how they are spread over steps.
    """

    def __init__(
        self,
        pairs: Sequence[EncodedPair],
        *,
        reference_sums: Tensor,
        order: StepOrder,
    ):
        self._pairs = pairs
        self._reference_sums = reference_sums
        self._order = order
        self.fingerprint = order.fingerprint

    def step(self, number: int) -> list[MicroBatch]:
        """The pairs of a step, those of like length together."""
        chosen = rows_of_step(len(self._pairs), number, self._order)
        chosen.sort(key=lambda index: _width(self._pairs[index].chosen) + _width(self._pairs[index].rejected))
        starts = range(0, len(chosen), self._order.micro_rows)
        return [self._batch(chosen[start : start + self._order.micro_rows]) for start in starts]

    def _batch(self, indices: Sequence[int]) -> MicroBatch:
        pairs = [self._pairs[index] for index in indices]
        rows = one_a_row([as_sample(side) for side in (*(p.chosen for p in pairs), *(p.rejected for p in pairs))])
        extras = {
            "weights_P": torch.tensor([pair.weight for pair in pairs]),
            "reference_B": self._reference_sums[list(indices)].T.flatten(),
        }
        return task_batch(rows.ids_BT, rows.targets_BT, count=len(pairs), extras=extras)


class VerdictSource:
    """Single verdicts of a step, with the reference point of the whole step, so that accumulation stays exact.

    Args:
        verdicts: what to learn, of two questions or more.
        reference_sums: log-probabilities under the reference, (N,).
        learner: gives policy and reference for the reference point.
        order: how they are spread over steps.
    """

    def __init__(
        self,
        verdicts: Sequence[EncodedVerdict],
        *,
        reference_sums: Tensor,
        learner: Learner,
        order: StepOrder,
    ):
        self._verdicts = verdicts
        self._reference_sums = reference_sums
        self._learner = learner
        self._order = order
        self.fingerprint = order.fingerprint

    def step(self, number: int) -> list[MicroBatch]:
        """The verdicts of a step."""
        chosen = rows_of_step(len(self._verdicts), number, self._order)
        baseline = self._baseline(chosen)
        chosen.sort(key=lambda index: _width(self._verdicts[index].answered))
        starts = range(0, len(chosen), self._order.micro_rows)
        return [self._batch(chosen[start : start + self._order.micro_rows], baseline) for start in starts]

    def _baseline(self, chosen: Sequence[int]) -> Tensor:
        """Each question with the answer to the next other one, cut to the context."""
        context = self._learner.network.config.context_length
        turned = []
        for place, index in enumerate(chosen):
            prompt = self._verdicts[index].answered.prompt
            answer = self._to_another(prompt, [*chosen[place + 1 :], *chosen[:place]], after=index)
            turned.append(Answered(prompt, answer[: context - len(prompt)]))
        with self._learner.policy() as network:
            now_N = sums_of(network, turned, rows=self._order.micro_rows)
        with self._learner.reference() as network:
            before_N = sums_of(network, turned, rows=self._order.micro_rows)
        return kto_baseline(now_N - before_N)

    def _to_another(self, prompt: Sequence[int], following: Sequence[int], *, after: int) -> list[int]:
        """The next answer that another question got, in this step or else of all.

        An answer to the same question is what is learned, or its like: against itself no gain would count.
        """
        size = len(self._verdicts)
        places = itertools.chain(following, ((after + step) % size for step in range(1, size)))
        answers = (self._verdicts[place].answered for place in places)
        return next(answered.answer for answered in answers if answered.prompt != prompt)

    def _batch(self, indices: Sequence[int], baseline: Tensor) -> MicroBatch:
        verdicts = [self._verdicts[index] for index in indices]
        rows = one_a_row([as_sample(verdict.answered) for verdict in verdicts])
        extras = {
            "weights_N": torch.tensor([verdict.weight for verdict in verdicts]),
            "is_good_N": torch.tensor([verdict.is_good for verdict in verdicts]),
            "reference_N": self._reference_sums[list(indices)],
            "baseline": baseline,
        }
        return task_batch(rows.ids_BT, rows.targets_BT, count=len(verdicts), extras=extras)


def _width(answered: Answered) -> int:
    return len(answered.prompt) + len(answered.answer)


def rows_of_step(size: int, step: int, order: StepOrder) -> list[int]:
    """The rows of a step, of an order that is drawn anew for each pass."""
    places = (divmod(row, size) for row in range(step * order.rows, (step + 1) * order.rows))
    return [Permutation(size, seed_for(order.seed, "preferences", epoch))[position] for epoch, position in places]
