"""Whole documents in rows: nothing lost, nothing twice, nothing cut that fits, and hardly a position empty."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatwright.foundation.errors import DataError
from chatwright.tokens.packing import PackedOrder, pack
from chatwright.tokens.shards import ShardWriter, TokenData, write_index

END, IGNORED = 0, -100


def packed(lengths, *, length):
    lengths = np.array(lengths, np.int64)
    return pack(np.cumsum(lengths) - lengths, lengths, length=length)


def best_fit(sizes, length):
    """The rule itself, row by row: the fullest row with room, the first opened of the latest that fell to that room."""
    rooms = []
    for size in sizes:
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - size)
        else:
            rooms.append(length - size)
    return sorted(rooms)


@settings(max_examples=80, deadline=None)
@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=60), length=st.integers(2, 40))
def test_every_token_has_one_place_and_rows_are_those_of_best_fit_decreasing(lengths, length):
    packing = packed(lengths, length=length)
    covered = np.concatenate([np.arange(s, s + n) for s, n in zip(packing.starts, packing.lengths, strict=True)])
    assert sorted(covered.tolist()) == list(range(sum(lengths)))
    used = np.add.reduceat(packing.lengths, packing.offsets[:-1])
    sizes = [size for n in lengths for size in [length] * (n // length) + ([n % length] if n % length else [])]
    assert sorted((length - used).tolist()) == best_fit(sorted(sizes, reverse=True), length)
    assert packing.split == sum(n > length for n in lengths)


def test_a_document_that_fits_is_never_cut(tmp_path):
    packing = packed([5, 9, 3, 8, 1, 7], length=10)
    assert sorted(packing.lengths.tolist()) == [1, 3, 5, 7, 8, 9]


@pytest.mark.parametrize("length", [256, 1024, 2048])
def test_less_than_one_position_in_a_hundred_is_empty(length):
    """Lengths as documents have them: log-normal, a median of some hundred tokens, some of tens of thousands."""
    generator = np.random.default_rng(1)
    lengths = np.clip(generator.lognormal(6.2, 1.4, 20_000).astype(np.int64), 1, None)
    packing = packed(lengths, length=length)
    assert packing.tokens == lengths.sum()
    assert packing.waste < 0.01
    assert f"{packing.waste:.2%} of the positions empty" in packing.described(len(lengths))


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Documents of 3 to 40 tokens in two shards, every token but the ends different."""
    directory = tmp_path_factory.mktemp("tokens")
    generator = np.random.default_rng(2)
    entries, token = [], 1
    for shard in range(2):
        writer = ShardWriter(vocabulary_size=1 << 20, end_of_text=END)
        for _ in range(40):
            size = int(generator.integers(2, 40))
            writer.add(list(range(token, token + size)), domain=0, num_bytes=1)
            token += size
        entries.append(writer.save(directory / f"train-{shard:05d}"))
    write_index(directory, {"train": entries}, tokenizer="", vocabulary=1 << 20, domains=["x"])
    return TokenData(directory).split("train")


def order_of(split, *, length=16, seed=1):
    return PackedOrder(split, length=length, seed=seed, end_of_text=END, ignored=IGNORED)


def test_an_epoch_learns_every_token_once_each_from_the_token_before_it(split):
    order = order_of(split)
    stream = split.slice(0, len(split))
    before = dict(zip(stream[1:].tolist(), stream[:-1].tolist(), strict=True))
    for epoch in range(2):
        rows = order.rows(epoch * order.packing.num_rows, order.packing.num_rows)
        kept = rows.targets != IGNORED
        assert sorted(rows.targets[kept].tolist()) == sorted(stream.tolist())
        assert (kept == (rows.pieces >= 0)).all()
        for read, target in zip(rows.ids[kept].tolist(), rows.targets[kept].tolist(), strict=True):
            if target != END:
                assert read == before.get(target, END)


def test_pieces_of_a_row_are_told_apart_and_follow_each_other(split):
    rows = order_of(split).rows(0, order_of(split).packing.num_rows)
    for targets, pieces in zip(rows.targets, rows.pieces, strict=True):
        filled = pieces >= 0
        assert (np.diff(pieces[filled]) >= 0).all()
        assert (~filled[np.argmin(filled) :]).all() or filled.all()
        for piece in set(pieces[filled].tolist()):
            own = targets[pieces == piece]
            ends = np.flatnonzero(own == END)
            assert ends.tolist() in ([], [len(own) - 1])  # a document ends where its piece does


def test_rows_are_a_pure_function_of_their_number_and_the_seed(split):
    order = order_of(split)
    straight = order.rows(0, 3 * order.packing.num_rows)
    fresh = order_of(split)
    assert (fresh.rows(70, 3).ids == straight.ids[70:73]).all()
    assert not (order_of(split, seed=2).rows(0, 9).ids == straight.ids[:9]).all()


def test_nothing_to_pack_is_an_error(tmp_path):
    write_index(tmp_path, {"train": []}, tokenizer="", vocabulary=9, domains=["x"])
    with pytest.raises(DataError, match="no training tokens"):
        order_of(TokenData(tmp_path).split("train"))
