"""Beam search for short answers such as translations: the likeliest whole sequence, not the likeliest next token.

What was read is read again at each step instead of kept: for sentences that costs little, and it asks nothing of the
cache. Not for chatting, which streams and samples.
Legend: P prompts, K beams, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from chatwright.feedback.conversations import Message
from chatwright.foundation.errors import UsageError
from chatwright.model.chat import ChatModel
from chatwright.model.network import Network

_BATCH_TOKENS = 16_384


class Hypothesis(NamedTuple):
    """A sequence and its log-likelihood."""

    ids: tuple[int, ...]  # without the prompt
    logprob: float


@dataclass
class _Search:
    """One prompt's beams."""

    prompt: list[int]
    limit: int
    running: list[Hypothesis] = field(default_factory=lambda: [Hypothesis((), 0.0)])
    finished: list[tuple[float, Hypothesis]] = field(default_factory=list)  # by score, best first
    is_done: bool = False


def beam_answers(
    model: ChatModel, conversations: Sequence[Sequence[Message]], *, beams: int, max_tokens: int
) -> list[str]:
    """The assistant's next turn of each conversation, by beam search."""
    prompts = [model.encoder.prompt(messages) for messages in conversations]
    found = beam_search(model.network, prompts, beams=beams, max_tokens=max_tokens, stop_ids=model.encoder.stop_ids())
    return [model.tokenizer.decode(list(hypothesis.ids)).strip() for hypothesis in found]


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
    while active := [search for search in searches if not search.is_done]:
        rows = [(search, hypothesis) for search in active for hypothesis in search.running]
        scores_NV = _next_logprobs(network, [[*search.prompt, *hypothesis.ids] for search, hypothesis in rows])
        start = 0
        for search in active:
            end = start + len(search.running)
            _advance(search, scores_NV[start:end], beams=beams, stop_ids=stop_ids, penalty=length_penalty)
            start = end
    return [search.finished[0][1] for search in searches]


def _next_logprobs(network: Network, rows: Sequence[list[int]]) -> Tensor:
    """Log-probabilities of the token after each row, (N, V)."""
    device = network.lm_head.weight.device
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    found: list[Tensor | None] = [None] * len(rows)
    start = 0
    while start < len(order):
        group = order[start : start + max(1, _BATCH_TOKENS // len(rows[order[start]]))]
        width = len(rows[group[0]])
        padded = torch.tensor([[*rows[index], *[0] * (width - len(rows[index]))] for index in group], device=device)
        last = torch.tensor([len(rows[index]) - 1 for index in group], device=device)
        hidden_ND = network.hidden(padded)[torch.arange(len(group), device=device), last]
        for index, scores_V in zip(group, torch.log_softmax(network.lm_head(hidden_ND).float(), -1).cpu(), strict=True):
            found[index] = scores_V
        start += len(group)
    return torch.stack([scores for scores in found if scores is not None])


def _advance(search: _Search, scores_KV: Tensor, *, beams: int, stop_ids: frozenset[int], penalty: float) -> None:
    """One token further: the best continuations of all beams, those that end set aside."""
    vocabulary = scores_KV.shape[1]
    totals_KV = scores_KV + torch.tensor([hypothesis.logprob for hypothesis in search.running]).unsqueeze(1)
    # Enough candidates that even if every stop token is among them, `beams` sequences go on.
    best = totals_KV.flatten().topk(min(totals_KV.numel(), beams * (1 + max(1, len(stop_ids)))))
    running: list[Hypothesis] = []
    for rank, (total, place) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
        beam, token = divmod(place, vocabulary)
        ids = (*search.running[beam].ids, token)
        if token in stop_ids:
            if rank < beams:
                _finish(search, Hypothesis(ids[:-1], total), length=len(ids), beams=beams, penalty=penalty)
        elif len(running) < beams:
            running.append(Hypothesis(ids, total))
    search.running = running
    length = len(running[0].ids) if running else search.limit
    if length >= search.limit:
        for hypothesis in running:
            _finish(search, hypothesis, length=length, beams=beams, penalty=penalty)
        search.is_done = True
    elif len(search.finished) >= beams:
        search.is_done = running[0].logprob / length**penalty <= search.finished[-1][0]


def _finish(search: _Search, hypothesis: Hypothesis, *, length: int, beams: int, penalty: float) -> None:
    search.finished.append((hypothesis.logprob / length**penalty, hypothesis))
    search.finished.sort(key=lambda entry: -entry[0])
    del search.finished[beams:]
