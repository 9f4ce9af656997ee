"""Tokens that change on the disk after they were opened are never used: they are found when they are met."""

import random
import shutil

import numpy as np
import pytest

from chatwright.foundation.errors import ExitCode, RefusedError
from chatwright.tokens.blocks import _BLOCK_BYTES, CheckedTokens, digest_blocks
from chatwright.tokens.shards import ShardWriter, TokenData, write_index

LENGTH = 40_000  # of two bytes: five blocks


@pytest.fixture
def shards(tmp_path):
    """Two shards of drawn ids, and what they hold."""
    entries, held = [], []
    for number in range(2):
        ids = np.random.default_rng(number).integers(1, 60_000, size=LENGTH - 1).tolist()
        writer = ShardWriter(vocabulary_size=60_000, end_of_text=0)
        writer.add(ids, domain=0, num_bytes=1)
        entries.append(writer.save(tmp_path / f"train-{number:05d}"))
        held += [*ids, 0]
    write_index(tmp_path, {"train": entries}, tokenizer="t", vocabulary=60_000, domains=["d"])
    return tmp_path, np.array(held)


def test_every_stretch_is_what_was_written(shards):
    directory, held = shards
    split, chance = TokenData(directory).split("train"), random.Random(2)
    for _ in range(200):
        start = chance.randrange(len(held))
        length = chance.randrange(min(len(held) - start, 20_000) + 1)
        assert np.array_equal(split.slice(start, length), held[start : start + length])


def test_a_change_after_opening_is_found_by_every_read_that_meets_it_and_by_no_other(shards):
    directory, held = shards
    path, chance = directory / "train-00001.tokens.npy", random.Random(3)
    sound = path.read_bytes()
    found = 0
    for _ in range(120):
        split = TokenData(directory).split("train")
        damaged = bytearray(sound)
        place = chance.randrange(128, len(sound))
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        position = LENGTH + (place - 128) // 2  # in the stream of both shards
        with pytest.raises(RefusedError, match="block") as caught:
            split.slice(position, 1)
        assert caught.value.exit_code == ExitCode.REFUSED
        assert path.name in caught.value.what
        first, last = (int(word) for word in caught.value.what.split("tokens ")[1].split(":")[0].split(" to "))
        assert first <= position - LENGTH <= last
        found += 1
        other = (position + 2 * _BLOCK_BYTES) % (2 * LENGTH - 9)
        if abs(other - position) > _BLOCK_BYTES:
            assert np.array_equal(split.slice(other, 8), held[other : other + 8])
        path.write_bytes(sound)
    assert found == 120


def cut(path):
    path.write_bytes(path.read_bytes()[:20_000])


def exchange(path):
    shutil.copy(path.with_name("train-00000.tokens.npy"), path)


@pytest.mark.parametrize("act", [cut, exchange, lambda path: path.unlink()], ids=["cut", "exchanged", "gone"])
def test_a_shard_that_is_cut_exchanged_or_gone_after_opening_is_refused_and_nothing_crashes(shards, act):
    directory, _ = shards
    split = TokenData(directory).split("train")
    act(directory / "train-00001.tokens.npy")
    with pytest.raises(RefusedError, match="while it was in use"):
        split.slice(2 * LENGTH - 20, 20)
    assert len(split.slice(0, 100)) == 100


def test_a_damaged_shard_is_left_out_and_counted_where_that_is_asked_for(shards, capsys):
    directory, held = shards
    path = directory / "train-00000.ends.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RefusedError, match=path.name):
        TokenData(directory).split("train")
    split = TokenData(directory).split("train", skip_damaged=True)
    (one,) = split.left_out
    assert (one.shard, one.tokens, one.documents) == ("train-00000", LENGTH, 1)
    assert path.name in one.reason
    assert "left out: 40,000 tokens of 1 documents" in capsys.readouterr().err
    assert np.array_equal(split.slice(0, len(split)), held[LENGTH:])


def test_a_whole_split_leaves_nothing_out(shards):
    assert TokenData(shards[0]).split("train", skip_damaged=True).left_out == []


def test_an_empty_stretch_reads_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"")
    noted = digest_blocks(path)
    assert len(noted.blocks) == 0
    assert len(CheckedTokens(path, noted.blocks, dtype=np.dtype("<u2"), length=0, offset=0)[0:5]) == 0
