"""How far raters agree, whom to ask again, and how many more ratings a difference needs. Numbers in, numbers out."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chatwright.foundation.errors import UsageError

Floats = NDArray[np.float64]
Z95 = 1.959963984540054  # standard deviations either way of an interval for 19 of 20


def krippendorff_alpha(ratings: NDArray[np.floating]) -> float | None:
    """Krippendorff's alpha for ordinal data (Krippendorff 2011, "Computing Krippendorff's alpha-reliability").

    Args:
        ratings: (raters, units), NaN where a rater did not judge.

    Returns:
        1 for perfect agreement, 0 for chance; None where no unit has two ratings or all ratings are the same.
    """
    table = np.asarray(ratings, dtype=np.float64)
    values = np.unique(table[~np.isnan(table)])
    counts = np.stack([(table == value).sum(axis=0) for value in values], axis=1).astype(np.float64)  # (units, values)
    counts = counts[counts.sum(axis=1) >= 2]
    if not len(counts) or len(values) < 2:
        return None
    per_unit = counts.sum(axis=1)
    coincidences = np.einsum("uc,uk->uck", counts, counts)
    places = np.arange(len(values))
    coincidences[:, places, places] -= counts
    observed = (coincidences / (per_unit - 1)[:, None, None]).sum(axis=0)
    totals = observed.sum(axis=1)
    cumulative = np.cumsum(totals)
    # Between ranks c < k: all values from c to k, the two ends by half.
    between = cumulative[None, :] - cumulative[:, None] + totals[:, None] - (totals[:, None] + totals[None, :]) / 2
    distance = np.triu(between, 1) ** 2
    distance = distance + distance.T
    expected = float((np.outer(totals, totals) * distance).sum()) / (totals.sum() - 1)
    return None if expected == 0 else float(1 - (observed * distance).sum() / expected)


def percent_agreement(ratings: NDArray[np.floating]) -> float | None:
    """Share of all pairs of ratings of the same unit that are equal."""
    table = np.asarray(ratings, dtype=np.float64)
    equal = pairs = 0.0
    for column in table.T:
        given = column[~np.isnan(column)]
        _, counts = np.unique(given, return_counts=True)
        equal += float((counts * (counts - 1)).sum())
        pairs += len(given) * (len(given) - 1)
    return equal / pairs if pairs else None


class Mean(NamedTuple):
    """A mean with its 95 % interval."""

    mean: float
    low: float | None  # None with fewer than two items
    high: float | None
    items: int
    ratings: int


def mean_over_items(values: Sequence[float], items: Sequence[str]) -> Mean:
    """Mean of the items' means, with a t interval over items: ratings of one item are not independent."""
    grouped: dict[str, list[float]] = {}
    for value, item in zip(values, items, strict=True):
        grouped.setdefault(item, []).append(value)
    if not grouped:
        raise UsageError("no ratings, no mean")
    means = np.array([np.mean(group) for group in grouped.values()])
    mean = float(means.mean())
    if len(means) < 2:
        return Mean(mean, None, None, len(means), len(values))
    half = t_quantile(0.975, len(means) - 1) * float(means.std(ddof=1)) / math.sqrt(len(means))
    return Mean(mean, mean - half, mean + half, len(means), len(values))


def t_quantile(share: float, freedom: int) -> float:
    """Quantile of Student's t: exact for 1 and 2 degrees, else by expansion (Abramowitz and Stegun 26.7.5)."""
    if freedom == 1:
        return math.tan(math.pi * (share - 0.5))
    if freedom == 2:
        return (2 * share - 1) / math.sqrt(2 * share * (1 - share))
    z, v = NormalDist().inv_cdf(share), freedom
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(z + sum(term / v**power for power, term in enumerate(terms, start=1)))


class Correlation(NamedTuple):
    """A rank correlation with its interval."""

    spearman: float
    low: float
    high: float
    items: int


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> Correlation | None:
    """Spearman's, ties at their mean rank, interval after Bonett and Wright (2000). None below five items."""
    if len(first) != len(second):
        raise UsageError(f"{len(first)} figures cannot be set beside {len(second)}")
    one, other = _ranks(np.asarray(first, dtype=np.float64)), _ranks(np.asarray(second, dtype=np.float64))
    if len(one) < 5 or one.std() == 0 or other.std() == 0:
        return None
    rho = float(np.corrcoef(one, other)[0, 1])
    bound = min(max(rho, -0.999999), 0.999999)
    half = Z95 * math.sqrt((1 + rho**2 / 2) / (len(one) - 3))
    return Correlation(rho, math.tanh(math.atanh(bound) - half), math.tanh(math.atanh(bound) + half), len(one))


def _ranks(values: Floats) -> Floats:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts).astype(np.float64)
    result: Floats = (ends - (counts - 1) / 2)[place.reshape(-1)]
    return result


def items_for_difference(deviation: float, difference: float, *, power: float = 0.8) -> int:
    """Items that two models must both answer for a difference of means to be found, two-sided at 5 %.

    Args:
        deviation: standard deviation of the items' differences.
        difference: of the means, to be found.
        power: how often it is then found.
    """
    if difference <= 0 or deviation < 0 or not 0 < power < 1:
        raise UsageError("a difference must be above zero, and a power between 0 and 1")
    reach = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(power)
    return max(2, math.ceil((reach * deviation / difference) ** 2))


def choices_for_win_rate(win_rate: float, *, power: float = 0.8) -> int:
    """Decisive choices between two models for a win rate to be told from one half, two-sided at 5 %."""
    if not 0.5 < win_rate < 1 or not 0 < power < 1:
        raise UsageError("a win rate must lie between one half and one, and a power between 0 and 1")
    normal = NormalDist()
    reach = normal.inv_cdf(0.975) * 0.5 + normal.inv_cdf(power) * math.sqrt(win_rate * (1 - win_rate))
    return math.ceil((reach / (win_rate - 0.5)) ** 2)
