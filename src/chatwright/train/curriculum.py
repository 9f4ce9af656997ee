"""Curricula: which windows a step sees, as a pure function of the step, by a score of each document.

Easy first is a hypothesis, not a law: `reverse` and `random` stand beside it as controls, built the same way, so that
an effect can be told from that of seeing fewer documents early. Not for computing scores by a model (whoever has one
passes them in), and not for the order without a curriculum (tokens/order.py).

The scheme is that of Hacohen and Weinshall 2019 ("On the power of curriculum learning"): a pacing function says which
share of the sorted data is open at a step, and rows are drawn evenly from the open part. After the warm-up share of
the run all is open, and each pass visits every window once.
"""

import math
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from chatwright.foundation import storage
from chatwright.foundation.config import Config
from chatwright.foundation.streams import Permutation, seed_for
from chatwright.tokens.shards import TokenSplit
from chatwright.train.batches import MicroBatch

ScoreName = Literal["compression", "flesch", "length"]
Direction = Literal["forward", "reverse", "random"]
Pacing = Literal["linear", "root", "steps"]
_SENTENCE = re.compile(r"[.!?]+(?:\s|$)")
_WORD = re.compile(r"[^\W\d_]+")
_VOWELS = re.compile(r"[aeiouyäöüáéíóúàèìòùâêîôû]+", re.IGNORECASE)


class CurriculumConfig(Config):
    """What is easy, and how soon the rest is opened."""

    score: ScoreName
    direction: Direction = "forward"  # easy first; the controls are hard first, and any first
    pacing: Pacing = "linear"
    warmup_share: float = Field(default=0.3, gt=0, le=1)  # of all steps, at whose end everything is open
    open_at_start: float = Field(default=0.1, gt=0, le=1)  # share of the windows


