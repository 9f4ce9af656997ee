"""Intervals hold what they should as often as they say, and equal what is drawn one by one."""

import math

import numpy as np
import pytest

from chatwright.evaluate.resampling import least_p_value, percentiles, resampled_sums, share_interval


def test_sums_are_those_of_items_drawn_one_draw_after_the_other(monkeypatch):
    columns = np.random.Generator(np.random.PCG64(3)).gamma(2.0, size=(37, 2))
    generator = np.random.Generator(np.random.PCG64(11))
    wanted = np.array([columns[generator.integers(0, 37, 37)].sum(axis=0) for _ in range(50)])
    assert resampled_sums(columns, seed=11, resamples=50) == pytest.approx(wanted)
    monkeypatch.setattr("chatwright.evaluate.resampling._AT_ONCE", 37 * 7)  # what is held at once changes nothing
    assert resampled_sums(columns, seed=11, resamples=50) == pytest.approx(wanted)


def test_percentiles_leave_a_fortieth_out_on_either_side():
    assert percentiles(np.arange(1001.0)) == pytest.approx((25.0, 975.0))


@pytest.mark.parametrize(
    ("hits", "number", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (45, 60, 0.6277, 0.8422), (1, 1, 0.2065, 1.0)],
)
def test_the_interval_of_a_share_is_wilsons(hits, number, low, high):
    assert share_interval(hits, number).rounded(4) == [low, high]


def test_the_interval_of_a_share_holds_the_true_share_as_often_as_it_says():
    number, shares = 40, np.linspace(0.02, 0.98, 193)
    held = np.zeros_like(shares)  # exactly, over all counts that may come; of one share it swings about 0.95
    for hits in range(number + 1):
        low, high = share_interval(hits, number)
        chance = math.comb(number, hits) * shares**hits * (1 - shares) ** (number - hits)
        held += ((low <= shares) & (shares <= high)) * chance
    assert held.mean() == pytest.approx(0.95, abs=0.01)
    assert held.min() > 0.83


def test_no_paired_comparison_says_more_than_the_signs_of_its_items():
    assert [least_p_value(number) for number in (1, 2, 6, 5_000)] == [1.0, 0.5, 1 / 32, 0.0]
