"""Answers that a model writes to learn from them: many prompts at once, drawn by counter, so a resume draws the same.

Not for serving: nothing streams here. Legend: B rows, T positions, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from chatwright.model.cache import NetworkCache
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
    pad: int


@torch.no_grad()
def write_answers(
    network: Network, prompts: Sequence[Sequence[int]], rules: WritingRules, *, seed: int
) -> list[Answered]:
    """One drawn answer to each prompt, in one batch; the same seed, prompts and weights give the same answers.

    Prompts must leave room in the network's context; where it ends, so does the answer.
    """
    context = network.config.context_length
    limits = [min(rules.max_tokens, context - len(prompt)) for prompt in prompts]
    answers: list[list[int]] = [[] for _ in prompts]
    running = {row for row, limit in enumerate(limits) if limit > 0}
    generator = torch.Generator().manual_seed(seed)
    weight = network.lm_head.weight
    lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=weight.device)
    capacity = min(context, int(lengths_B.max()) + max(limits))
    cache = NetworkCache(
        network.config, batch=len(prompts), capacity=capacity, device=weight.device, dtype=weight.dtype
    )
    hidden_BTD = network.hidden(_padded(prompts, rules.pad, weight.device), cache)
    cache.set_lengths(lengths_B)
    last_BD = hidden_BTD[torch.arange(len(prompts), device=weight.device), lengths_B - 1]
    while running:
        tokens_B = _drawn(network.lm_head(last_BD), rules.temperature, generator)
        for row in sorted(running):
            token = int(tokens_B[row])
            answers[row].append(token)
            if token in rules.stop_ids or len(answers[row]) >= limits[row]:
                running.discard(row)
        if running:
            # A row that is done waits for the others: it rewrites its last slot, and nobody reads it.
            cache.set_lengths(cache.lengths_B.clamp(max=capacity - 1))
            last_BD = network.hidden(tokens_B.to(weight.device).unsqueeze(1), cache)[:, 0]
    return [Answered(list(prompt), answer) for prompt, answer in zip(prompts, answers, strict=True)]


def _drawn(scores_BV: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Drawn on the CPU whatever the device, so that the draw depends on the seed alone."""
    shares_BV = torch.softmax(scores_BV.float().cpu() / temperature, dim=-1)
    return torch.multinomial(shares_BV, 1, generator=generator)[:, 0]


def _padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=device)
