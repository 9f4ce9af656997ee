"""What an answer is worth, between 0 and 1: rules that can be checked without a person, and a learned reward.

Not for learning one (reward_model.py). No patterns: what a recipe may ask of a form is a beginning, an end, a text.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field

from chatwright.foundation.config import Config
from chatwright.foundation.errors import RefusedError
from chatwright.tokens.tokenizer import Tokenizer
from chatwright.tune.preferences.harvest import normalised
from chatwright.tune.preferences.reward_model import load_reward_model, tokenizer_of
from chatwright.tune.rollouts import Answered

RewardKind = Literal["exact", "contains", "length", "format", "model"]


class RewardConfig(Config):
    """One rule and how much it counts."""

    kind: RewardKind
    weight: float = Field(default=1.0, gt=0)
    words: int | None = Field(default=None, ge=1)  # `length`: so many words are best
    begins: str | None = None  # `format`
    ends: str | None = None  # `format`
    model: str | None = None  # `model`: the directory of a reward model; its reward r counts as sigmoid(r)

    def problems(self) -> Iterator[str]:
        """Each kind has its own keys."""
        if (self.kind == "model") != (self.model is not None):
            yield f'`model` belongs to `kind = "model"`, and it needs it; met with `{self.kind}`'
        if (self.kind == "length") != (self.words is not None):
            yield f'`words` belongs to `kind = "length"`, and it needs it; met with `{self.kind}`'
        if (self.kind == "format") != (self.begins is not None or self.ends is not None):
            yield f'`begins` and `ends` belong to `kind = "format"`, and it needs one of them; met with `{self.kind}`'


class Attempt(NamedTuple):
    """An answer beside the one that was expected."""

    answer: str
    expected: str


def _exact(attempt: Attempt, config: RewardConfig) -> float:  # noqa: ARG001 - one signature for all
    return float(normalised(attempt.answer) == normalised(attempt.expected))


def _contains(attempt: Attempt, config: RewardConfig) -> float:  # noqa: ARG001
    return float(normalised(attempt.expected) in normalised(attempt.answer))


def _length(attempt: Attempt, config: RewardConfig) -> float:
    """One at the wanted number of words, falling in a line to nothing at none and at twice as many."""
    assert config.words is not None, "checked by the configuration"  # noqa: S101
    return max(0.0, 1 - abs(len(attempt.answer.split()) - config.words) / config.words)


def _format(attempt: Attempt, config: RewardConfig) -> float:
    text = attempt.answer.strip()
    wanted = ((config.begins, text.startswith), (config.ends, text.endswith))
    checks = [check(part) for part, check in wanted if part is not None]
    return sum(checks) / len(checks)


_ROWS = 64  # answers that a reward model reads at once
_RULES: dict[RewardKind, Callable[[Attempt, RewardConfig], float]] = {
    "exact": _exact,
    "contains": _contains,
    "length": _length,
    "format": _format,
}


class Scorer:
    """The weighted mean of some rewards.

    Args:
        rewards: the rules.
        tokenizer: that the answers are written in.
        device: for reward models.

    Raises:
        RefusedError: a reward model reads other tokens.
    """

    def __init__(self, rewards: Sequence[RewardConfig], tokenizer: Tokenizer, *, device: torch.device):
        self._rewards = rewards
        self._tokenizer = tokenizer
        self._models = {}
        for path in (reward.model for reward in rewards if reward.model is not None):
            if tokenizer_of(Path(path)).digest != tokenizer.digest:
                raise RefusedError(
                    f"reward model `{path}` reads other tokens than the model writes",
                    hint="train the reward model on the same base",
                )
            self._models[path] = load_reward_model(Path(path)).requires_grad_(False).to(device)

    def __call__(self, answers: Sequence[Answered], expected: Sequence[str]) -> list[float]:
        """One reward for each answer."""
        totals = [0.0] * len(answers)
        for reward in self._rewards:
            for index, value in enumerate(self._values(reward, answers, expected)):
                totals[index] += value * reward.weight
        return [total / sum(reward.weight for reward in self._rewards) for total in totals]

    def _values(self, reward: RewardConfig, answers: Sequence[Answered], expected: Sequence[str]) -> list[float]:
        if reward.model is not None:
            found = self._models[reward.model].judge(answers, rows=_ROWS)
            return [float(value) for value in torch.sigmoid(torch.tensor(found))]
        texts = [self._tokenizer.decode(answered.answer).strip() for answered in answers]
        rule = _RULES[reward.kind]
        return [rule(Attempt(text, wanted), reward) for text, wanted in zip(texts, expected, strict=True)]
