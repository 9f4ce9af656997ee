"""Writing text one token after another: sampling, batches, streaming. Knows no HTTP and no conversations.

Legend: B rows, T positions, V vocabulary.
"""

import math
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

_MAX_PENALTY = 2.0  # as in OpenAI's API
_GREEDY_BELOW = 1e-6  # a temperature at which scores divided by it leave float32's range


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How the next token is chosen from the scores."""

    max_tokens: int = 256
    temperature: float = 0.7  # 0 takes the likeliest token
    top_k: int = 0  # 0: no limit
    top_p: float = 1.0  # nucleus (Holtzman et al. 2020)
    min_p: float = 0.0  # share of the likeliest token's probability (Nguyen et al. 2024)
    repetition_penalty: float = 1.0  # Keskar et al. 2019, equation 2; prompt and answer
    presence_penalty: float = 0.0  # taken once from the score of each token that the answer has
    frequency_penalty: float = 0.0  # taken as often as the answer has the token
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None  # None: no log-probabilities; else so many of the likeliest beside the chosen one

    def __post_init__(self) -> None:
        """Every number must mean something.

        Raises:
            UsageError: all that is out of range, at once.
        """
        wrong = [
            f"`{name}` must be {allowed}: {getattr(self, name)}"
            for name, is_sound, allowed in (
                ("max_tokens", self.max_tokens >= 0, "0 or more"),
                ("temperature", 0 <= self.temperature < math.inf, "0 or more"),
                ("top_k", self.top_k >= 0, "0 or more"),
                ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
                ("min_p", 0 <= self.min_p <= 1, "between 0 and 1"),
                ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0"),
                ("presence_penalty", -_MAX_PENALTY <= self.presence_penalty <= _MAX_PENALTY, "between -2 and 2"),
                ("frequency_penalty", -_MAX_PENALTY <= self.frequency_penalty <= _MAX_PENALTY, "between -2 and 2"),
                ("top_logprobs", self.top_logprobs is None or 0 <= self.top_logprobs <= 20, "between 0 and 20"),
                ("seed", self.seed is None or 0 <= self.seed < 1 << 63, "between 0 and 2^63 - 1"),
                ("stop", all(self.stop), "texts that are not empty"),
            )
            if not is_sound
        ]
        if wrong:
            raise UsageError("; ".join(wrong))


class Likely(NamedTuple):
    """A token with its natural-log probability under the model, before temperature, penalties and limits."""

    id: int
    text: str  # decoded alone: U+FFFD stands where its bytes are no whole character
    bytes: bytes  # of a byte-level vocabulary exactly; else the text's UTF-8; empty for special tokens
    logprob: float


class ScoredToken(NamedTuple):
    """A token of an answer, or of an echoed prompt, with what else was likely there."""

    token: Likely
    top: tuple[Likely, ...]  # likeliest first; without the token itself unless it is among them
    is_first: bool = False  # of the prompt: nothing came before it, its log-probability is 0 and means nothing


class Piece(NamedTuple):
    """Some text of one answer, always whole characters; the last piece of an answer says why it ended."""

    text: str
    finish: Finish | None
    prompt_tokens: int
    completion_tokens: int
    answer: int = 0  # which of the request's answers, from 0
    tokens: tuple[ScoredToken, ...] = ()  # where log-probabilities were asked for: those new since the last piece


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """All that an engine needs to know of what it shall write. Knows no conversation."""

    prompt: tuple[int, ...]  # token ids
    sampling: Sampling
    stop_ids: frozenset[int] = frozenset()  # ids that end an answer and are not shown
    num_answers: int = 1  # answers to the same prompt; each draws by its own stream of the seed
    echo: bool = False  # the prompt's text and, where asked for, its log-probabilities come first

    def __post_init__(self) -> None:
        """Nothing that could not be begun.

        Raises:
            UsageError: all that is wrong, at once.
        """
        wrong = []
        if not self.prompt:
            wrong.append("the prompt is empty")
        if self.num_answers < 1:
            wrong.append(f"`num_answers` must be 1 or more: {self.num_answers}")
        if self.sampling.max_tokens == 0 and not self.echo:
            wrong.append("`max_tokens` must be 1 or more, unless the prompt is echoed")
        if wrong:
            raise UsageError("; ".join(wrong))


def choose(scores_V: Tensor, sampling: Sampling, *, seen: Sequence[int], generator: torch.Generator) -> int:
    """The next token under `sampling`; `seen` are the ids so far, for the repetition penalty."""
    if sampling.repetition_penalty != 1.0 and seen:
        index = torch.tensor(sorted(set(seen)))
        picked = scores_V[index]
        scores_V = scores_V.clone()
        scores_V[index] = torch.where(
            picked > 0, picked / sampling.repetition_penalty, picked * sampling.repetition_penalty
        )
    if sampling.temperature < _GREEDY_BELOW:
        return int(scores_V.argmax())
    shares_V = torch.softmax(_limited((scores_V - scores_V.max()) / sampling.temperature, sampling), dim=-1)
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

    Raises:
        UsageError: a prompt is empty or fills the context.
    """
    for prompt in prompts:
        _require_room(network, prompt)
    context = network.config.context_length
    limits = [min(max_tokens, context - len(prompt)) for prompt in prompts]
    answers: list[list[int]] = [[] for _ in prompts]
    running = {row for row, limit in enumerate(limits) if limit > 0}
    if not running:
        return answers
    capacity = min(context, max(map(len, prompts)) + max(limits))
    cache, last_BD = _read_prompts(network, prompts, pad=end, capacity=capacity)
    while True:
        tokens_B = network.lm_head(last_BD).float().argmax(-1)
        for row, token in enumerate(tokens_B.tolist()):
            if row in running and token not in stop_ids:
                answers[row].append(token)
            if token in stop_ids or len(answers[row]) >= limits[row]:
                running.discard(row)
        if not running:
            return answers
        if cache.longest >= context:
            # A row that has filled its context waits for the others: it rewrites its last slot, and nobody reads it.
            cache.set_lengths(cache.lengths_B.clamp(max=context - 1))
        last_BD = network.hidden(tokens_B.unsqueeze(1), cache)[:, 0]


class _Read(NamedTuple):
    cache: NetworkCache
    state: Tensor  # (B, D), the state at each prompt's last token


def _read_prompts(network: Network, prompts: Sequence[Sequence[int]], *, pad: int, capacity: int) -> _Read:
    weight = network.lm_head.weight
    lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=weight.device)
    longest = int(lengths_B.max())
    padded_BT = torch.tensor([[*prompt, *[pad] * (longest - len(prompt))] for prompt in prompts], device=weight.device)
    cache = NetworkCache(
        network.config, batch=len(prompts), capacity=capacity, device=weight.device, dtype=weight.dtype
    )
    hidden_BTD = network.hidden(padded_BT, cache)
    cache.set_lengths(lengths_B)
    return _Read(cache, hidden_BTD[torch.arange(len(prompts), device=weight.device), lengths_B - 1])
