"""Token shards give back what was written, across files, and no damaged one is read."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatwright.foundation.errors import ExitCode, RefusedError, StorageFullError
from chatwright.tokens.shards import INDEX, ShardWriter, TokenData, total, write_index

DOMAINS = ["books", "web"]
END = 0


def write(directory: Path, shards: list[list[list[int]]], *, vocabulary: int = 400) -> TokenData:
    """`shards` holds documents, documents hold ids; the domain alternates, the bytes are three times the ids."""
    directory.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, documents in enumerate(shards):
        writer = ShardWriter(vocabulary_size=vocabulary, end_of_text=END)
        for index, ids in enumerate(documents):
            writer.add(ids, domain=index % 2, num_bytes=3 * len(ids))
        entries.append(writer.save(directory / f"train-{number:05d}"))
    write_index(directory, {"train": entries}, tokenizer="t" * 64, vocabulary=vocabulary, domains=DOMAINS)
    return TokenData(directory)


@pytest.fixture
def three(tmp_path):
    """A directory of three shards, the second of them empty."""
    write(tmp_path / "tokens", [[[1, 2, 3], [4]], [], [[5, 6], [], [7, 8, 9, 10]]])
    return tmp_path / "tokens"


STREAM = [1, 2, 3, END, 4, END, 5, 6, END, END, 7, 8, 9, 10, END]


def test_documents_come_back_with_domain_bytes_and_number(three):
    documents = list(TokenData(three).split("train").documents())
    assert [document.ids.tolist() for document in documents] == [[1, 2, 3], [4], [5, 6], [], [7, 8, 9, 10]]
    assert [document.domain for document in documents] == ["books", "web", "books", "web", "books"]
    assert [document.num_bytes for document in documents] == [9, 3, 6, 0, 12]
    assert [document.number for document in documents] == [0, 1, 2, 3, 4]


def test_every_slice_equals_that_of_the_whole_stream(three):
    split = TokenData(three).split("train")
    assert len(split) == len(STREAM)
    for start in range(len(STREAM) + 1):
        for stop in range(start, len(STREAM) + 1):
            taken = split.slice(start, stop - start)
            assert taken.dtype == np.int64
            assert taken.tolist() == STREAM[start:stop]


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 16), (15, 1), (3, -1)])
def test_a_slice_that_leaves_the_stream_is_an_error(three, start, length):
    with pytest.raises(IndexError, match=r"outside 0\.\.15"):
        TokenData(three).split("train").slice(start, length)


documents_of_shards = st.lists(st.lists(st.lists(st.integers(1, 399), max_size=8), max_size=4), max_size=4)


@settings(max_examples=12)  # each writes and syncs up to sixteen files
@given(documents_of_shards)
def test_any_documents_survive_a_round_trip(tmp_path_factory, shards):
    directory = tmp_path_factory.mktemp("tokens")
    split = write(directory, shards).split("train")
    read = [document.ids.tolist() for document in split.documents()]
    assert read == [ids for documents in shards for ids in documents]
    assert len(split) == sum(len(ids) + 1 for ids in read)


@pytest.mark.parametrize(("vocabulary", "width"), [(1 << 16, 2), ((1 << 16) + 1, 4)])
def test_ids_take_two_bytes_where_the_vocabulary_allows(tmp_path, vocabulary, width):
    data = write(tmp_path, [[[vocabulary - 1]]], vocabulary=vocabulary)
    array = np.load(tmp_path / "train-00000.tokens.npy")
    assert array.itemsize == width
    assert data.split("train").slice(0, 2).tolist() == [vocabulary - 1, END]


def test_a_split_that_was_not_written_is_empty(three):
    split = TokenData(three).split("heldout")
    assert len(split) == 0
    assert list(split.documents()) == []


def test_the_digest_of_a_split_tells_its_content_and_order(tmp_path):
    first = write(tmp_path / "a", [[[1]], [[2]]]).split("train").digest
    same = write(tmp_path / "b", [[[1]], [[2]]]).split("train").digest
    others = {
        write(tmp_path / f"c{n}", shards).split("train").digest for n, shards in enumerate([[[[2]], [[1]]], [[[1]]]])
    }
    assert first == same
    assert first not in others
    assert len(others) == 2


def test_the_index_sums_its_figures(three):
    entries = json.loads((three / INDEX).read_text())["splits"]["train"]
    assert total(entries, "tokens") == len(STREAM)
    assert total(entries, "documents") == 5
    assert total(entries, "bytes") == 30


def test_every_flipped_bit_and_every_cut_is_found_before_a_token_is_used(three):
    rng = random.Random(3)
    for path in sorted(three.glob("*.npy")):
        sound = path.read_bytes()
        for _ in range(12):
            damaged = bytearray(sound)
            place = rng.randrange(len(damaged))
            damaged[place] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged if rng.random() < 0.6 else sound[:place])
            with pytest.raises(RefusedError, match=path.name) as caught:
                TokenData(three).split("train")
            assert caught.value.exit_code == ExitCode.REFUSED
            assert "run again" in (caught.value.hint or "")
        path.write_bytes(sound)
    TokenData(three).split("train")


def test_a_missing_or_exchanged_shard_is_found(three):
    first, last = three / "train-00000.tokens.npy", three / "train-00002.tokens.npy"
    shutil.copy(first, three / "kept")
    shutil.copy(last, first)
    with pytest.raises(RefusedError, match=first.name):
        TokenData(three).split("train")
    first.unlink()
    with pytest.raises(RefusedError, match=first.name):
        TokenData(three).split("train")


def _indexed(three: Path, **changes) -> None:
    index = json.loads((three / INDEX).read_text())
    (three / INDEX).write_text(json.dumps({**index, **changes}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "other"}, "holds no chatwright tokens"),
        ({"version": 4}, "another version"),
        ({"version": "1"}, "another version"),
        ({"domains": None}, "damaged"),
        ({"vocabulary_size": "many"}, "damaged"),
        ({"splits": []}, "damaged"),
        ({"splits": {"train": [{}]}}, "damaged"),
        (
            {"splits": {"train": [{"stem": "../x", "tokens": 1, "documents": 1, "digests": {}, "digest": ""}]}},
            "outside",
        ),
    ],
)
def test_an_index_that_makes_no_sense_is_refused(three, changes, said):
    _indexed(three, **changes)
    with pytest.raises(RefusedError, match=said):
        TokenData(three)


def test_an_index_whose_counts_lie_is_refused_and_nothing_is_allocated(three):
    index = json.loads((three / INDEX).read_text())
    index["splits"]["train"][0]["tokens"] = 10**15
    (three / INDEX).write_text(json.dumps(index))
    with pytest.raises(RefusedError, match="its index says"):
        TokenData(three).split("train")


def test_a_directory_without_an_index_is_refused(tmp_path):
    with pytest.raises(RefusedError, match="is missing"):
        TokenData(tmp_path)


def test_a_full_disk_while_writing_a_shard_is_named(tiny_disk):
    writer = ShardWriter(vocabulary_size=400, end_of_text=END)
    writer.add([1] * 300_000, domain=0, num_bytes=1)
    with pytest.raises(StorageFullError, match="no space left"):
        writer.save(tiny_disk / "train-00000")
    assert list(tiny_disk.iterdir()) == []
