"""Random draws depend on what they are for, never on what was drawn before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatwright.foundation.streams import Permutation, seed_for

seeds = st.integers(0, 2**63 - 1)


@given(st.integers(1, 600), seeds)
def test_a_permutation_visits_each_element_once(size, seed):
    permutation = Permutation(size, seed)
    assert sorted(permutation[position] for position in range(size)) == list(range(size))


@given(st.integers(1, 10**12), seeds, st.data())
def test_a_permutation_of_any_size_stays_in_range_without_a_table(size, seed, data):
    position = data.draw(st.integers(0, size - 1))
    assert 0 <= Permutation(size, seed)[position] < size


def test_a_permutation_is_a_function_of_its_seed():
    first, again, other = ([Permutation(1000, seed)[position] for position in range(1000)] for seed in (1, 1, 2))
    assert first == again != other
    assert first != list(range(1000))


def test_a_permutation_mixes_well():
    """Neighbours end up far apart, and where an element ends up says nothing of where it began."""
    size = 4096
    shuffled = [Permutation(size, 3)[position] for position in range(size)]
    near = sum(abs(a - b) == 1 for a, b in zip(shuffled, shuffled[1:], strict=False))
    assert near < 20  # 2 are expected
    mean = (size - 1) / 2
    correlation = sum((i - mean) * (value - mean) for i, value in enumerate(shuffled)) / (size * (size**2 - 1) / 12)
    assert abs(correlation) < 0.06  # four standard deviations of a random order


@pytest.mark.parametrize("position", [-1, 5])
def test_a_position_outside_is_an_error(position):
    with pytest.raises(IndexError, match=r"outside 0\.\.4"):
        Permutation(5, 0)[position]


def test_an_empty_permutation_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        Permutation(0, 0)


@given(seeds, st.integers(0, 10**9))
def test_seeds_differ_by_stream_and_counter(seed, step):
    drawn = {
        seed_for(seed, "dropout", step),
        seed_for(seed, "windows", step),
        seed_for(seed, "dropout", step + 1),
        seed_for(seed, "dropout", step, 0),
        seed_for(seed, "dropout"),
    }
    assert len(drawn) == 5
    assert all(0 <= value < 1 << 63 for value in drawn)


def test_seeds_stay_the_same_from_version_to_version():
    """A run that was begun by an older version must go on with the same draws."""
    assert seed_for(1, "windows", 0) == 2085132503495811054
    assert [Permutation(7, 5)[position] for position in range(7)] == [1, 4, 0, 3, 2, 5, 6]
