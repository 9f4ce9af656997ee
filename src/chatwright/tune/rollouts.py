"""Answers that a model writes to learn from them: many prompts at once, drawn by counter, so a resume draws the same.

Not for serving: nothing streams here. Legend: B rows, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from chatwright.model.engine.rows import Rows
from chatwright.model.network import Network


class Answered(NamedTuple):
    """A prompt and an answer as token ids; the answer ends with its end marker unless it ran out of room."""

    prompt: list[int]
    answer: list[int]


class WritingRules(NamedTuple):
    """How answers are drawn and when they end."""

    max_tokens: int
    temperature: float
    stop_ids: frozenset[int]


@torch.no_grad()
def write_answers(
    network: Network, prompts: Sequence[Sequence[int]], rules: WritingRules, *, seed: int
) -> list[Answered]:
    """One drawn answer to each prompt, side by side; the same seed, prompts and weights give the same answers.

    Prompts must leave room in the network's context; where it ends, so does the answer.

    Args:
        network: without an adapter beside its weights.
        prompts: token ids.
        rules: how answers are drawn and end.
        seed: of all draws.
    """
    context = network.config.context_length
    limits = [min(rules.max_tokens, context - len(prompt)) for prompt in prompts]
    answers: list[list[int]] = [[] for _ in prompts]
    generator = torch.Generator().manual_seed(seed)
    running = [row for row, limit in enumerate(limits) if limit > 0]
    if running:
        rows = Rows(network)
        capacities = [len(prompts[row]) + limits[row] for row in running]
        group = rows.room_for(max(capacities))
        draws_BT = torch.rand(len(prompts), max(limits), generator=generator, dtype=torch.double)
        with rows.at_work():
            for start in range(0, len(running), group):
                _write(rows, running[start : start + group], _Writing(prompts, limits, answers, draws_BT, rules))
    return [Answered(list(prompt), answer) for prompt, answer in zip(prompts, answers, strict=True)]


class _Writing(NamedTuple):
    """Prompts and what becomes of them, by row."""

    prompts: Sequence[Sequence[int]]
    limits: list[int]
    answers: list[list[int]]
    draws_BT: Tensor  # noqa: N815 - a number of [0, 1) for each token that may be drawn
    rules: WritingRules


def _write(rows: Rows, chosen: list[int], writing: _Writing) -> None:
    capacities = [len(writing.prompts[row]) + writing.limits[row] for row in chosen]
    begun, scores_BV = rows.begin([writing.prompts[row] for row in chosen], capacities=capacities)
    held = dict(zip(chosen, begun, strict=True))
    while True:
        place = len(writing.answers[chosen[0]])
        tokens = _drawn(scores_BV, writing.rules.temperature, writing.draws_BT[chosen, place])
        for row, token in zip(chosen, tokens, strict=True):
            writing.answers[row].append(token)
            if token in writing.rules.stop_ids or len(writing.answers[row]) >= writing.limits[row]:
                rows.close(held.pop(row))
        going_on = [(row, token) for row, token in zip(chosen, tokens, strict=True) if row in held]
        if not going_on:
            return
        chosen = [row for row, _ in going_on]
        scores_BV = rows.step([held[row] for row in chosen], [token for _, token in going_on])


def _drawn(scores_BV: Tensor, temperature: float, draws_B: Tensor) -> list[int]:
    """The token on which each number falls when the tokens' shares lie side by side; on the CPU whatever the device."""
    shares_BV = torch.softmax(scores_BV.cpu().double() / temperature, dim=-1)
    edges_BV = shares_BV.cumsum(-1)
    places_B1 = torch.searchsorted(edges_BV, (draws_B * edges_BV[:, -1]).unsqueeze(1), right=True)
    found: list[int] = places_B1.clamp(max=scores_BV.shape[1] - 1)[:, 0].tolist()
    return found
