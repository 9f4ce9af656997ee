"""Rows and shared blocks: within their budget, given back whole, and never mixed up."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chatwright.model.engine.memory import BLOCK, PrefixStore, RowMemory, Shape, blocks_for

SHAPE = Shape(2, 1, 4, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize(("tokens", "blocks"), [(1, 1), (64, 1), (65, 2), (129, 4), (256, 4), (257, 8), (1025, 32)])
def test_rows_come_in_few_sizes(tokens, blocks):
    assert blocks_for(tokens) == blocks


@given(st.lists(st.one_of(st.integers(1, 700), st.none()), max_size=40))
def test_rows_never_overlap_and_never_exceed_the_budget(acts):
    memory, taken = RowMemory(SHAPE, total_blocks=40), []
    for tokens in acts:
        if tokens is None:
            if taken:
                memory.give_back(taken.pop(0)[0])
        elif (row := memory.take(tokens)) is not None:
            taken.append((row, tokens))
            assert memory.layer(row.slab, 0).shape[2] >= tokens
        else:
            assert memory.used_blocks + blocks_for(tokens) > 40
        assert len({row for row, _ in taken}) == len(taken)
        assert memory.used_blocks == sum(blocks_for(tokens) for _, tokens in taken)
    for row, _ in taken:
        memory.give_back(row)
    assert memory.used_blocks == 0


def test_a_row_given_back_twice_is_our_own_mistake_and_told():
    memory = RowMemory(SHAPE, total_blocks=4)
    row, other = memory.take(10), memory.take(10)
    assert other is not None
    memory.give_back(row)
    with pytest.raises(ValueError, match="twice"):
        memory.give_back(row)


def filled(memory, ids):
    row = memory.take(len(ids))
    for number in range(SHAPE.layers):
        values = torch.tensor(ids, dtype=torch.float32).view(1, -1, 1) + 1000 * number
        memory.layer(row.slab, number)[row.place, :, : len(ids)] = values
    return row


@pytest.mark.parametrize("same", [0, 63, 64, 127, 128, 200])
def test_a_beginning_is_found_by_all_tokens_up_to_its_end(same):
    memory, store = RowMemory(SHAPE, total_blocks=40), PrefixStore(max_blocks=10)
    ids = list(range(200))
    store.keep(memory, filled(memory, ids), ids)
    asked = [*ids[:same], *range(500, 700 - same)]
    row = memory.take(200)
    known = store.copy_into(memory, row, asked)
    assert known == same // BLOCK * BLOCK
    for number in range(SHAPE.layers):
        copied = memory.layer(row.slab, number)[row.place, 0, :known, 0]
        assert copied.tolist() == [1000 * number + token for token in asked[:known]]


def test_the_last_token_is_always_left_to_read():
    memory, store = RowMemory(SHAPE, total_blocks=40), PrefixStore(max_blocks=10)
    ids = list(range(128))
    store.keep(memory, filled(memory, ids), ids)
    assert store.copy_into(memory, memory.take(128), ids) == BLOCK


def test_the_longest_unused_text_goes_first_and_from_its_end():
    memory, store = RowMemory(SHAPE, total_blocks=400), PrefixStore(max_blocks=4)
    first, second, third = (list(range(start, start + 130)) for start in (0, 1000, 2000))
    for ids in (first, second):
        store.keep(memory, filled(memory, ids), ids)
    assert store.copy_into(memory, memory.take(130), first) == 2 * BLOCK
    store.keep(memory, filled(memory, third), third[:BLOCK])
    assert len(store) == 4
    found = [store.copy_into(memory, memory.take(130), ids) for ids in (first, second, third)]
    assert found == [2 * BLOCK, BLOCK, BLOCK]


def test_a_text_longer_than_the_store_keeps_its_beginning():
    memory, store = RowMemory(SHAPE, total_blocks=40), PrefixStore(max_blocks=2)
    ids = list(range(300))
    store.keep(memory, filled(memory, ids), ids)
    assert len(store) == 2
    assert store.copy_into(memory, memory.take(300), ids) == 2 * BLOCK
