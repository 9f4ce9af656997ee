"""Strengths from choices: equal to choix, to a published example, and covering the truth as often as they say."""

import choix
import numpy as np
import pytest

from chatwright.evaluate.strengths import FIRST, SECOND, TIE, Comparisons, fit
from chatwright.foundation.errors import UsageError

# Agresti, "Categorical Data Analysis" (table 10.10): American League baseball 1987, wins of the row over the column.
WINS = np.array(
    [
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ]
)
# The same source's estimates (table 10.11), Baltimore at zero.
PUBLISHED = [1.58, 1.44, 1.29, 1.25, 1.11, 0.68, 0.0]


def spread_out(wins):
    first, second = np.nonzero(wins)
    times = wins[first, second]
    first, second = np.repeat(first, times), np.repeat(second, times)
    met = Comparisons(first=first, second=second, cluster=np.arange(len(first)), num_models=len(wins))
    return met, np.full(len(first), FIRST)


def test_strengths_equal_choix_and_the_published_example():
    met, outcomes = spread_out(WINS)
    fitted = fit(met, outcomes, by_item=False)
    ours = fitted.theta[0] - fitted.theta[0, -1]
    theirs = choix.opt_pairwise(7, list(zip(met.first.tolist(), met.second.tolist(), strict=True)))
    assert ours == pytest.approx(theirs - theirs[-1], abs=1e-4)
    assert ours == pytest.approx(PUBLISHED, abs=6e-3)
    assert fitted.tie[0] == 0


def test_the_intervals_over_items_equal_those_of_the_information_where_choices_are_independent():
    generator = np.random.Generator(np.random.PCG64(3))
    met = Comparisons(first=np.repeat([0, 0, 1], 400), second=np.repeat([1, 2, 2], 400), cluster=np.arange(1200), num_models=3)  # fmt: skip
    outcomes = generator.choice([FIRST, SECOND, TIE], size=1200, p=[0.5, 0.3, 0.2])
    plain, clustered = fit(met, outcomes, by_item=False), fit(met, outcomes)
    assert np.sqrt(np.diag(plain.covariance[0])) == pytest.approx(np.sqrt(np.diag(clustered.covariance[0])), rel=0.05)


def test_the_fit_solves_davidson_s_equations():
    """At the optimum expected wins plus half the ties equal those met, and so do the ties (Davidson 1970, section 3)."""
    generator = np.random.Generator(np.random.PCG64(8))
    first, second = np.array([0, 0, 1] * 60), np.array([1, 2, 2] * 60)
    met = Comparisons(first=first, second=second, cluster=np.arange(180), num_models=3)
    outcomes = generator.choice([FIRST, SECOND, TIE], size=180, p=[0.45, 0.3, 0.25])
    fitted = fit(met, outcomes)
    power, tie = np.exp(fitted.theta[0]), fitted.tie[0]
    one, other = power[first], power[second]
    total = one + other + tie * np.sqrt(one * other)
    tied = tie * np.sqrt(one * other) / total
    assert tied.sum() == pytest.approx((outcomes == TIE).sum(), abs=1e-6)
    for model in range(3):
        met_here = ((outcomes == FIRST) & (first == model)).sum() + ((outcomes == SECOND) & (second == model)).sum()
        met_here += ((outcomes == TIE) & ((first == model) | (second == model))).sum() / 2
        expected = (one / total + tied / 2)[first == model].sum() + (other / total + tied / 2)[second == model].sum()
        assert expected == pytest.approx(met_here, abs=1e-6)


def test_a_model_that_won_everything_needs_a_prior():
    met = Comparisons(first=np.array([0, 0, 1]), second=np.array([1, 2, 2]), cluster=np.arange(3), num_models=3)
    with pytest.raises(UsageError, match="never won or never lost"):
        fit(met, np.array([FIRST] * 3))
    fitted = fit(met, np.array([FIRST] * 3), prior=0.1)
    assert np.isfinite(fitted.theta).all()
    assert (np.diff(fitted.theta[0]) < 0).all()


@pytest.mark.parametrize("count", [2, 5])
def test_a_few_unanimous_choices_settle_nothing(count):
    zeros = np.zeros(count, dtype=int)
    met = Comparisons(first=zeros, second=zeros + 1, cluster=np.arange(count), num_models=2)
    ((estimate, error),) = fit(met, np.array([FIRST] * count), prior=0.1).difference(0, 1)
    assert estimate - 1.96 * error < 0 < estimate


def test_a_win_and_a_tie_bound_no_strength():
    """The winner's strength and the ties' grow together for ever: Davidson's condition is of wins."""
    zeros = np.zeros(2, dtype=int)
    met = Comparisons(first=zeros, second=zeros + 1, cluster=np.arange(2), num_models=2)
    with pytest.raises(UsageError, match="never won or never lost"):
        fit(met, np.array([FIRST, TIE]))
    ((estimate, _),) = fit(met, np.array([FIRST, TIE]), prior=0.1).difference(0, 1)
    assert 0 < estimate < 5


