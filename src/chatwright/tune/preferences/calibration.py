"""Whether a reward model can be believed: accuracy, calibration error, and the temperature that mends it.

Not for training it (objectives.py).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

BINS = 10
_STEPS = 60


class Calibration(NamedTuple):
    """How good the predictions on held-out pairs are."""

    pairs: int
    accuracy: float  # share of pairs whose preferred answer got the higher reward; ties count half
    nats: float  # mean loss per pair; a coin has log 2
    error: float  # expected calibration error
    temperature: float  # margins divided by it are calibrated best
    error_after: float  # the error with that temperature


def calibrate(margins: Sequence[float]) -> Calibration:
    """Measure held-out margins (reward of the preferred answer minus that of the other).

    A margin m claims that its pair comes out as it did with probability `sigmoid(m)`.

    Args:
        margins: one for each pair.

    Raises:
        ValueError: no pair.
    """
    if not margins:
        raise ValueError("there is no held-out pair to calibrate on")
    right = sum((margin > 0) + 0.5 * (margin == 0) for margin in margins)
    temperature = _best_temperature(margins)
    return Calibration(
        len(margins),
        right / len(margins),
        _nats(margins, 1.0),
        calibration_error(margins),
        temperature,
        calibration_error([margin / temperature for margin in margins]),
    )


def calibration_error(margins: Sequence[float], *, bins: int = BINS) -> float:
    """Mean distance of claimed confidence and share that came out, over equal bins from 0.5 to 1 (Guo et al. 2017).

    Of a pair the claim is about whichever answer got the higher reward; it came out if that one was preferred.
    """
    sums = [[0.0, 0.0] for _ in range(bins)]
    for margin in margins:
        confidence = _sigmoid(abs(margin))
        place = min(bins - 1, int((confidence - 0.5) * 2 * bins))
        sums[place][0] += confidence
        sums[place][1] += (margin > 0) + 0.5 * (margin == 0)
    return sum(abs(claimed - came) for claimed, came in sums) / len(margins)


def _best_temperature(margins: Sequence[float]) -> float:
    """The temperature of least loss, by golden section over its logarithm between 1/32 and 32: the loss has one dip."""
    low, high, share = -math.log(32), math.log(32), (math.sqrt(5) - 1) / 2
    for _ in range(_STEPS):
        first, second = high - share * (high - low), low + share * (high - low)
        if _nats(margins, math.exp(first)) < _nats(margins, math.exp(second)):
            high = second
        else:
            low = first
    return math.exp((low + high) / 2)


def _nats(margins: Sequence[float], temperature: float) -> float:
    return sum(_softplus(-margin / temperature) for margin in margins) / len(margins)


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def _softplus(value: float) -> float:
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))
