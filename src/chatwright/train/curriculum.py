"""Curricula: which windows a step sees, as a pure function of the step, by a score of each document.

Easy first is a hypothesis, not a law: `reverse` and `random` stand beside it as controls, built the same way, so that
an effect can be told from that of seeing fewer documents early. Not for the scores (cleaning's stand in the token
shards, a model's are computed in document_scores.py), not for windows and batches that grow (growth.py), and not for
the order without a curriculum (tokens/order.py).

The scheme is that of Hacohen and Weinshall 2019 ("On the power of curriculum learning"): a pacing function says which
share of the sorted data is open at a step, and rows are drawn evenly from the open part. After the warm-up share of
the run all is open, and each pass visits every window once.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chatwright.foundation.config import Config
from chatwright.foundation.errors import DataError
from chatwright.foundation.streams import Permutation, seed_for
from chatwright.tokens.shards import TokenSplit

# Of the windows whose scores are spread over their tokens at once: all together take eight bytes for each token.
_BLOCK_TOKENS = 1 << 20

ScoreName = Literal["compression", "flesch", "mtld", "length", "loss"]
Direction = Literal["forward", "reverse", "random"]
Pacing = Literal["linear", "root", "steps"]


class CurriculumConfig(Config):
    """What is easy, and how soon the rest is opened."""

    # Easy is: text that compresses well, that reads easily (Flesch), that repeats its words (MTLD), that is short, or
    # that costs `scorer` few bits a byte.
    score: ScoreName
    direction: Direction = "forward"  # easy first; the controls are hard first, and any first
    pacing: Pacing = "linear"
    warmup_share: float = Field(default=0.3, gt=0, le=1)  # of all steps, at whose end everything is open
    open_at_start: float = Field(default=0.1, gt=0, le=1)  # share of the windows
    scorer: str | None = None  # `loss`: a model directory, smaller than the one that learns, with its tokenizer
    scorer_tokens: int = Field(default=512, ge=1)  # `loss`: of each document, from its beginning

    def problems(self) -> Iterator[str]:
        """No setting without effect."""
        if (self.score == "loss") != (self.scorer is not None):
            yield '`score = "loss"` needs `scorer`, a model directory, and no other score reads one'
        if self.score != "loss" and self.scorer_tokens != 512:
            yield f'`scorer_tokens` has no effect with `score = "{self.score}"`'

    def described(self) -> str:
        """One line for the person, which says what an effect must be held against."""
        if self.direction == "random":
            return f"curriculum: documents in any order, the control of one by {self.score}"
        order = "easy first" if self.direction == "forward" else "hard first, a control"
        return (
            f"curriculum: by {self.score}, {order}; what it did shows only beside the same run with "
            '`curriculum.direction = "random"`'
        )


def open_share(config: CurriculumConfig, step: int, *, steps: int) -> float:
    """The share of windows that is open at a step: from `open_at_start` to all, never falling."""
    progress = min(1.0, step / max(1.0, config.warmup_share * steps))
    start = config.open_at_start
    if config.pacing == "linear":
        return start + (1 - start) * progress
    if config.pacing == "root":  # Platanios et al. 2019, equation 7
        return math.sqrt(start**2 + (1 - start**2) * progress)
    return min(1.0, start * 2 ** math.floor(progress * math.ceil(math.log2(1 / start)))) if progress < 1 else 1.0


def window_scores(
    split: TokenSplit, scores: Sequence[float] | NDArray[np.float64], *, length: int
) -> NDArray[np.float64]:
    """The score of each window of a split: the mean of its documents' scores, weighted by their tokens in it.

    Args:
        split: the documents, in stored order.
        scores: one for each of them.
        length: tokens of a window.

    Raises:
        ValueError: not one score for each document.
    """
    starts, lengths = split.all_spans()  # each with the token that ends the document
    if len(lengths) != len(scores):
        raise ValueError(f"expected {len(lengths)} scores, one for each document, met {len(scores)}")
    values, stops = np.asarray(scores, dtype=np.float64), starts + lengths
    by_window = np.empty(max(0, (int(lengths.sum()) - 1) // length))
    block = max(1, _BLOCK_TOKENS // length)
    for first in range(0, len(by_window), block):
        means = by_window[first : first + block]
        begin, end = first * length, (first + len(means)) * length
        within = slice(np.searchsorted(stops, begin, side="right"), np.searchsorted(starts, end, side="left"))
        inside = np.minimum(stops[within], end) - np.maximum(starts[within], begin)
        means[:] = np.repeat(values[within], inside).reshape(-1, length).mean(axis=1)
    return by_window


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """The order of windows, easy to hard or as the control says."""

    config: CurriculumConfig
    scores: NDArray[np.float64]  # one for each window
    steps: int
    rows: int  # a step
    seed: int

    def ranking(self) -> NDArray[np.int64]:
        """Windows in the order in which they open."""
        if self.config.direction == "random":
            shuffle = Permutation(len(self.scores), seed_for(self.seed, "control"))
            return np.array([shuffle[place] for place in range(len(self.scores))], dtype=np.int64)
        ranked = np.argsort(self.scores, kind="stable")
        return ranked if self.config.direction == "forward" else ranked[::-1].copy()

    def windows(self, step: int, ranking: NDArray[np.int64]) -> list[int]:
        """The windows of a step: drawn from the open part while not all is open, in whole passes afterwards."""
        warmup = math.ceil(self.config.warmup_share * self.steps)
        if step >= warmup:
            first = (step - warmup) * self.rows
            places = (divmod(row, len(ranking)) for row in range(first, first + self.rows))
            return [Permutation(len(ranking), seed_for(self.seed, "pass", epoch))[place] for epoch, place in places]
        opened = max(1, round(open_share(self.config, step, steps=self.steps) * len(ranking)))
        draws = (seed_for(self.seed, "open", step, row) for row in range(self.rows))
        return [int(ranking[draw % opened]) for draw in draws]


class CurriculumOrder:
    """The rows of training by a curriculum, as windows of a split (a `RowOrder`).

    Args:
        split: the token stream.
        length: tokens of a window.
        scores: of each document, higher is harder.
        config: what comes when.
        steps: of the run.
        rows: of a step.
        seed: of the order.

    Raises:
        DataError: the split has no whole window.
    """

    def __init__(
        self,
        split: TokenSplit,
        *,
        length: int,
        scores: Sequence[float] | NDArray[np.float64],
        config: CurriculumConfig,
        steps: int,
        rows: int,
        seed: int,
    ):
        self._split, self._length, self._rows = split, length, rows
        by_window = window_scores(split, scores, length=length)
        if not len(by_window):
            raise DataError(
                f"the corpus has {len(split)} training tokens, one window of context needs {length + 1}",
                hint="add documents, or lower `model.context_length`",
            )
        self._curriculum = Curriculum(config=config, scores=by_window, steps=steps, rows=rows, seed=seed)
        self._ranking = self._curriculum.ranking()

    def rows(self, first: int, count: int) -> NDArray[np.int64]:
        """`count` windows from row `first`, (count, length + 1)."""
        steps = range(first // self._rows, (first + count - 1) // self._rows + 1)
        windows = [window for step in steps for window in self._curriculum.windows(step, self._ranking)]
        begin = first - steps.start * self._rows
        places = [window * self._length for window in windows[begin : begin + count]]
        return np.stack([self._split.slice(place, self._length + 1) for place in places])

    def early(self, steps: int) -> set[int]:
        """The windows of the first steps, for whoever reports on them."""
        return {window for step in range(steps) for window in self._curriculum.windows(step, self._ranking)}
