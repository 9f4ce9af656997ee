"""Agreement and power: equal to the package and to published examples; intervals that hold."""

import krippendorff
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatwright.evaluate.agreement import (
    choices_for_win_rate,
    items_for_difference,
    krippendorff_alpha,
    mean_over_items,
    percent_agreement,
    rank_correlation,
    t_quantile,
)
from chatwright.foundation.errors import UsageError

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", data of section C: four observers, twelve units.
_ = np.nan
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
)


def test_alpha_equals_the_published_example_and_the_package():
    alpha = krippendorff_alpha(PUBLISHED)
    assert alpha == pytest.approx(0.815, abs=5e-4)  # the paper's ordinal value
    assert alpha == pytest.approx(krippendorff.alpha(PUBLISHED, level_of_measurement="ordinal"), abs=1e-12)


@given(st.lists(st.lists(st.sampled_from([1, 2, 3, 4, 5, None]), min_size=6, max_size=6), min_size=2, max_size=5))
def test_alpha_equals_the_package_on_any_table(rows):
    table = np.array([[np.nan if value is None else value for value in row] for row in rows], dtype=float)
    ours = krippendorff_alpha(table)
    pairable = table[:, (~np.isnan(table)).sum(axis=0) >= 2]
    if len(np.unique(pairable[~np.isnan(pairable)])) > 1:
        assert ours == pytest.approx(krippendorff.alpha(table, level_of_measurement="ordinal"), abs=1e-9)
    else:
        assert ours is None


def test_percent_agreement_counts_pairs_of_the_same_unit():
    assert percent_agreement(np.array([[1, 2], [1, 3], [2, np.nan]])) == pytest.approx(1 / 4)
    assert percent_agreement(np.array([[1.0, np.nan]])) is None


def test_the_t_interval_holds_as_often_as_it_says_and_its_quantiles_are_the_tables():
    for freedom, quantile in ((1, 12.706), (2, 4.303), (5, 2.571), (10, 2.228), (30, 2.042), (1000, 1.962)):
        assert t_quantile(0.975, freedom) == pytest.approx(quantile, abs=4e-3)
    generator = np.random.Generator(np.random.PCG64(2))
    held = 0
    for _trial in range(500):
        shifts = generator.normal(0, 1, 12)
        values = 3 + np.repeat(shifts, 3) + generator.normal(0, 0.5, 36)  # three raters of the same item
        mean = mean_over_items(values.tolist(), [str(number) for number in np.repeat(np.arange(12), 3)])
        held += mean.low <= 3 <= mean.high
    assert 0.92 <= held / 500 <= 0.98


def test_rank_correlation_is_that_of_ranks_with_ties_and_its_interval_holds_it():
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    generator = np.random.Generator(np.random.PCG64(4))
    one = generator.integers(1, 6, 40).astype(float)
    other = one + generator.normal(0, 2, 40)
    found = rank_correlation(one, other)
    assert found.spearman == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-12)
    assert found.low < found.spearman < found.high
    assert rank_correlation([1, 1, 1, 1, 1], [1, 2, 3, 4, 5]) is None


def test_as_many_choices_as_the_power_asks_for_find_the_win_rate_that_often():
    generator = np.random.Generator(np.random.PCG64(9))
    for rate in (0.6, 0.7):
        number = choices_for_win_rate(rate)
        wins = generator.binomial(number, rate, 4000)
        found = np.abs(wins / number - 0.5) / np.sqrt(0.25 / number) > 1.96
        assert 0.77 <= found.mean() <= 0.86
    assert items_for_difference(1.0, 0.3) == 88
    for call in (lambda: choices_for_win_rate(0.5), lambda: items_for_difference(1, 0)):
        with pytest.raises(UsageError):
            call()
