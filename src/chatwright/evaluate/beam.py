"""Beam search for short answers such as translations: the likeliest whole sequence, not the likeliest next token.

Not for chatting, which streams and samples. A prompt is read once; its beams go on in rows of the engine's memory.
Legend: P prompts, N rows, K beams, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from chatwright.feedback.conversations import Message
from chatwright.foundation.errors import UsageError
from chatwright.model.chat import ChatModel
from chatwright.model.engine.engine import Written
from chatwright.model.engine.rows import OpenRow, Rows
from chatwright.model.network import Network

_MOST_ROWS = 256  # scores of so many are held together


class Hypothesis(NamedTuple):
    """A sequence and its log-likelihood."""

    ids: tuple[int, ...]  # without the prompt
    logprob: float
    is_cut: bool = False  # it ended at the most tokens that it may have, not by a stop token


class _Rules(NamedTuple):
    """What all searches of a call have in common."""

    beams: int
    stop_ids: frozenset[int]
    length_penalty: float


@dataclass
class _Search:
    """One prompt's beams, each with the row that has read all but its last token."""

    prompt: list[int]
    limit: int
    running: list[Hypothesis] = field(default_factory=lambda: [Hypothesis((), 0.0)])
    rows: list[OpenRow] = field(default_factory=list)
    finished: list[tuple[float, Hypothesis]] = field(default_factory=list)  # by score, best first
    is_done: bool = False

    @property
    def capacity(self) -> int:
        return len(self.prompt) + self.limit


def beam_answers(
    model: ChatModel, conversations: Sequence[Sequence[Message]], *, beams: int, max_tokens: int
) -> list[Written]:
    """The assistant's next turn of each conversation, by beam search."""
    prompts = [model.encoder.prompt(messages) for messages in conversations]
    found = beam_search(model.network, prompts, beams=beams, max_tokens=max_tokens, stop_ids=model.encoder.stop_ids())
    return [
        Written(list(one.ids), model.tokenizer.decode(list(one.ids)), "length" if one.is_cut else "stop", ())
        for one in found
    ]


@torch.inference_mode()
def beam_search(
    network: Network,
    prompts: Sequence[Sequence[int]],
    *,
    beams: int,
    max_tokens: int,
    stop_ids: frozenset[int],
    length_penalty: float = 1.0,
) -> list[Hypothesis]:
    """The best sequence of each prompt by log-likelihood over length to the power of `length_penalty`.

    Follows what transformers' `generate` does with `early_stopping=False` (its documentation of generation
    strategies): the stop token counts as a token, and a search ends when no running beam can beat the worst of the
    `beams` finished ones at its present length.

    Args:
        network: the model.
        prompts: token ids.
        beams: sequences followed at once, 1 or more.
        max_tokens: at most so many new tokens.
        stop_ids: ids that end a sequence; they are left out of it.
        length_penalty: above 1 favours long sequences.

    Raises:
        UsageError: a prompt is empty or fills the context, or there is no beam.
    """
    context = network.config.context_length
    if beams < 1:
        raise UsageError(f"beam search needs one beam or more: {beams}")
    for prompt in prompts:
        if not 1 <= len(prompt) < context:
            raise UsageError(f"a prompt must have between 1 and {context - 1} tokens: {len(prompt)}")
    searches = [_Search(list(prompt), min(max_tokens, context - len(prompt))) for prompt in prompts]
    rows = Rows(network)
    with rows.at_work():
        for group in _groups(searches, rows, beams):
            _search(rows, group, _Rules(beams, stop_ids, length_penalty))
    return [search.finished[0][1] for search in searches]


def _groups(searches: Sequence[_Search], rows: Rows, beams: int) -> Iterator[list[_Search]]:
    """As many searches at once as the memory holds, longest first; it grows where it does not hold one."""
    order = sorted(searches, key=lambda search: -search.capacity)
    start = 0
    while start < len(order):
        room = rows.room_for(order[start].capacity, least=beams)
        size = max(1, min(_MOST_ROWS, room) // beams)
        yield order[start : start + size]
        start += size


def _search(rows: Rows, searches: Sequence[_Search], rules: _Rules) -> None:
    """Bring searches to their end side by side."""
    begun, scores_PV = rows.begin(
        [search.prompt for search in searches], capacities=[search.capacity for search in searches]
    )
    for search, row in zip(searches, begun, strict=True):
        search.rows = [row]
    active, scores_NV = list(searches), _logprobs(scores_PV)
    while active:
        start = 0
        for search in active:
            end = start + len(search.running)
            parents = _advance(search, scores_NV[start:end], rules)
            search.rows = _follow(rows, search.rows, parents=[] if search.is_done else parents)
            start = end
        active = [search for search in active if not search.is_done]
        if active:
            tokens = [hypothesis.ids[-1] for search in active for hypothesis in search.running]
            scores_NV = _logprobs(rows.step([row for search in active for row in search.rows], tokens))


def _logprobs(scores_NV: Tensor) -> Tensor:
    return torch.log_softmax(scores_NV.float(), -1).cpu()


def _follow(rows: Rows, held: Sequence[OpenRow], *, parents: Sequence[int]) -> list[OpenRow]:
    """A row for each beam that goes on: a parent's first child takes its row, the others copy it."""
    spare = [row for place, row in enumerate(held) if place not in parents]
    followed: list[OpenRow] = []
    for number, parent in enumerate(parents):
        if parent not in parents[:number]:
            followed.append(held[parent])
        elif spare:
            rows.overwrite(spare[-1], held[parent])
            followed.append(spare.pop())
        else:
            followed.append(rows.fork(held[parent]))
    for row in spare:
        rows.close(row)
    return followed


def _advance(search: _Search, scores_KV: Tensor, rules: _Rules) -> list[int]:
    """One token further: the best continuations of all beams, those that end set aside. Gives who each came from."""
    beams, vocabulary = rules.beams, scores_KV.shape[1]
    totals_KV = scores_KV + torch.tensor([hypothesis.logprob for hypothesis in search.running]).unsqueeze(1)
    # Enough candidates that even if every stop token is among them, `beams` sequences go on.
    best = totals_KV.flatten().topk(min(totals_KV.numel(), beams * (1 + max(1, len(rules.stop_ids)))))
    running: list[Hypothesis] = []
    parents: list[int] = []
    for rank, (total, place) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
        beam, token = divmod(place, vocabulary)
        ids = (*search.running[beam].ids, token)
        if token in rules.stop_ids:
            if rank < beams:
                _finish(search, Hypothesis(ids[:-1], total), length=len(ids), rules=rules)
        elif len(running) < beams:
            running.append(Hypothesis(ids, total))
            parents.append(beam)
    search.running = running
    length = len(running[0].ids) if running else search.limit
    if length >= search.limit:
        for hypothesis in running:
            _finish(search, hypothesis._replace(is_cut=True), length=length, rules=rules)
        search.is_done = True
    elif len(search.finished) >= beams:
        search.is_done = running[0].logprob / length**rules.length_penalty <= search.finished[-1][0]
    return parents


def _finish(search: _Search, hypothesis: Hypothesis, *, length: int, rules: _Rules) -> None:
    search.finished.append((hypothesis.logprob / length**rules.length_penalty, hypothesis))
    search.finished.sort(key=lambda entry: -entry[0])
    del search.finished[rules.beams :]
