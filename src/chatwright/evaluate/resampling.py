"""How sure a figure is: 95 % intervals of ratios, means and shares over documents or questions.

Not for comparing two models, whose pairs are resampled together; those tests stand beside what they compare.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chatwright.evaluate.agreement import Z95

RESAMPLES = 1_000
_AT_ONCE = 1 << 22  # chosen items held at once, so that memory does not grow with their number


class Interval(NamedTuple):
    """A range that a resampled figure fell into in 95 of 100 draws."""

    low: float
    high: float

    def rounded(self, digits: int) -> list[float]:
        """As it stands in JSON."""
        return [round(self.low, digits), round(self.high, digits)]


def resampled_sums(columns: NDArray[np.float64], *, seed: int, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Sums over items drawn with replacement, as many as there are: a row a draw (Efron and Tibshirani 1993).

    Args:
        columns: a row an item, a column a figure that adds up.
        seed: equal seeds draw equal items, whatever the columns.
        resamples: draws.

    Returns:
        `resamples` rows with the columns' sums.
    """
    number = len(columns)
    generator = np.random.Generator(np.random.PCG64(seed))
    together = max(1, _AT_ONCE // max(1, number))
    sums = []
    for start in range(0, resamples, together):
        draws = min(together, resamples - start)
        chosen = generator.integers(0, number, (draws, number)) + number * np.arange(draws)[:, None]
        times = np.bincount(chosen.ravel(), minlength=draws * number).reshape(draws, number)
        sums.append(times.astype(np.float64) @ columns)
    return np.concatenate(sums)


def percentiles(drawn: NDArray[np.float64]) -> Interval:
    """The middle 95 of 100 resampled figures (Efron and Tibshirani 1993, chapter 13)."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(low), float(high))


def least_p_value(number: int) -> float:
    """The least two-sided p that a paired comparison on `number` items can have: one of the signs' 2^n and its mirror.

    A bootstrap of few items draws the same ones again and promises more (compare Fisher's test by sign flips).
    """
    return min(1.0, 2.0 ** (1 - number))


def share_interval(hits: int, number: int) -> Interval:
    """Of a share of `number` items, at least one, by Wilson's score (1927): it holds near 0 and 1 and of few items."""
    share, square = hits / number, Z95**2 / number
    middle = share + square / 2
    half = Z95 * math.sqrt(share * (1 - share) / number + square / (4 * number))
    low, high = ((middle + side * half) / (1 + square) for side in (-1, 1))
    # At the ends the formula gives 0 and 1 but for rounding.
    return Interval(0.0 if hits == 0 else low, 1.0 if hits == number else high)
