"""The learning rate over a run: warm up, stay, cool down to zero."""

from collections.abc import Iterator
from typing import Protocol

from pydantic import Field

from chatwright.foundation.config import Config


class Schedule(Protocol):
    """Learning rates over a run, as shares of their peaks."""

    def factor(self, step: int, total: int, *, number: int | None = None) -> float:
        """For step 0 .. total - 1; `number` is that of its data, where it is another."""
        ...


class ScheduleConfig(Config):
    """Warmup-stable-decay (Hu et al. 2024, MiniCPM), with the long linear cooldown of modded-nanogpt."""

    warmup_share: float = Field(default=0.02, ge=0, lt=1)  # of all steps, linear from zero
    cooldown_share: float = Field(default=0.6, ge=0, le=1)  # of all steps, linear to `final_share`
    final_share: float = Field(default=0.0, ge=0, le=1)  # of the peak, reached one step after the last

    def problems(self) -> Iterator[str]:
        """Warm-up and cooldown must not overlap."""
        if self.warmup_share + self.cooldown_share > 1:
            yield (
                "`warmup_share` and `cooldown_share` together must not exceed 1: "
                f"{self.warmup_share} + {self.cooldown_share}"
            )

    def factor(self, step: int, total: int, *, number: int | None = None) -> float:  # noqa: ARG002 - no data matters
        """Share of the peak learning rate for step 0 .. total - 1."""
        warmup = round(self.warmup_share * total)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        cooldown = round(self.cooldown_share * total)
        remaining = total - step
        if remaining > cooldown:
            return 1.0
        return self.final_share + (1 - self.final_share) * remaining / (cooldown + 1)
