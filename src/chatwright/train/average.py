"""The average of the weights over a run's last steps: smoother than any one of them, and saved like any others.

Steps bounce the weights about a valley whose floor is near their mean (Izmailov et al. 2018, "Averaging weights leads
to wider optima"; over the tail of a language model's run: Kaddour 2022, LAWA; Hägele et al. 2024, section 4, where it
nearly replaces a cooldown). To a schedule that cools down to zero it adds little: the two are alternatives more than
partners. Every accepted step of the tail counts, unlike LAWA, which averages a few checkpoints.

Decides nothing about the run: the loop asks when it measures, saves and ends.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from chatwright.foundation.config import Config
from chatwright.foundation.errors import UsageError
from chatwright.foundation.memory import bytes_of
from chatwright.train.sharding import joined_like, local, part_like

_DECAY = 0.99


class AverageConfig(Config):
    """Which steps are averaged, and whether the run leaves their average."""

    share: float = Field(default=0.2, gt=0, le=1)  # of all steps, the last ones
    kind: Literal["mean", "ema"] = "mean"  # all alike, or the later the more ("ema", which begins as a mean)
    decay: float = Field(default=_DECAY, gt=0, lt=1)  # "ema": what a step's weights keep at the next one
    use: Literal["better", "always"] = "better"  # "better": only where it has the lower held-out loss at the end

    def problems(self) -> Iterator[str]:
        """No setting without effect."""
        if self.kind == "mean" and self.decay != _DECAY:
            yield '`decay` has no effect with `kind = "mean"`'

    def begins_after(self, steps: int) -> int:
        """Steps of a run that are not averaged."""
        return steps - max(1, round(self.share * steps))


class TailAverage:
    """A running average in place, one copy of the weights more; with no settings it does nothing.

    Args:
        config: which steps count; None: no step does.
        named: the parameters, by name; shards are averaged where they lie.
        steps: of the run.
        is_measured: whether the run measures held-out loss.

    Raises:
        UsageError: the better one is wanted, and nothing is measured.
    """

    def __init__(
        self,
        config: AverageConfig | None,
        named: Sequence[tuple[str, nn.Parameter]],
        *,
        steps: int,
        is_measured: bool = True,
    ):
        if config is not None and config.use == "better" and not is_measured:
            raise UsageError(
                '`average.use = "better"` compares on held-out documents, and there are none',
                hint='set `average.use = "always"`, or hold documents back',
            )
        self._config = config
        self._named = named
        self._begins_after = steps if config is None else config.begins_after(steps)
        self._values: list[Tensor] = []
        self._num_steps = 0
        self.is_used = False  # decided once, at the end, on all ranks alike, and kept with the run

    @property
    def num_steps(self) -> int:
        """Steps whose weights are in it."""
        return self._num_steps

    @torch.no_grad()
    def see(self, step: int) -> None:
        """Count the weights after so many steps, if they belong to the tail."""
        if self._config is None or step <= self._begins_after:
            return
        weights = self._weights()
        self._values = self._values or [torch.zeros_like(weight) for weight in weights]
        self._num_steps += 1
        share = 1 / self._num_steps
        if self._config.kind == "ema":
            share = max(share, 1 - self._config.decay)
        torch._foreach_lerp_(self._values, weights, share)

    def is_wanted(self, average: float | None, last: float | None) -> bool:
        """Whether the run should leave the average, from both held-out losses; what was not measured is not better."""
        is_better = average is not None and last is not None and average < last
        return self._config is not None and (self._config.use == "always" or is_better)

    @torch.no_grad()
    def leave(self) -> None:
        """Where the run is to leave the average: give the parameters its values."""
        if self.is_used:
            torch._foreach_copy_(self._weights(), self._values)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """The parameters have the average's values within, and their own bits afterwards."""
        kept = [weight.clone() for weight in self._weights()]
        torch._foreach_copy_(self._weights(), self._values)
        try:
            yield
        finally:
            torch._foreach_copy_(self._weights(), kept)

    @property
    def full_bytes(self) -> int:
        """What it takes once the tail has begun."""
        if self._config is None:
            return 0
        return bytes_of(parameter for _, parameter in self._named)

    def tensors(self) -> dict[str, Tensor]:
        """By parameter's name, sharded as the parameter is; views; nothing before the tail begins."""
        pairs = zip(self._named, self._values, strict=False)
        return {name: joined_like(parameter, value) for (name, parameter), value in pairs}

    def state(self) -> dict[str, Any]:
        """What `load` takes beside the tensors; JSON."""
        return {"steps": self._num_steps, "is_used": self.is_used}

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from there; without tensors the tail has not begun."""
        self._num_steps, self.is_used = state.get("steps", 0), state.get("is_used", False)
        self._values = []
        if tensors:
            self._values = [
                local(part_like(p, tensors[name])).to(local(p).device, copy=True) for name, p in self._named
            ]

    def _weights(self) -> list[Tensor]:
        return [local(parameter.detach()) for _, parameter in self._named]
