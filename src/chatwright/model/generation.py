"""Writing text one token after another: sampling, batches, streaming. Knows no HTTP and no conversations.

Legend: B rows, T positions, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from chatwright.foundation.errors import UsageError
from chatwright.model.cache import NetworkCache
from chatwright.model.network import Network
from chatwright.tokens.tokenizer import StreamDecoder, Tokenizer

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How the next token is chosen from the scores."""

    max_tokens: int = 256
    temperature: float = 0.7  # 0 takes the likeliest token
    top_k: int = 0  # 0: no limit
    top_p: float = 1.0  # nucleus (Holtzman et al. 2020)
    min_p: float = 0.0  # share of the likeliest token's probability (Nguyen et al. 2024)
    repetition_penalty: float = 1.0  # Keskar et al. 2019, equation 2
    seed: int | None = None
    stop: tuple[str, ...] = ()


class Piece(NamedTuple):
    """Some text, always whole characters; the last piece of an answer says why it ended."""

    text: str
    finish: Finish | None
    prompt_tokens: int
    completion_tokens: int


def choose(scores_V: Tensor, sampling: Sampling, *, seen: Sequence[int], generator: torch.Generator) -> int:
    """The next token under `sampling`; `seen` are the ids so far, for the repetition penalty."""
    if sampling.repetition_penalty != 1.0 and seen:
        index = torch.tensor(sorted(set(seen)))
        picked = scores_V[index]
        scores_V = scores_V.clone()
        scores_V[index] = torch.where(
            picked > 0, picked / sampling.repetition_penalty, picked * sampling.repetition_penalty
        )
    if sampling.temperature == 0:
        return int(scores_V.argmax())
    shares_V = torch.softmax(_limited(scores_V / sampling.temperature, sampling), dim=-1)
    return int(torch.multinomial(shares_V, 1, generator=generator))


def _limited(scores_V: Tensor, sampling: Sampling) -> Tensor:
    """Scores with everything outside top-k, min-p and the nucleus at minus infinity."""
    if 0 < sampling.top_k < len(scores_V):
        scores_V = scores_V.masked_fill(scores_V < scores_V.topk(sampling.top_k).values[-1], -torch.inf)
    shares_V = torch.softmax(scores_V, dim=-1)
    if sampling.min_p > 0:
        scores_V = scores_V.masked_fill(shares_V < sampling.min_p * shares_V.max(), -torch.inf)
    if sampling.top_p < 1:
        sorted_V, order_V = shares_V.sort(descending=True)
        outside_V = sorted_V.cumsum(-1) - sorted_V >= sampling.top_p
        scores_V = scores_V.index_fill(0, order_V[outside_V], -torch.inf)
    return scores_V


def _require_room(network: Network, prompt: Sequence[int]) -> None:
    limit = network.config.context_length
    if not prompt:
        raise UsageError("the prompt is empty")
    if len(prompt) >= limit:
        raise UsageError(
            f"the prompt has {len(prompt)} tokens, the model's context is {limit}",
            hint="shorten the conversation, or begin a new one",
        )


def stream_text(
    network: Network,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    sampling: Sampling,
    *,
    stop_ids: frozenset[int],
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Piece]:
    """Continue a prompt, piece by piece.

    Raises:
        UsageError: the prompt is empty or fills the context.
    """
    _require_room(network, prompt)
    decoder, held, count = StreamDecoder(tokenizer), "", 0
    finish: Finish = "length"
    longest_stop = max((len(text) for text in sampling.stop), default=0)
    for token in _tokens(network, prompt, sampling):
        if cancelled():
            finish = "cancelled"
            break
        count += 1
        if token in stop_ids:
            finish = "stop"
            break
        held += decoder.push(token)
        position = _first_stop(held, sampling.stop)
        if position is not None:
            yield Piece(held[:position], "stop", len(prompt), count)
            return
        # What might be the beginning of a stop text is held back until it is certain.
        ready = len(held) - max(0, longest_stop - 1)
        if ready > 0:
            yield Piece(held[:ready], None, len(prompt), count)
            held = held[ready:]
    held += decoder.flush()
    position = _first_stop(held, sampling.stop)
    if position is not None:
        held, finish = held[:position], "stop"
    yield Piece(held, finish, len(prompt), count)


def _first_stop(text: str, stops: tuple[str, ...]) -> int | None:
    positions = [position for position in (text.find(stop) for stop in stops) if position >= 0]
    return min(positions, default=None)


@torch.inference_mode()
def _next_scores(network: Network, ids: Sequence[int], cache: NetworkCache) -> Tensor:
    device = network.lm_head.weight.device
    hidden_BTD = network.hidden(torch.tensor([list(ids)], device=device), cache)
    return network.lm_head(hidden_BTD[0, -1]).float().cpu()  # type: ignore[no-any-return]


def _tokens(network: Network, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
    """Token after token until the limit or the end of the context."""
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    capacity = min(network.config.context_length, len(prompt) + sampling.max_tokens)
    weight = network.lm_head.weight
    cache = NetworkCache(network.config, batch=1, capacity=capacity, device=weight.device, dtype=weight.dtype)
    seen = list(prompt)
    scores_V = _next_scores(network, prompt, cache)
    while True:
        token = choose(scores_V, sampling, seen=seen, generator=generator)
        seen.append(token)
        yield token
        if len(seen) >= capacity:
            return
        scores_V = _next_scores(network, [token], cache)


@torch.inference_mode()
def greedy_batch(
    network: Network, prompts: Sequence[Sequence[int]], *, max_tokens: int, stop_ids: frozenset[int], end: int
) -> list[list[int]]:
    """The likeliest continuation of many prompts at once; each row as it would be alone, the stop token left out.

    Args:
        network: the model.
        prompts: token ids; lengths may differ.
        max_tokens: at most so many new tokens a row.
        stop_ids: ids that end a row.
        end: id to pad with.
    """
    for prompt in prompts:
        _require_room(network, prompt)
    device = network.lm_head.weight.device
    lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
    longest = int(lengths_B.max())
    steps = min(max_tokens, network.config.context_length - longest)
    padded_BT = torch.tensor([[*prompt, *[end] * (longest - len(prompt))] for prompt in prompts], device=device)
    weight = network.lm_head.weight
    cache = NetworkCache(
        network.config, batch=len(prompts), capacity=longest + steps, device=device, dtype=weight.dtype
    )
    hidden_BTD = network.hidden(padded_BT, cache)
    cache.set_lengths(lengths_B)
    last_BD = hidden_BTD[torch.arange(len(prompts), device=device), lengths_B - 1]
    answers: list[list[int]] = [[] for _ in prompts]
    running = set(range(len(prompts)))
    for step in range(steps):
        tokens = network.lm_head(last_BD).float().argmax(-1)
        for row in list(running):
            token = int(tokens[row])
            if token in stop_ids:
                running.discard(row)
            else:
                answers[row].append(token)
        if not running or step == steps - 1:
            break
        last_BD = network.hidden(tokens.unsqueeze(1), cache)[:, 0]
    return answers
