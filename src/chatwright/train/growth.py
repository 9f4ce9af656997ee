"""What grows over a run: the length of windows and the rows of a batch, both pure functions of the step.

Not for which windows come when (curriculum.py, tokens/order.py): they are read from any order, row after row.
"""

import math
import sys
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import torch
from pydantic import Field

from chatwright.foundation.config import Config
from chatwright.train.batches import MicroBatch, RowOrder
from chatwright.train.schedule import ScheduleConfig


class LengthConfig(Config):
    """Sequences that grow: short windows first (Li et al. 2021, "The stability-efficiency dilemma").

    Unlike the paper, lengths double instead of growing by eight tokens: a whole window is then cut without a rest, so
    that every step has the same tokens, and few shapes are met.
    """

    start: int = Field(ge=8)  # tokens
    warmup_share: float = Field(default=0.3, gt=0, le=1)  # of all steps, at whose end windows are whole

    def length(self, step: int, *, steps: int, full: int) -> int:
        """Tokens of a window at a step: the largest half, quarter, ... of `full` under a line from `start` to it."""
        return _doubled(self.start, step / max(1.0, self.warmup_share * steps), full=full)


class BatchConfig(Config):
    """Batches that grow: few rows first (Smith et al. 2018, "Don't decay the learning rate, increase the batch size").

    The batch that is worth its tokens grows as the loss falls (McCandlish et al. 2018, "An empirical model of
    large-batch training"): early steps of few rows learn nearly as much each, from fewer tokens. Unlike the first
    paper, the learning rate's own schedule stays, and a smaller batch has a lower rate: by `rate_power` of its share
    of the whole one (one half: Malladi et al. 2022, "On the SDEs and scaling rules for adaptive gradient algorithms").
    """

    start: int = Field(ge=1)  # rows, all ranks together
    warmup_share: float = Field(default=0.3, gt=0, le=1)  # of all steps, at whose end the batch is whole
    rate_power: float = Field(default=0.5, ge=0, le=1)  # 0: the learning rate does not follow the batch

    def rows(self, step: int, *, steps: int, full: int) -> int:
        """Rows of a step: the largest half, quarter, ... of `full` under a line from `start` to it."""
        return _doubled(self.start, step / max(1.0, self.warmup_share * steps), full=full)


def _doubled(start: int, share: float, *, full: int) -> int:
    """The largest of `full`, its half, its quarter, ... under a line from `start` to `full`, and not below `start`."""
    grown = max(start, math.floor(start + min(1.0, share) * (full - start)))
    halvings = 0
    while full >> halvings > grown and full >> (halvings + 1) >= start:
        halvings += 1
    return full >> halvings


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Which rows of an order each step reads: as many as its batch has, where the step before has ended.

    A step's first row is a sum over the steps before it, taken over the few stretches of equal batches.
    """

    full: int  # rows of a whole batch
    steps: int  # of the run
    growth: BatchConfig | None = None  # None: whole ones from the beginning

    def rows(self, step: int) -> int:
        """Rows of a step."""
        return self.full if self.growth is None else self.growth.rows(step, steps=self.steps, full=self.full)

    def first_row(self, step: int) -> int:
        """Rows of all steps before this one."""
        return sum(rows * (min(step, end) - begin) for begin, end, rows in self._stretches if begin < step)

    @property
    def whole_steps(self) -> int:
        """Steps of whole batches that see as many rows as the run, rounded up."""
        return -(-self.first_row(self.steps) // self.full)

    @cached_property
    def _stretches(self) -> list[tuple[int, int, int]]:
        """First step, step after the last, and rows of the steps between."""
        found, begin = [], 0
        while (rows := self.rows(begin)) < self.full:
            end = bisect_left(range(self.steps + 1), rows + 1, lo=begin, key=self.rows)
            found.append((begin, end, rows))
            begin = end
        return [*found, (begin, sys.maxsize, self.full)]


@dataclass(frozen=True, kw_only=True)
class GrowingSource:
    """Next-token batches whose windows and rows may grow; what is cut off a window is a row of its own in its step."""

    order: RowOrder
    batches: BatchPlan
    micro_rows: int  # whole windows at once
    full: int  # tokens of a whole window
    fingerprint: str
    growth: LengthConfig | None = None  # None: whole windows from the beginning

    def step(self, number: int) -> list[MicroBatch]:
        """The step's windows, cut to the length of the step."""
        length = self.full
        if self.growth is not None:
            length = self.growth.length(number, steps=self.batches.steps, full=self.full)
        whole_RT = torch.from_numpy(self.order.rows(self.batches.first_row(number), self.batches.rows(number)))
        pieces = self.full // length
        cut = [whole_RT[:, start : start + length + 1] for start in range(0, pieces * length, length)]
        ids_RT = torch.stack(cut, dim=1).flatten(0, 1)  # pieces of a window stay beside each other
        at_once = self.micro_rows * pieces
        return [_batch(ids_RT[start : start + at_once]) for start in range(0, len(ids_RT), at_once)]

    def longest(self) -> MicroBatch:
        """A step of all whole windows, in one."""
        return _batch(torch.from_numpy(self.order.rows(0, self.batches.full)))


def _batch(ids_RT: torch.Tensor) -> MicroBatch:
    return MicroBatch(ids_RT[:, :-1], ids_RT[:, 1:], ids_RT[:, 1:].numel())


@dataclass(frozen=True, kw_only=True)
class GrowingSchedule:
    """A schedule whose learning rates follow the batch."""

    base: ScheduleConfig
    batches: BatchPlan

    def factor(self, step: int, total: int, *, number: int | None = None) -> float:
        """Share of the peak learning rate for step 0 .. total - 1.

        `number` is that of the step's data, which decides how many rows it has: after going back it is ahead.
        """
        factor, growth = self.base.factor(step, total), self.batches.growth
        if growth is None:
            return factor
        rows = self.batches.rows(step if number is None else number)
        return factor * math.pow(rows / self.batches.full, growth.rate_power)
