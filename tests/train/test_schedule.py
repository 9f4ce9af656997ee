"""The learning rate's course: up, level, down, and never outside zero to one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError
from chatwright.train.schedule import ScheduleConfig


def course(total, **fields):
    return [ScheduleConfig(**fields).factor(step, total) for step in range(total)]


def test_it_warms_up_stays_and_cools_down_in_straight_lines():
    factors = course(100, warmup_share=0.1, cooldown_share=0.4)
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert factors[10:60] == [1.0] * 50
    assert factors[60:] == pytest.approx([(100 - step) / 41 for step in range(60, 100)])


def test_it_ends_above_the_final_share_and_within_a_step_of_it():
    factors = course(100, warmup_share=0.0, cooldown_share=0.5, final_share=0.1)
    assert factors[-1] == pytest.approx(0.1 + 0.9 / 51)


def test_without_warmup_and_cooldown_it_is_level():
    assert course(7, warmup_share=0.0, cooldown_share=0.0) == [1.0] * 7


@given(
    total=st.integers(1, 300),
    warmup=st.floats(0, 0.5),
    cooldown=st.floats(0, 0.5),
    final=st.floats(0, 1),
)
def test_every_factor_is_above_zero_and_at_most_one_and_rises_only_before_it_falls(total, warmup, cooldown, final):
    factors = course(total, warmup_share=warmup, cooldown_share=cooldown, final_share=final)
    assert all(0 < factor <= 1 for factor in factors)
    top = factors.index(max(factors))
    assert factors[:top] == sorted(factors[:top])
    assert factors[top:] == sorted(factors[top:], reverse=True)


def test_shares_that_overlap_are_refused():
    with pytest.raises(ConfigError, match="must not exceed 1"):
        validate(ScheduleConfig, {"warmup_share": 0.5, "cooldown_share": 0.6}, where="recipe")
