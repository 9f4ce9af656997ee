"""A loss law of this corpus, fitted to the rungs of a ladder, with bands for what it predicts. Formulas only.

L(N, D) = E + (A N^(-alpha / g) + B D^(-beta / g))^g, in bits per byte of held-out text. With g = 1 it is the sum of
Hoffmann et al. 2022, with E = 0 and g = beta the law of Kaplan et al. 2020 (equation 1.5); the smaller g, the sooner a
small model stops to gain from reading on, which a sum denies and short runs show (`docs/log.md`). A handful of short
runs does not decide six constants, so none is chosen: over a grid of floors, exponents and g the rest is linear and
solved exactly, each point of the grid is weighed by how well it explains the rungs and how likely it was before, and a
prediction is the weighed mean with its spread (Bayesian linear regression; Bishop 2006, sections 3.3 and 3.4).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chatwright.foundation.errors import UsageError
from chatwright.recipe.plan.ladder import Rung
from chatwright.recipe.plan.scaling import effective_tokens

_Array = npt.NDArray[np.float64]
_TOGETHER = np.array([1.0, 0.7, 0.5, 0.35, 0.25])  # g
_FLOORS = np.linspace(0.3, 1.5, 13)
_EXPONENTS = np.linspace(0.1, 1.0, 10)
# Before anything was trained: floors from what English text keeps (Shannon 1951: 0.6 to 1.3 bits a letter), exponents
# from published ones, 0.34 to 0.37 (Hoffmann et al. 2022; Besiroglu et al. 2024), which short runs exceed, hence the
# widths.
_FLOOR_MEAN, _FLOOR_SPREAD = 0.9, 0.3
_SIZE_POWER_MEAN, _TOKENS_POWER_MEAN, _POWER_SPREAD = 0.37, 0.45, 0.25
_SCALE_SPREAD = 3.0  # of each term at the middle of the rungs, bits per byte
_NOISE = 0.01  # of a rung's loss, from seeds and the sample of held-out text; never taken as less
_BAND = 1.645  # standard deviations either side: nine of ten
_FEWEST = 4
_LEAST = 0.05  # bits per byte between a floor and what is above it
_BEYOND = 8.0  # times the largest rung's parameters or tokens: further, nothing is predicted


@dataclass(frozen=True, kw_only=True)
class FittedLaw:
    """Predicts bits per byte of held-out text on this corpus, for models within reach of the ladder's."""

    floors: _Array  # of the points of the grid
    together: _Array  # g of the points
    exponents: _Array  # points by (alpha / g, beta / g)
    means: _Array  # points by (A, B), for sizes and tokens over their references
    spreads: _Array  # points by 2 by 2: covariance of the means
    weights: _Array  # of the points; their sum is 1
    noise: float  # standard deviation of a rung, as a share of its loss
    reference: tuple[float, float]  # parameters and effective tokens that sizes are divided by
    parameters: tuple[float, float]  # of the smallest and the largest rung
    tokens: tuple[float, float]
    num_rungs: int
    unit: str = "bits per byte"

    @property
    def source(self) -> str:
        """Where the law is from, for the recipe's comments."""
        return (
            f"fitted to {self.num_rungs} runs on this corpus, {self.parameters[0]:,.0f} to {self.parameters[1]:,.0f} "
            f"parameters, up to {self.tokens[1]:,.0f} tokens"
        )

    def loss(self, parameters: float, tokens: float) -> float:
        """The expected bits per byte after so many different tokens."""
        return float(self.weights @ self._each(self._features(parameters, tokens)))

    def interval(self, parameters: float, tokens: float) -> tuple[float, float]:
        """Between which nine of ten such runs should end."""
        features = self._features(parameters, tokens)
        each = self._each(features)
        middle = float(self.weights @ each)
        slopes = _slope(each - self.floors, self.together)
        within = np.einsum("pk,pkl,pl->p", features, self.spreads, features) * slopes**2
        variance = float(self.weights @ (within + (each - middle) ** 2)) + (self.noise * middle) ** 2
        return middle - _BAND * math.sqrt(variance), middle + _BAND * math.sqrt(variance)

    def _each(self, features: _Array) -> _Array:
        """What each point expects."""
        return np.asarray(self.floors + np.einsum("pk,pk->p", self.means, features) ** self.together)

    def covers(self, parameters: float, tokens: float) -> bool:
        """Whether the prediction reaches no further than a few times past the ladder."""
        small = self.parameters[0] / 2 <= parameters <= _BEYOND * self.parameters[1]
        return small and self.tokens[0] / 2 <= tokens <= _BEYOND * self.tokens[1]

    def _features(self, parameters: float, tokens: float) -> _Array:
        by_size = (parameters / self.reference[0]) ** -self.exponents[:, 0]
        by_tokens = (tokens / self.reference[1]) ** -self.exponents[:, 1]
        return np.stack([by_size, by_tokens], axis=1)


