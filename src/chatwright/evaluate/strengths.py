"""Strengths from choices between two: Bradley-Terry with Davidson's ties, and intervals that know shared items.

Davidson (1970), "On extending the Bradley-Terry model to accommodate ties": with strengths p and a tie parameter v,
first : second : tie as p_i : p_j : v * sqrt(p_i * p_j). In logarithms that is a multinomial logit, fitted by Newton.
Legend: S samples fitted at once, N judgements, P kinds of pair, M models, D parameters, O outcomes (3), C contrasts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatwright.evaluate.agreement import Z95, t_quantile
from chatwright.foundation.errors import UsageError

FIRST, SECOND, TIE = 0, 1, 2
_STEPS = 60
_CLOSE = 1e-10

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """Who met whom, and on which item; the same for every sample."""

    first: Ints  # (N,) model
    second: Ints  # (N,) model
    cluster: Ints  # (N,) item, so that judgements of the same item by several raters are not taken as independent
    num_models: int


@dataclass(frozen=True, kw_only=True)
class Strengths:
    """Fitted strengths of each sample, natural logarithm, summing to zero."""

    theta: Floats  # (S, M)
    covariance: Floats  # (S, M, M)
    by_information: Floats  # (S, M, M) the covariance if judgements were independent
    tie: Floats  # (S,) Davidson's v; 0 where no tie was met
    reach: float  # standard errors either way of a 95 % interval

    def intervals(self) -> Floats:
        """(S, M, 2): 95 % intervals."""
        half = self.reach * np.sqrt(self._variance(np.eye(self.theta.shape[1])))
        return np.stack([self.theta - half, self.theta + half], axis=-1)

    def difference(self, one: int, other: int) -> Floats:
        """(S, 2): estimate and standard error of the strength of `one` less that of `other`."""
        contrast = np.eye(self.theta.shape[1])[one] - np.eye(self.theta.shape[1])[other]
        error = np.sqrt(self._variance(contrast[None]))[:, 0]
        return np.stack([self.theta[:, one] - self.theta[:, other], error], axis=-1)

    def _variance(self, contrasts_CM: Floats) -> Floats:
        """(S, C): of each contrast the larger one, by items or by the information.

        Few items may by chance be alike: what is left of each cancels, and by them the interval would be of nothing.
        """
        by_item, plain = (
            np.einsum("cm,smn,cn->sc", contrasts_CM, wide, contrasts_CM)
            for wide in (self.covariance, self.by_information)
        )
        larger: Floats = np.maximum(by_item, plain)
        return larger


def fit(met: Comparisons, outcomes: NDArray[np.integer], *, prior: float = 0.0, by_item: bool = True) -> Strengths:
    """Maximum likelihood for each sample of outcomes.

    Args:
        met: the pairs.
        outcomes: (S, N) or (N,): FIRST, SECOND or TIE.
        prior: precision of a normal prior around equal strengths; 0 for none. It keeps strengths finite where one
            model won everything.
        by_item: variances by the sandwich over items (Liang and Zeger 1986), at least those of the information, and
            Student's t over items; otherwise the information's and the normal's. With a prior the sandwich is left
            out: where one model won everything no item differs from what was expected.

    Raises:
        UsageError: intervals over items are asked for of fewer than two; or, without a prior, some model never won or
            never lost against the others, so that its strength may have no bound.
    """
    drawn = np.atleast_2d(np.asarray(outcomes, dtype=np.int64))
    with_ties = bool((drawn == TIE).any())
    reach = _reach_over_items(met) if by_item else Z95
    if prior == 0.0:
        _require_connected(met, drawn)
    pairs, kind = np.unique(np.stack([met.first, met.second]), axis=1, return_inverse=True)
    kind = kind.reshape(-1)
    basis = _basis(met.num_models)
    design = _design(pairs, basis, with_ties=with_ties)
    counts = np.zeros((len(drawn), pairs.shape[1], 3))
    samples = np.arange(len(drawn))[:, None]
    np.add.at(counts, (samples, kind[None, :], drawn), 1.0)
    beta, information = _newton(design, counts, prior=prior, with_ties=with_ties)
    inverse = np.linalg.inv(information)
    covariance = inverse
    if by_item and prior == 0.0:
        meat = _meat(design, beta, drawn, kind, met.cluster, with_ties=with_ties)
        covariance = inverse @ meat @ inverse
    size = met.num_models - 1
    wide, plain = (np.einsum("md,sde,ne->smn", basis, found[:, :size, :size], basis) for found in (covariance, inverse))
    tie = np.exp(beta[:, size]) if with_ties else np.zeros(len(drawn))
    theta = beta[:, :size] @ basis.T
    return Strengths(theta=theta, covariance=wide, by_information=plain, tie=tie, reach=reach)


def _reach_over_items(met: Comparisons) -> float:
    items = len(np.unique(met.cluster))
    if items < 2:
        raise UsageError("intervals over items need two items or more")
    return t_quantile(0.975, items - 1)


def _basis(num_models: int) -> Floats:
    """(M, M - 1), orthonormal, every column summing to zero."""
    centred = np.eye(num_models) - 1.0 / num_models
    vectors: Floats = np.linalg.svd(centred)[0][:, : num_models - 1]
    return vectors


def _design(pairs: Ints, basis: Floats, *, with_ties: bool) -> Floats:
    """(P, O, D): what each outcome's logit is made of."""
    one, other = basis[pairs[0]], basis[pairs[1]]
    rows = np.stack([one, other, (one + other) / 2], axis=1)
    if not with_ties:
        return rows
    extra = np.zeros((*rows.shape[:2], 1))
    extra[:, TIE] = 1.0
    return np.concatenate([rows, extra], axis=2)


