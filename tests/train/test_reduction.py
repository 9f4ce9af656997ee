"""Sums in a fixed order: the same bits however the leaves are shared out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chatwright.train.reduction import FixedTree, share_of, spans_of


def leaves(count):
    """Numbers of very different sizes, whose sum depends on the order."""
    generator = torch.Generator().manual_seed(count)
    scale = 10 ** torch.randint(-6, 6, (count, 1), generator=generator).float()
    return torch.randn(count, 8, generator=generator) * scale


def whole(values):
    tree = FixedTree()
    for index, value in enumerate(values):
        tree.push(spans_of([index])[0], value.clone())
    return tree.total()


@given(st.integers(1, 40), st.integers(1, 9))
def test_any_number_of_ranks_gives_the_bits_of_one(count, size):
    values = leaves(count)
    joined = FixedTree()
    for rank in range(size):
        own = FixedTree()
        share = share_of(count, rank=rank, size=size)
        for index in share:
            own.push(spans_of([index])[0], values[index].clone())
        assert [span for span, _ in own.nodes] == spans_of(share)
        for span, value in own.nodes:
            joined.push(span, value)
    assert torch.equal(joined.total(), whole(values))


def test_a_plain_sum_from_left_to_right_would_not_do():
    values = leaves(16)
    halves = values[:8].sum(0) + values[8:].sum(0)
    in_order = torch.zeros(8)
    for value in values:
        in_order = in_order + value
    assert not torch.equal(halves, in_order)


@given(st.integers(1, 100), st.integers(1, 12))
def test_every_micro_batch_belongs_to_one_rank(count, size):
    shares = [list(share_of(count, rank=rank, size=size)) for rank in range(size)]
    assert sum(shares, []) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("count", [1, 7, 64, 1000])
def test_only_a_logarithm_of_the_leaves_is_held(count):
    tree, most = FixedTree(), 0
    for index in range(count):
        tree.push(spans_of([index])[0], torch.ones(1))
        most = max(most, len(tree.nodes))
    assert most <= count.bit_length()
    assert float(tree.total()) == count