def test_items_that_are_judged_alike_leave_an_interval_of_something():
    """Two of three raters prefer the first on either item: what is left of each item is nothing, and so is a sandwich."""
    zeros = np.zeros(6, dtype=int)
    met = Comparisons(first=zeros, second=zeros + 1, cluster=np.repeat([0, 1], 3), num_models=2)
    fitted = fit(met, np.array([FIRST, FIRST, SECOND] * 2))
    assert fitted.difference(0, 1)[0] == pytest.approx([np.log(2), np.sqrt(1 / 4 + 1 / 2)], abs=1e-6)
    ((low, high), _) = fitted.intervals()[0]
    assert low < 0 < high


def test_intervals_of_few_items_are_student_s():
    def reach(items, **options):
        zeros = np.zeros(2 * items, dtype=int)
        met = Comparisons(first=zeros, second=zeros + 1, cluster=np.repeat(np.arange(items), 2), num_models=2)
        return fit(met, np.array([FIRST, SECOND] * items), **options).reach

    assert [reach(items) for items in (2, 11, 1000)] == pytest.approx([12.706, 2.228, 1.962], abs=1e-3)
    assert reach(2, by_item=False) == pytest.approx(1.96, abs=1e-3)
    with pytest.raises(UsageError, match="two items"):
        reach(1, prior=0.1)


def test_ties_alone_bound_nothing():
    met = Comparisons(first=np.array([0, 0]), second=np.array([1, 1]), cluster=np.arange(2), num_models=2)
    with pytest.raises(UsageError, match="every comparison is a tie"):
        fit(met, np.array([TIE, TIE]))
    ((_, error),) = fit(met, np.array([TIE, TIE]), prior=0.1).difference(0, 1)
    assert error > 0.5


PLANTED = np.array([0.9, 0.3, -0.3, -0.9])
RATERS = ((1.0, 0.0, 0.4), (0.7, 0.25, 0.8), (1.4, -0.2, 0.2))  # steadiness, leaning to the left side, love of ties


def shares_of(rater, gap, side, item):
    """First, second, tie for one rater: a logit of the gap, pulled by the side and by the item's own oddity."""
    steadiness, leaning, ties = rater
    pull = steadiness * (gap + item) + leaning * side
    logits = np.stack([pull / 2, -pull / 2, np.full_like(pull, np.log(ties))], axis=-1)
    shares = np.exp(logits)
    return shares / shares.sum(axis=-1, keepdims=True)


def simulate(generator, *, samples, items):
    """Every pair of four models on `items` items of its own, each judged by all three raters, sides at random."""
    pairs = [(one, other) for one in range(4) for other in range(one + 1, 4)]
    first = np.repeat([one for one, _ in pairs], items)
    second = np.repeat([other for _, other in pairs], items)
    gap = PLANTED[first] - PLANTED[second]
    drawn = []
    oddity = generator.normal(0, 0.5, (samples, len(first)))
    for rater in RATERS:
        side = generator.choice([-1.0, 1.0], (samples, len(first)))
        shares = shares_of(rater, gap, side, oddity)
        draw = generator.random((samples, len(first), 1))
        drawn.append((draw > shares.cumsum(axis=-1)).sum(axis=-1).clip(max=2))
    met = Comparisons(
        first=np.tile(first, 3), second=np.tile(second, 3), cluster=np.tile(np.arange(len(first)), 3), num_models=4
    )
    return met, np.concatenate(drawn, axis=1)


@pytest.mark.slow
def test_three_biased_raters_recover_the_planted_order_with_the_stated_coverage():
    """1,000 studies. The truth is what endless ratings by these raters would give, fitted the same way."""
    generator = np.random.Generator(np.random.PCG64(11))
    truth_met, truth_outcomes = simulate(generator, samples=1, items=60_000)
    truth = fit(truth_met, truth_outcomes).theta[0]
    assert list(np.argsort(-truth)) == [0, 1, 2, 3]
    met, outcomes = simulate(generator, samples=1_000, items=50)
    fitted = fit(met, outcomes)
    ends = fitted.intervals()
    covered = ((ends[..., 0] <= truth) & (truth <= ends[..., 1])).mean(axis=0)
    assert ((covered > 0.93) & (covered < 0.97)).all(), covered
    order = (np.argsort(-fitted.theta, axis=1) == np.arange(4)).all(axis=1).mean()
    assert order > 0.95
    naive = fit(met, outcomes, by_item=False).intervals()
    too_few = ((naive[..., 0] <= truth) & (truth <= naive[..., 1])).mean()
    assert too_few < covered.mean()  # judgements of one item are not independent, and the plain interval forgets it
