"""Windows and batches that grow: pure functions of the step, every row read once, and a past that cannot be changed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import VOCABULARY, StoppingSource, digest, metrics, new_network, new_trainer

from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError, StoppedError
from chatwright.foundation.stopping import StopFlag
from chatwright.train.batches import WindowSource
from chatwright.train.growth import BatchConfig, BatchPlan, GrowingSchedule, GrowingSource, LengthConfig
from chatwright.train.pretrain import PretrainConfig
from chatwright.train.schedule import ScheduleConfig

STEPS, FULL = 12, 16


class Counted:
    """Rows of which the n-th holds n throughout, drawn anew by its number alone, or by the number itself."""

    def rows(self, first, count):
        return np.stack([np.full(FULL + 1, row) % VOCABULARY for row in range(first, first + count)])


class Drawn:
    """Rows drawn from their number."""

    def rows(self, first, count):
        return np.stack(
            [np.random.default_rng(row).integers(VOCABULARY, size=FULL + 1) for row in range(first, first + count)]
        )


def source(*, order=None, start=None, window=None, rows=8, micro_rows=2):
    growth = None if start is None else BatchConfig(start=start, warmup_share=0.5)
    return GrowingSource(
        order=order or Drawn(),
        batches=BatchPlan(full=rows, steps=STEPS, growth=growth),
        micro_rows=micro_rows,
        full=FULL,
        fingerprint="grown",
        growth=None if window is None else LengthConfig(start=window, warmup_share=0.5),
    )


@given(step=st.integers(0, 200), start=st.integers(8, 60), full=st.integers(64, 300))
def test_lengths_double_until_windows_are_whole(step, start, full):
    growth = LengthConfig(start=start, warmup_share=0.5)
    length = growth.length(step, steps=100, full=full)
    assert length in {full >> halvings for halvings in range(6)}
    assert start <= length <= full
    assert length <= growth.length(step + 1, steps=100, full=full)
    if step >= 50:
        assert length == full
    if step == 0:
        assert length < 2 * start


def test_short_windows_are_the_whole_ones_cut_so_that_each_step_has_the_same_targets():
    growing, whole = source(window=8), WindowSource(order=Drawn(), rows=8, micro_rows=2, fingerprint="whole")
    for number in (0, 3, 11):
        cut, uncut = growing.step(number), whole.step(number)
        assert sum(batch.num_targets for batch in cut) == sum(batch.num_targets for batch in uncut)
        for name in ("ids_BT", "targets_BT"):
            one, other = (torch.cat([getattr(batch, name).flatten() for batch in step]) for step in (cut, uncut))
            assert torch.equal(one, other)
    assert growing.step(0)[0].ids_BT.shape == (4, 8)
    assert growing.step(11)[0].ids_BT.shape == (2, 16)


@given(
    start=st.integers(1, 40), full=st.integers(1, 80), steps=st.integers(1, 60), share=st.floats(0.01, 1.0),
    step=st.integers(0, 120),
)  # fmt: skip
def test_a_step_begins_where_the_one_before_has_ended(start, full, steps, share, step):
    growth = BatchConfig(start=min(start, full), warmup_share=share)
    plan = BatchPlan(full=full, steps=steps, growth=growth)
    rows = [plan.rows(number) for number in range(step + 1)]
    assert rows == sorted(rows)
    assert min(start, full) <= rows[0] <= rows[-1] <= full
    assert plan.first_row(step) == sum(rows[:-1])
    assert plan.rows(steps) == full


def test_a_growing_batch_reads_every_row_of_the_order_once():
    growing = source(order=Counted(), start=1)
    seen = [int(row[0]) for number in range(STEPS) for batch in growing.step(number) for row in batch.ids_BT]
    assert seen == [row % VOCABULARY for row in range(len(seen))]
    assert [sum(len(batch.ids_BT) for batch in growing.step(number)) for number in (0, 2, 4, 11)] == [1, 2, 4, 8]
    assert len(growing.longest().ids_BT) == 8


def test_a_smaller_batch_has_a_lower_rate():
    base, plan = ScheduleConfig(), BatchPlan(full=16, steps=100, growth=BatchConfig(start=4, rate_power=0.5))
    schedule = GrowingSchedule(base=base, batches=plan)
    assert schedule.factor(5, 100) == pytest.approx(base.factor(5, 100) / 2)
    assert schedule.factor(90, 100) == base.factor(90, 100)
    assert schedule.factor(5, 100, number=90) == base.factor(5, 100)  # after going back, of data that is further on
    whole = GrowingSchedule(base=base, batches=BatchPlan(full=16, steps=100))
    assert [whole.factor(step, 100) for step in range(100)] == [base.factor(step, 100) for step in range(100)]


@pytest.mark.parametrize("fields", [{"start": 1}, {"start": 2, "window": 8}], ids=str)
@pytest.mark.parametrize("step", [1, 3, 8])
def test_a_run_whose_batch_grows_resumes_to_the_same_bits_and_the_same_log(tmp_path, fields, step):
    class Stopping(StoppingSource):
        def step(self, number):
            super().step(number)
            return source(**fields).step(number)

    straight, resumed, flag = new_network(), new_network(seed=4), StopFlag()
    new_trainer(tmp_path / "straight", network=straight, source=source(**fields)).run()
    with pytest.raises(StoppedError):
        new_trainer(tmp_path / "halves", source=Stopping(flag, step, fingerprint="grown")).run(flag)
    new_trainer(tmp_path / "halves", network=resumed, source=source(**fields)).run()
    assert digest(resumed) == digest(straight)
    assert metrics(tmp_path / "halves") == metrics(tmp_path / "straight")


def test_a_batch_that_begins_as_large_as_it_ends_does_not_grow():
    with pytest.raises(ConfigError, match="below `batch_rows`"):
        validate(PretrainConfig, {"batch_rows": 8, "batch_growth": {"start": 8}}, where="a recipe")
