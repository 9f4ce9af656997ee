"""With a cache a new token costs one position and the scores stay those of the whole text."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatwright.model.cache import NetworkCache

SAME = {"atol": 1e-5, "rtol": 1e-5}  # other shapes sum in another order


def some_ids(rows: int, time: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 300, (rows, time), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def usual_network(make_network):
    """Weights and scores of a usual size, for which the tolerance is meant."""
    return make_network(std=0.1)


@pytest.mark.parametrize("fields", [{}, {"family": "llama", "key_heads": 4}, {"key_heads": 1, "tied": False}])
@pytest.mark.parametrize("pieces", [(1,) * 12, (5, 1, 1, 5), (12,), (3, 4, 5), (1, 11)])
@torch.inference_mode()
def test_reading_in_pieces_equals_reading_at_once(make_network, fields, pieces):
    network, ids = make_network(std=0.1, **fields), some_ids(2, 12)
    cache = NetworkCache(network.config, batch=2, capacity=12)
    scores = torch.cat([network(piece, cache) for piece in ids.split(list(pieces), dim=1)], dim=1)
    torch.testing.assert_close(scores, network(ids), **SAME)
    assert cache.lengths_B.tolist() == [12, 12]


@settings(max_examples=20)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5), steps=st.integers(1, 6), seed=st.integers(0, 99))
@torch.inference_mode()
def test_rows_of_different_lengths_equal_each_row_alone(usual_network, lengths, steps, seed):
    longest = max(lengths)
    ids = some_ids(len(lengths), longest + steps, seed=seed)
    cache = NetworkCache(usual_network.config, batch=len(lengths), capacity=longest + steps)
    usual_network(ids[:, :longest], cache)  # what stands right of a row's length is padding of any kind
    cache.set_lengths(torch.tensor(lengths))
    new = ids[:, longest:]
    stepwise = torch.cat([usual_network(new[:, step : step + 1], cache) for step in range(steps)], dim=1)
    for row, length in enumerate(lengths):
        alone = torch.cat([ids[row, :length], new[row]])[None]
        torch.testing.assert_close(stepwise[row], usual_network(alone)[0, length:], **SAME)
    assert cache.lengths_B.tolist() == [length + steps for length in lengths]


@torch.inference_mode()
def test_several_new_positions_on_uneven_rows_see_no_later_one(usual_network):
    ids, lengths = some_ids(2, 9), [6, 3]
    cache = NetworkCache(usual_network.config, batch=2, capacity=9)
    usual_network(ids[:, :6], cache)
    cache.set_lengths(torch.tensor(lengths))
    scores = usual_network(ids[:, 6:], cache)
    for row, length in enumerate(lengths):
        alone = torch.cat([ids[row, :length], ids[row, 6:]])[None]
        torch.testing.assert_close(scores[row], usual_network(alone)[0, length:], **SAME)


@torch.inference_mode()
def test_going_back_overwrites_what_was_read(usual_network):
    ids, other = some_ids(1, 10), some_ids(1, 4, seed=1)
    cache = NetworkCache(usual_network.config, batch=1, capacity=10)
    usual_network(ids, cache)
    cache.set_lengths(torch.tensor([6]))
    scores = usual_network(other, cache)
    whole = torch.cat([ids[:, :6], other], dim=1)
    torch.testing.assert_close(scores, usual_network(whole)[:, 6:], **SAME)


def test_a_cache_keeps_the_number_format_it_is_given(usual_network):
    cache = NetworkCache(usual_network.config, batch=1, capacity=4, dtype=torch.bfloat16)
    keys, values, mask = cache.layer(0).append(torch.ones(1, 2, 3, 8), torch.ones(1, 2, 3, 8))
    assert (keys.dtype, values.dtype, mask) == (torch.bfloat16, torch.bfloat16, None)
    assert keys.shape == (1, 2, 3, 8)
