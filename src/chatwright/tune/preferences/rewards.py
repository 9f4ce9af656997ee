"""Rewards that can be checked without a person: rules from an answer to a number between 0 and 1.

Not for a learned reward (reward_model.py). No patterns: what a recipe may ask of a form is a beginning, an end, a text.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from chatwright.foundation.config import Config
from chatwright.tune.preferences.harvest import normalised

RewardKind = Literal["exact", "contains", "length", "format"]


class RewardConfig(Config):
    """One rule and how much it counts."""

    kind: RewardKind
    weight: float = Field(default=1.0, gt=0)
    words: int | None = Field(default=None, ge=1)  # `length`: so many words are best
    begins: str | None = None  # `format`
    ends: str | None = None  # `format`

    def problems(self) -> Iterator[str]:
        """Each kind has its own keys."""
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


_RULES: dict[RewardKind, Callable[[Attempt, RewardConfig], float]] = {
    "exact": _exact,
    "contains": _contains,
    "length": _length,
    "format": _format,
}


def reward_of(attempt: Attempt, rewards: Sequence[RewardConfig]) -> float:
    """The weighted mean of the rules, between 0 and 1."""
    total = sum(reward.weight for reward in rewards)
    return sum(_RULES[reward.kind](attempt, reward) * reward.weight for reward in rewards) / total
