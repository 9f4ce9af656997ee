"""Conversations as training batches: loss on the assistant's words only, base text replayed beside them.

Legend: B rows, T positions.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from chatwright.feedback.conversations import Conversation
from chatwright.foundation.errors import DataError
from chatwright.foundation.streams import Permutation, seed_for
from chatwright.model.prompts import ChatEncoder
from chatwright.tokens.order import WindowOrder
from chatwright.train.batches import IGNORED, MicroBatch

# Samples share rows of this length: attention inside a row costs its square, much padding costs as well.
_ROW_TOKENS = 128


class Sample(NamedTuple):
    """Inputs, and at each position the id to predict or IGNORED."""

    inputs: list[int]
    targets: list[int]
    dropped_turns: int = 0  # the oldest of its conversation, left out because the context is too short for all
    is_question: tuple[bool, ...] = ()  # of each input, whether the user wrote it


def encode_samples(conversations: Sequence[Conversation], encoder: ChatEncoder, *, context_length: int) -> list[Sample]:
    """Each conversation as one sample; longer ones lose whole oldest turns after the system turn, never half a turn.

    Raises:
        DataError: a conversation whose last exchange alone does not fit, or that has nothing to learn.
    """
    return [_encode(conversation, encoder, context_length) for conversation in conversations]


def fits(conversation: Conversation, encoder: ChatEncoder, *, context_length: int) -> bool:
    """Whether `encode_samples` would take a conversation: its last exchange fits, and something of it is learned."""
    try:
        _encode(conversation, encoder, context_length)
    except DataError:
        return False
    return True


def _encode(conversation: Conversation, encoder: ChatEncoder, context_length: int) -> Sample:
    messages = list(conversation.messages)
    first = 1 if messages[0].role == "system" else 0
    chat = encoder.conversation(messages)
    while len(chat.ids) > context_length + 1 and len(messages) - first > 2:
        del messages[first : first + 2]
        chat = encoder.conversation(messages)
    if len(chat.ids) > context_length + 1:
        raise DataError(
            f"{conversation.source}: the last exchange has {len(chat.ids)} tokens, "
            f"the model's context is {context_length}",
            hint="shorten it, or use a model with a longer context",
        )
    if not any(chat.is_target[1:]):
        raise DataError(f"{conversation.source}: nothing to learn, no word of it is the assistant's")
    targets = [token if wanted else IGNORED for token, wanted in zip(chat.ids[1:], chat.is_target[1:], strict=True)]
    return Sample(chat.ids[:-1], targets, len(conversation.messages) - len(messages), tuple(chat.is_question[:-1]))


def leave_out(sample: Sample, share: float, *, seed: int) -> Sample:
    """The sample without a random share of the user's tokens (word dropout; Iyyer et al. 2015, section 2.3).

    A small model learns customers' wordings by heart; with words missing it has to read more than one of them.
    """
    draws = np.random.Generator(np.random.PCG64(seed)).random(len(sample.inputs))
    stays = [not (asked and draw < share) for asked, draw in zip(sample.is_question, draws, strict=False)]
    inputs = list(itertools.compress(sample.inputs, stays))
    targets = list(itertools.compress(sample.targets, stays))
    return Sample(inputs, targets, sample.dropped_turns)


def opening(sample: Sample, num_targets: int) -> Sample:
    """The sample up to the first `num_targets` tokens of its last answer; what follows is not even computed."""
    last = max(index for index, target in enumerate(sample.targets) if target != IGNORED)
    first = last
    while first > 0 and sample.targets[first - 1] != IGNORED:
        first -= 1
    end = min(last + 1, first + num_targets)
    return Sample(sample.inputs[:end], sample.targets[:end], sample.dropped_turns)


class Variation(NamedTuple):
    """How samples differ from pass to pass.

    Where answers recur, most samples need only their beginning: it is there that the right one is chosen.
    """

    whole_share: float = 1.0  # of the samples that are learned to the end
    num_targets: int = 12  # tokens of the answer that the others are learned to
    word_dropout: float = 0.0  # share of the user's tokens that are left out


class ChatSource:
    """Samples in a shuffled order that is a pure function of the step, with windows of base text among them.

    Args:
        samples: what to learn.
        rows: samples a step.
        micro_tokens: tokens at once; more where a single sample has more.
        context_length: the most positions of a row.
        seed: of the order.
        fingerprint: of samples, order and replay.
        replay: base text, or None.
        replay_rows: windows of base text a step, on the average over steps: a half is one in every other step.
        replay_weight: of a token of base text beside one of an answer.
        keeps_base: whether base text is held to the base's predictions, or to what it says.
        variation: how samples differ from pass to pass.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        rows: int,
        micro_tokens: int,
        context_length: int,
        seed: int,
        fingerprint: str,
        replay: WindowOrder | None = None,
        replay_rows: float = 0,
        replay_weight: float = 1.0,
        keeps_base: bool = True,
        variation: Variation = Variation(),  # noqa: B008 - a tuple
    ):
        self._samples = samples
        self._variation = variation
        self._rows = rows
        self._micro_tokens = micro_tokens
        self._row_tokens = min(_ROW_TOKENS, micro_tokens, context_length)
        self._seed = seed
        self._replay = replay
        self._replay_rows = replay_rows if replay is not None else 0
        self._replay_weight = replay_weight
        self._keeps_base = keeps_base
        self.fingerprint = fingerprint

    def step(self, number: int) -> list[MicroBatch]:
        """The step's samples, packed so that little is padding; base text by itself."""
        chosen = [self._sample(number * self._rows + row) for row in range(self._rows)]
        replayed = self._packed(self._replayed(number))
        return [
            *self._packed(chosen),
            *(batch._replace(weight=self._replay_weight, keeps_base=self._keeps_base) for batch in replayed),
        ]

    def _packed(self, samples: Sequence[Sample]) -> list[MicroBatch]:
        if not samples:
            return []
        rows = pack(samples, length=self._row_tokens)
        rows_at_once = max(1, self._micro_tokens // sum(len(sample.inputs) for sample in rows[0]))
        return [collate(rows[start : start + rows_at_once]) for start in range(0, len(rows), rows_at_once)]

    def _replayed(self, number: int) -> list[Sample]:
        if self._replay is None or not self._replay_rows:
            return []
        first = math.floor(number * self._replay_rows)
        count = math.floor((number + 1) * self._replay_rows) - first
        if not count:
            return []
        windows_RT = self._replay.rows(first, count)
        return [Sample(window[:-1].tolist(), window[1:].tolist()) for window in windows_RT]

    def _sample(self, row: int) -> Sample:
        epoch, position = divmod(row, len(self._samples))
        sample = self._samples[Permutation(len(self._samples), seed_for(self._seed, "chats", epoch))[position]]
        if self._variation.word_dropout and sample.is_question:
            sample = leave_out(sample, self._variation.word_dropout, seed=seed_for(self._seed, "words", row))
        draw = seed_for(self._seed, "whole", row) / 2**63
        return sample if draw < self._variation.whole_share else opening(sample, self._variation.num_targets)


def pack(samples: Sequence[Sample], *, length: int) -> list[list[Sample]]:
    """Rows of several samples each, at most `length` tokens long or as long as the longest sample.

    Best-fit decreasing (Johnson 1973): the longest first, each into the fullest row that still takes it.
    """
    length = max(length, *(len(sample.inputs) for sample in samples))
    rows: list[list[Sample]] = []
    space: list[int] = []
    for sample in sorted(samples, key=lambda sample: -len(sample.inputs)):
        fitting = [row for row, left in enumerate(space) if left >= len(sample.inputs)]
        if not fitting:
            fitting = [len(rows)]
            rows.append([])
            space.append(length)
        row = min(fitting, key=lambda row: space[row])
        rows[row].append(sample)
        space[row] -= len(sample.inputs)
    return rows


def collate(rows: Sequence[Sequence[Sample]]) -> MicroBatch:
    """Rows of samples that do not see each other, padded at the right: no target stands on the padding."""
    width = max(sum(len(sample.inputs) for sample in row) for row in rows)
    ids_BT = torch.zeros(len(rows), width, dtype=torch.int64)
    targets_BT = torch.full_like(ids_BT, IGNORED)
    documents_BT = torch.full_like(ids_BT, -1)
    for number, row in enumerate(rows):
        start = 0
        for index, sample in enumerate(row):
            place = slice(start, start + len(sample.inputs))
            ids_BT[number, place] = torch.tensor(sample.inputs)
            targets_BT[number, place] = torch.tensor(sample.targets)
            documents_BT[number, place] = index
            start = place.stop
    # Where each row holds one sample, causal attention alone keeps the padding unread, and is faster than a mask.
    shared = any(len(row) > 1 for row in rows)
    return MicroBatch(
        ids_BT, targets_BT, int((targets_BT != IGNORED).sum()), documents_BT=documents_BT if shared else None
    )
