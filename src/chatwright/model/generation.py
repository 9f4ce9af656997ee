"""What is asked of an engine and what it tells: settings, requests, pieces. Writing itself is `engine`'s."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from chatwright.foundation.errors import UsageError

Finish = Literal["stop", "length", "cancelled"]

_MAX_PENALTY = 2.0  # as in OpenAI's API


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
    text: str  # as it stands in the text, with its space; U+FFFD where its bytes are no whole character
    bytes: bytes  # of a vocabulary with tokens for bytes exactly; else the text's UTF-8; empty for special tokens
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
    unshown: int = 0  # ids at the prompt's beginning that are not echoed, such as one that begins every text

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


class EngineLoad(NamedTuple):
    """What an engine is doing and has done, for `/metrics`. Counters only grow while it lives."""

    running: int  # answers that are being read or written
    waiting: int  # answers asked for and not begun
    used_blocks: int  # of its memory for keys and values
    total_blocks: int
    prompt_tokens: int  # counter: tokens read
    shared_tokens: int  # counter: tokens of prompts found in memory, not read again
    completion_tokens: int  # counter: tokens written

    @classmethod
    def nothing(cls) -> "EngineLoad":
        """Of an engine that is not made yet."""
        return cls(0, 0, 0, 0, 0, 0, 0)