def _probabilities(design: Floats, beta: Floats, *, with_ties: bool) -> Floats:
    logits = np.einsum("pod,sd->spo", design, beta)
    if not with_ties:
        logits[..., TIE] = -np.inf
    logits -= logits.max(axis=-1, keepdims=True)
    shares = np.exp(logits)
    result: Floats = shares / shares.sum(axis=-1, keepdims=True)
    return result


def _newton(design: Floats, counts: Floats, *, prior: float, with_ties: bool) -> tuple[Floats, Floats]:
    """Parameters (S, D) and the information (S, D, D) at them; steps are halved while they would lead too far."""
    size = design.shape[2]
    beta = np.zeros((len(counts), size))
    ridge = (prior + 1e-12) * np.eye(size)
    totals = counts.sum(axis=2)
    information = np.broadcast_to(ridge, (len(counts), size, size))
    for _ in range(_STEPS):
        shares = _probabilities(design, beta, with_ties=with_ties)
        gradient = np.einsum("spo,pod->sd", counts - totals[..., None] * shares, design) - prior * beta
        mean = np.einsum("spo,pod->spd", shares, design)
        spread = np.einsum("sp,spo,pod,poe->sde", totals, shares, design, design)
        information = spread - np.einsum("sp,spd,spe->sde", totals, mean, mean) + ridge
        step = np.linalg.solve(information, gradient[..., None])[..., 0]
        longest = np.abs(step).max(axis=1, keepdims=True)
        beta = beta + step * np.minimum(1.0, 2.0 / np.maximum(longest, 1e-300))
        if longest.max() < _CLOSE:
            break
    return beta, information


def _meat(design: Floats, beta: Floats, drawn: Ints, kind: Ints, cluster: Ints, *, with_ties: bool) -> Floats:
    """(S, D, D): outer products of the items' summed scores, with the small-sample factor C / (C - 1)."""
    shares = _probabilities(design, beta, with_ties=with_ties)
    expected = np.einsum("spo,pod->spd", shares, design)
    scores = design[kind[None, :], drawn] - expected[:, kind]
    _, number = np.unique(cluster, return_inverse=True)
    groups = int(number.max()) + 1
    summed = np.zeros((groups, len(drawn), design.shape[2]))
    np.add.at(summed, number.reshape(-1), scores.transpose(1, 0, 2))
    meat: Floats = np.einsum("csd,cse->sde", summed, summed) * groups / (groups - 1)
    return meat


def _require_connected(met: Comparisons, drawn: Ints) -> None:
    """Every model must be reachable from every other over wins (Ford 1957).

    Ties do not count (Davidson 1970, section 3): of a win and a tie the likelihood grows for ever, with the winner's
    strength and the ties' together. Where wins alone do not bound a strength ties might; that is not looked into.
    """
    for sample in drawn:
        if (sample == TIE).all():
            raise UsageError("every comparison is a tie, so that nothing bounds how alike the models are")
        reach = np.eye(met.num_models, dtype=bool)
        won = sample == FIRST
        lost = sample == SECOND
        reach[met.first[won], met.second[won]] = True
        reach[met.second[lost], met.first[lost]] = True
        for _ in range(met.num_models):
            reach = (reach.astype(np.int64) @ reach.astype(np.int64)) > 0
        if not reach.all():
            raise UsageError(
                "some model never won or never lost against the others, so its strength has no bound",
                hint="collect more comparisons, or give a prior",
            )


def comparisons(first: Sequence[int], second: Sequence[int], items: Sequence[str], *, num_models: int) -> Comparisons:
    """Comparisons from plain lists."""
    _, cluster = np.unique(np.asarray(items), return_inverse=True)
    return Comparisons(
        first=np.asarray(first, dtype=np.int64),
        second=np.asarray(second, dtype=np.int64),
        cluster=cluster.astype(np.int64).reshape(-1),
        num_models=num_models,
    )
