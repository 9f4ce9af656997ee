"""Which tokens a step sees is a pure function; an epoch visits every window once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatwright.foundation.errors import DataError
from chatwright.tokens.order import WindowOrder
from chatwright.tokens.shards import ShardWriter, TokenData, write_index


@pytest.fixture(scope="module")
def split_of(tmp_path_factory):
    """A split of so many tokens, each different, in shards of about a hundred."""

    def make(size: int):
        directory = tmp_path_factory.mktemp("tokens")
        entries = []
        for number, start in enumerate(range(0, size, 100)):
            stop = min(start + 100, size)
            writer = ShardWriter(vocabulary_size=1 << 20, end_of_text=stop - 1)
            writer.add(list(range(start, stop - 1)), domain=0, num_bytes=1)
            entries.append(writer.save(directory / f"train-{number:05d}"))
        write_index(directory, {"train": entries}, tokenizer="", vocabulary=1 << 20, domains=["x"])
        return TokenData(directory).split("train")

    return make


@pytest.fixture(scope="module")
def thousand(split_of):
    return split_of(1000)


@settings(max_examples=30)
@given(length=st.integers(2, 200), seed=st.integers(0, 2**31), epoch=st.integers(0, 3))
def test_an_epoch_visits_each_of_its_windows_once(thousand, length, seed, epoch):
    order = WindowOrder(thousand, length=length, seed=seed)
    rows = order.rows(epoch * order.num_windows, order.num_windows)
    assert rows.shape == (order.num_windows, length + 1)
    starts = np.sort(rows[:, 0])
    assert (np.diff(starts) == length).all()  # windows join without a gap, and overlap by the one shared token
    assert (np.diff(rows, axis=1) == 1).all()  # each window is a stretch of the stream
    assert starts[0] < length
    assert starts[-1] + length < 1000
    left_out = 1000 - (order.num_windows * length + 1)
    assert left_out < 2 * length


def test_a_row_does_not_depend_on_what_was_read_before(thousand):
    order = WindowOrder(thousand, length=16, seed=5)
    straight = order.rows(0, 3 * order.num_windows)
    fresh = WindowOrder(thousand, length=16, seed=5)
    for row in (100, 3, 170, 0):
        assert (fresh.window(row) == straight[row]).all()
    assert (fresh.rows(40, 7) == straight[40:47]).all()


def test_epochs_and_seeds_differ(thousand):
    order, other = (WindowOrder(thousand, length=16, seed=seed) for seed in (5, 6))
    count = order.num_windows
    assert not (order.rows(0, count) == order.rows(count, count)).all()
    assert not (order.rows(0, count) == other.rows(0, count)).all()
    shifts = {int(order.rows(epoch * count, count)[:, 0].min()) for epoch in range(8)}
    assert len(shifts) > 1


def test_inputs_and_targets_are_one_window_shifted(thousand):
    window = WindowOrder(thousand, length=10, seed=1).window(4)
    assert (window[1:] == window[:-1] + 1).all()


@pytest.mark.parametrize(("size", "length"), [(32, 16), (33, 16), (4, 2)])
def test_two_contexts_of_tokens_are_enough(split_of, size, length):
    order = WindowOrder(split_of(size), length=length, seed=0)
    assert all(len(order.window(row)) == length + 1 for row in range(50))


@pytest.mark.parametrize(("size", "length"), [(0, 2), (31, 16)])
def test_too_few_tokens_are_an_error_that_names_both_and_the_way_out(split_of, size, length):
    with pytest.raises(DataError, match=f"{size} training tokens.*{2 * length}") as caught:
        WindowOrder(split_of(size), length=length, seed=0)
    assert "context_length" in (caught.value.hint or "")