def _slope(above: _Array, together: _Array | float) -> _Array:
    """How much a loss moves with the sum inside, where it lies so far above its floor."""
    return np.asarray(together * np.maximum(above, _LEAST) ** (1 - 1 / together))


def fit(rungs: Sequence[Rung], *, corpus_tokens: int) -> FittedLaw:
    """Fit the law to a ladder.

    Raises:
        UsageError: too few rungs, or all of one size.
    """
    if len(rungs) < _FEWEST or len({rung.parameters for rung in rungs}) < 2:
        raise UsageError(f"a ladder of {len(rungs)} runs decides nothing", hint="allow more time for `--fit`")
    sizes = np.array([rung.parameters for rung in rungs], dtype=np.float64)
    tokens = np.array([effective_tokens(rung.tokens, corpus_tokens) for rung in rungs])
    bits = np.array([rung.bits_per_byte for rung in rungs])
    reference = (float(np.exp(np.log(sizes).mean())), float(np.exp(np.log(tokens).mean())))
    floors = [floor for floor in _FLOORS if floor < bits.min() - _LEAST] or [bits.min() / 2]  # a text easier than any
    grid = np.array(list(itertools.product(floors, _EXPONENTS, _EXPONENTS, _TOGETHER)))
    noise = _NOISE
    for _ in range(2):  # the second time with the noise that the first one's residuals show
        points = [_solve(point, sizes / reference[0], tokens / reference[1], bits, noise) for point in grid]
        best = max(points, key=lambda point: point.score)
        noise = max(_NOISE, float(np.sqrt(np.mean((best.residuals / bits) ** 2) * len(bits) / max(1, len(bits) - 3))))
    scores = np.array([point.score for point in points])
    weights = np.exp(scores - scores.max())
    return FittedLaw(
        floors=grid[:, 0],
        together=grid[:, 3],
        exponents=grid[:, 1:3] / grid[:, 3:],
        means=np.array([point.mean for point in points]),
        spreads=np.array([point.spread for point in points]),
        weights=weights / weights.sum(),
        noise=noise,
        reference=reference,
        parameters=(float(sizes.min()), float(sizes.max())),
        tokens=(float(tokens.min()), float(tokens.max())),
        num_rungs=len(rungs),
    )


@dataclass(frozen=True, kw_only=True)
class _Point:
    """The linear part at one floor and pair of exponents."""

    mean: _Array
    spread: _Array
    residuals: _Array  # bits per byte
    score: float  # logarithm of the evidence times the prior of the point, up to a constant


def _solve(point: _Array, sizes: _Array, tokens: _Array, bits: _Array, noise: float) -> _Point:
    """Posterior of (A, B) under a normal prior, and the evidence of the point (Bishop 2006, eq. 3.49 ff.).

    The sum inside is linear in both; a rung's noise there is that of its bits over the slope between the two.
    """
    floor, alpha, beta, together = point
    above = bits - floor
    inside = above ** (1 / together)
    features = np.stack([sizes ** (-alpha / together), tokens ** (-beta / together)], axis=1)
    precision = np.eye(2) / _SCALE_SPREAD ** (2 / together)
    trust = np.diag((_slope(above, together) / (noise * bits)) ** 2)
    inverse = precision + features.T @ trust @ features
    spread = np.linalg.inv(inverse)
    # Neither more parameters nor more tokens make a model worse.
    mean = np.maximum(0.0, spread @ (features.T @ trust @ inside))
    residuals = above - (features @ mean) ** together
    misses = residuals / (noise * bits)
    room = np.linalg.slogdet(inverse)[1] - np.linalg.slogdet(precision)[1]  # what the rungs left of the prior's
    evidence = -0.5 * (misses @ misses + mean @ precision @ mean + room)
    away = (np.array([alpha - _SIZE_POWER_MEAN, beta - _TOKENS_POWER_MEAN])) / _POWER_SPREAD
    distance = away @ away + ((floor - _FLOOR_MEAN) / _FLOOR_SPREAD) ** 2
    return _Point(mean=mean, spread=spread, residuals=residuals, score=float(evidence - 0.5 * distance))