class LengthConfig(Config):
    """Sequences that grow: short windows first (Li et al. 2021, "The stability-efficiency dilemma")."""

    start: int = Field(ge=8)  # tokens
    warmup_share: float = Field(default=0.3, gt=0, le=1)  # of all steps, at whose end windows are whole
    multiple: int = Field(default=8, ge=1)  # lengths are multiples of it, so that few shapes are met

    def length(self, step: int, *, steps: int, full: int) -> int:
        """Tokens of a window at a step: a line from `start` to `full`."""
        share = min(1.0, step / max(1.0, self.warmup_share * steps))
        grown = self.start + share * (full - self.start)
        return full if share >= 1 else max(1, min(full, int(grown) // self.multiple * self.multiple or full))


def compression_score(text: str) -> float:
    """Compressed bytes for a byte of text (DEFLATE): repetitive text is easy. Higher is harder."""
    raw = text.encode()
    return len(zlib.compress(raw, 6)) / max(1, len(raw))


def flesch_score(text: str) -> float:
    """Reading ease turned around, so that higher is harder: `1.015 words/sentences + 84.6 syllables/words - 206.835`.

    Flesch 1948, with syllables counted as groups of vowels, which is near enough to sort by.
    """
    words = _WORD.findall(text)
    sentences = max(1, len(_SENTENCE.findall(text)))
    syllables = sum(max(1, len(_VOWELS.findall(word))) for word in words)
    return 1.015 * len(words) / sentences + 84.6 * syllables / max(1, len(words)) - 206.835


def length_score(text: str) -> float:
    """Characters. Higher is harder."""
    return float(len(text))


SCORES: dict[ScoreName, Callable[[str], float]] = {
    "compression": compression_score,
    "flesch": flesch_score,
    "length": length_score,
}


def open_share(config: CurriculumConfig, step: int, *, steps: int) -> float:
    """The share of windows that is open at a step: from `open_at_start` to all, never falling."""
    progress = min(1.0, step / max(1.0, config.warmup_share * steps))
    start = config.open_at_start
    if config.pacing == "linear":
        return start + (1 - start) * progress
    if config.pacing == "root":  # Platanios et al. 2019, equation 7
        return math.sqrt(start**2 + (1 - start**2) * progress)
    return min(1.0, start * 2 ** math.floor(progress * math.ceil(math.log2(1 / start)))) if progress < 1 else 1.0


def window_scores(split: TokenSplit, scores: Sequence[float], *, length: int) -> NDArray[np.float64]:
    """The score of each window of a split: the mean of its documents' scores, weighted by their tokens in it.

    Args:
        split: the documents, in stored order.
        scores: one for each of them.
        length: tokens of a window.

    Raises:
        ValueError: not one score for each document.
    """
    lengths = [len(document.ids) for document in split.documents()]
    if len(lengths) != len(scores):
        raise ValueError(f"expected {len(lengths)} scores, one for each document, met {len(scores)}")
    gap = (len(split) - sum(lengths)) // max(1, len(lengths))  # the token that ends each document
    by_token = np.repeat(np.asarray(scores, dtype=np.float64), [size + gap for size in lengths])
    windows = (len(by_token) - 1) // length
    return np.asarray(by_token[: windows * length].reshape(windows, length).mean(axis=1))


class Visit(NamedTuple):
    """One row of a step."""

    window: int
    length: int


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


class CurriculumSource:
    """Next-token batches by a curriculum of documents, of lengths, or both.

    Its fingerprint covers scores, order and lengths: a run whose past would have been another one is not gone on with.

    Args:
        split: the token stream.
        full: tokens of a whole window.
        steps: of the run.
        rows: whole windows a step; shorter ones are so many more that a step has the same tokens.
        micro_rows: whole windows at once.
        seed: of the order.
        curriculum: by document, or None for the plain shuffle.
        growth: of lengths, or None.
        scores: of each document, for `curriculum`.
    """

    def __init__(
        self,
        split: TokenSplit,
        *,
        full: int,
        steps: int,
        rows: int,
        micro_rows: int,
        seed: int,
        curriculum: CurriculumConfig | None = None,
        growth: LengthConfig | None = None,
        scores: Sequence[float] = (),
    ):
        self._split, self._full, self._steps = split, full, steps
        self._rows, self._micro_rows, self._seed, self._growth = rows, micro_rows, seed, growth
        self._num_windows = (len(split) - 1) // full
        self._curriculum: Curriculum | None = None
        if curriculum is not None:
            by_window = window_scores(split, scores, length=full)[: self._num_windows]
            self._curriculum = Curriculum(config=curriculum, scores=by_window, steps=steps, rows=rows, seed=seed)
            self._ranking = self._curriculum.ranking()
        facts = [part and part.model_dump(mode="json") for part in (curriculum, growth)]
        scored = [] if self._curriculum is None else self._curriculum.scores.tolist()
        self.fingerprint = storage.digest_json([split.digest, full, steps, rows, seed, facts, scored])

    def step(self, number: int) -> list[MicroBatch]:
        """The step's windows, cut to the length of the step; what is cut off is taken as rows of its own."""
        length = self._full if self._growth is None else self._growth.length(number, steps=self._steps, full=self._full)
        pieces = [piece for window in self._windows(number) for piece in self._pieces(window, length)]
        at_once = max(1, self._micro_rows * self._full // length)
        return [self._batch(pieces[start : start + at_once]) for start in range(0, len(pieces), at_once)]

    def longest(self) -> MicroBatch:
        """The last step's rows in one: windows are whole by then."""
        windows = self._windows(self._steps - 1)
        return self._batch([piece for window in windows for piece in self._pieces(window, self._full)])

    def _windows(self, number: int) -> list[int]:
        if self._curriculum is not None:
            return self._curriculum.windows(number, self._ranking)
        places = (divmod(row, self._num_windows) for row in range(number * self._rows, (number + 1) * self._rows))
        return [Permutation(self._num_windows, seed_for(self._seed, "pass", epoch))[place] for epoch, place in places]

    def _pieces(self, window: int, length: int) -> Iterator[NDArray[np.int64]]:
        """A window in pieces of the step's length; a rest that is shorter is left for another pass."""
        begin = window * self._full
        for start in range(0, self._full - length + 1, length):
            yield self._split.slice(begin + start, length + 1)

    def _batch(self, pieces: Sequence[NDArray[np.int64]]) -> MicroBatch:
        ids_BT = torch.from_numpy(np.stack(pieces))
        return MicroBatch(ids_BT[:, :-1], ids_BT[:, 1:], ids_BT[:, 1:].numel())
