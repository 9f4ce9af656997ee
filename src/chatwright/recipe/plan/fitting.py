"""A loss law of this corpus, fitted to the rungs of a ladder, with bands for what it predicts. Formulas only.

L(N, D) = E + A / N^alpha + B / D^beta as in `scaling.py`, here in bits per byte of held-out text. A handful of short
runs does not decide five constants, so none is chosen: over a grid of exponents the rest is linear and solved exactly,
each point of the grid is weighed by how well it explains the rungs and how near its exponents lie to published ones,
and a prediction is the weighed mean with its spread (Bayesian linear regression; Bishop 2006, section 3.3).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chatwright.foundation.errors import UsageError
from chatwright.recipe.plan.ladder import Rung
from chatwright.recipe.plan.scaling import effective_tokens

_Array = npt.NDArray[np.float64]
_EXPONENTS = np.linspace(0.05, 1.0, 20)
# Published exponents lie from 0.34 to 0.37 (Hoffmann et al. 2022; Besiroglu et al. 2024), for far longer runs; short
# ones learn faster than that, hence the width.
_EXPONENT_MEAN, _EXPONENT_SPREAD = 0.37, 0.25
_FLOOR_MEAN, _FLOOR_SPREAD = 0.8, 0.4  # bits per byte: what English text keeps (Shannon 1951: 0.6 to 1.3 a letter)
_SCALE_SPREAD = 3.0  # of A / N^alpha and B / D^beta at the middle of the rungs, bits per byte
_NOISE = 0.01  # of a rung's loss, from seeds and the sample of held-out text; never taken as less
_BAND = 1.645  # standard deviations either side: nine of ten
_FEWEST = 4
_BEYOND = 8.0  # times the largest rung's parameters or tokens: further, nothing is predicted


@dataclass(frozen=True, kw_only=True)
class FittedLaw:
    """Predicts bits per byte of held-out text on this corpus, for models within reach of the ladder's."""

    exponents: _Array  # points of the grid by (alpha, beta)
    means: _Array  # points by (E, A', B'), for sizes and tokens over their references
    spreads: _Array  # points by 3 by 3: covariance of the means
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
        features = self._features(parameters, tokens)
        return float(self.weights @ np.einsum("pk,pk->p", self.means, features))

    def interval(self, parameters: float, tokens: float) -> tuple[float, float]:
        """Between which nine of ten such runs should end."""
        features = self._features(parameters, tokens)
        each = np.einsum("pk,pk->p", self.means, features)
        middle = float(self.weights @ each)
        within = np.einsum("pk,pkl,pl->p", features, self.spreads, features)
        variance = float(self.weights @ (within + (each - middle) ** 2)) + (self.noise * middle) ** 2
        return middle - _BAND * math.sqrt(variance), middle + _BAND * math.sqrt(variance)

    def covers(self, parameters: float, tokens: float) -> bool:
        """Whether the prediction reaches no further than a few times past the ladder."""
        small = self.parameters[0] / 2 <= parameters <= _BEYOND * self.parameters[1]
        return small and self.tokens[0] / 2 <= tokens <= _BEYOND * self.tokens[1]

    def _features(self, parameters: float, tokens: float) -> _Array:
        by_size = (parameters / self.reference[0]) ** -self.exponents[:, 0]
        by_tokens = (tokens / self.reference[1]) ** -self.exponents[:, 1]
        return np.stack([np.ones_like(by_size), by_size, by_tokens], axis=1)


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
    grid = np.array([(alpha, beta) for alpha in _EXPONENTS for beta in _EXPONENTS])
    noise = _NOISE
    for _ in range(2):  # the second time with the noise that the first one's residuals show
        points = [_solve(point, sizes / reference[0], tokens / reference[1], bits, noise) for point in grid]
        best = max(points, key=lambda point: point.score)
        noise = max(_NOISE, float(np.sqrt(np.mean((best.residuals / bits) ** 2) * len(bits) / max(1, len(bits) - 3))))
    scores = np.array([point.score for point in points])
    weights = np.exp(scores - scores.max())
    return FittedLaw(
        exponents=grid,
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
    """The linear part at one pair of exponents."""

    mean: _Array
    spread: _Array
    residuals: _Array
    score: float  # logarithm of the evidence times the prior of the exponents, up to a constant


def _solve(exponents: _Array, sizes: _Array, tokens: _Array, bits: _Array, noise: float) -> _Point:
    """Posterior of (E, A', B') under a normal prior, and the evidence of the exponents (Bishop 2006, eq. 3.49 ff.)."""
    features = np.stack([np.ones_like(sizes), sizes ** -exponents[0], tokens ** -exponents[1]], axis=1)
    precision = np.diag(1 / np.array([_FLOOR_SPREAD, _SCALE_SPREAD, _SCALE_SPREAD]) ** 2)
    prior = np.array([_FLOOR_MEAN, 0.0, 0.0])
    trust = np.diag(1 / (noise * bits) ** 2)
    inverse = precision + features.T @ trust @ features
    spread = np.linalg.inv(inverse)
    mean = spread @ (precision @ prior + features.T @ trust @ bits)
    # Neither more parameters nor more tokens make a model worse.
    mean = np.array([mean[0], max(0.0, mean[1]), max(0.0, mean[2])])
    residuals = bits - features @ mean
    away = (mean - prior) @ precision @ (mean - prior)
    evidence = -0.5 * (residuals @ trust @ residuals + away + np.linalg.slogdet(inverse)[1])
    distance = (exponents - _EXPONENT_MEAN) / _EXPONENT_SPREAD
    return _Point(mean=mean, spread=spread, residuals=residuals, score=float(evidence - 0.5 * distance @ distance))
