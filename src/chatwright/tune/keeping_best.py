"""Which model on a fine-tune's way is kept: the best by a score with two sides, the mean of the last, a point between.

The training loop knows nothing of it. It is asked at each measurement, keeps what it needs on disk beside the
checkpoints, and gives the same answer after a resume: what it decides depends on the step and the weights alone.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from chatwright.foundation import storage
from chatwright.train.metrics import METRICS
from chatwright.train.ranks import Ranks
from chatwright.tune.finetune_settings import KeepingConfig
from chatwright.tune.learned import Learned
from chatwright.tune.measuring import Task, forgotten, two_sided

_BEST = "best"
_MEAN = "mean"
_WEIGHTS = "weights.safetensors"
_STATE = "state.json"


class Watch:
    """Measures during training, and keeps the best weights or the mean of the last.

    Args:
        learned: what is trained, attached.
        network: what computes.
        task: what is measured.
        before: the base's figures.
        config: what decides.
        directory: the stage's.
        first_averaged: the step from which weights are averaged.
    """

    def __init__(
        self,
        *,
        learned: Learned,
        network: Any,
        task: Task,
        before: dict[str, Any],
        config: KeepingConfig,
        directory: Path,
        first_averaged: int,
    ):
        self._module, self._network, self._task, self._before = learned.module, network, task, before
        self._config, self._directory, self._first_averaged = config, directory, first_averaged

    def __call__(self, step: int) -> dict[str, Any]:
        """The figures of a measurement, and whether enough was learned."""
        # Without a choice to make, what was forgotten is measured at the end only: it costs as much as the answers.
        task = self._task if self._config.chooses else self._task._replace(heldout=[])
        now = task.figures(self._network)
        values = {name: value for name, value in now.items() if name != "heldout"}
        lost = forgotten(self._before, now) if "heldout" in now else {}
        if lost:
            values["forgetting"] = lost["all"]
        if self._config.average_share and step >= self._first_averaged:
            self._average(step)
        if self._config.patience:
            values["score"] = two_sided(self._before, now, forgetting_weight=self._config.forgetting_weight)
            values["finished"] = self._is_enough(step, values["score"])
        return values | {"summary": _summary(values)}

    def _is_enough(self, step: int, score: float) -> bool:
        """Keep these weights if no earlier ones were better; whether none has been for as long as is waited."""
        scores = [
            line["score"]
            for line in storage.read_lines(self._directory / METRICS)
            if line.get("event") == "evaluation" and line["step"] < step and "score" in line
        ]
        if score < min(scores, default=float("inf")):
            self._write(_BEST, _numbers(self._module), {"step": step, "score": score})
        since = len(scores) - scores.index(min(scores)) if scores and score >= min(scores) else 0
        return Ranks().any(since >= self._config.patience, next(self._module.parameters()).device)

    def _average(self, step: int) -> None:
        """Add these weights to the mean, once: a resume meets some steps again.

        The first rank does it alone: the others would read a directory while it is being replaced.
        """
        if not Ranks().is_first:
            return
        place = self._directory / _MEAN
        now = _numbers(self._module)
        if not (place / storage.MANIFEST).is_file():
            self._write(_MEAN, now, {"steps": [step]})
            return
        storage.verify(place)
        steps: list[int] = storage.read_json(place / _STATE)["steps"]
        if step in steps:
            return
        mean = load_file(place / _WEIGHTS)
        mixed = {name: mean[name].lerp(part, 1 / (len(steps) + 1)) for name, part in now.items()}
        self._write(_MEAN, mixed, {"steps": [*steps, step]})

    def _write(self, name: str, weights: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        if not Ranks().is_first:
            return
        with storage.publish(self._directory / name) as scratch:
            save_file(weights, scratch / _WEIGHTS)
            storage.write_json(scratch / _STATE, state)

    def settle(self) -> dict[str, Any]:
        """Give the trained module the weights that are kept; returns where they come from."""
        name = _BEST if self._config.patience else _MEAN if self._config.average_share else None
        place = None if name is None else self._directory / name
        if place is None or not place.is_dir():
            return {}
        storage.verify(place)
        kept = load_file(place / _WEIGHTS)
        with torch.no_grad():
            for part, parameter in self._module.named_parameters():
                parameter.copy_(kept[part])
        return {"kept": {"which": name, **storage.read_json(place / _STATE)}}


def _numbers(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: part.detach().cpu().contiguous().clone() for name, part in module.named_parameters()}


def _summary(values: dict[str, Any]) -> str:
    named = (("test", "test answers"), ("validation", "held-back answers"))
    told = [
        f"{said} {values[f'{name}_bits_per_byte']:.3f}" for name, said in named if f"{name}_bits_per_byte" in values
    ]
    text = f"{', '.join(told)} bits per byte"
    return text + (f", forgot {values['forgetting']:+.3f}" if "forgetting" in values else "")


class Point(NamedTuple):
    """A model on the straight way from the base to the result."""

    share: float
    figures: dict[str, Any]
    score: float


def curve(learned: Learned, task: Task, before: dict[str, Any], config: KeepingConfig) -> list[Point]:
    """The models at the wanted shares of the way, measured; the result itself is always one of them."""
    points = []
    for share in sorted({*config.interpolate, 1.0}):
        figures = task.figures(learned.merged_copy(share))
        points.append(Point(share, figures, two_sided(before, figures, forgetting_weight=config.forgetting_weight)))
    return points
