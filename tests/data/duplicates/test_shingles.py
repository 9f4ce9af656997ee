"""Words and shingles as hashes: equal where the words are, whatever stands around them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatwright.data.duplicates import shingles as module
from chatwright.data.duplicates.shingles import jaccard, shingles, word_hashes


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("The tide, the QUAY.", "the  tide\nthe quay"),
        ("“Nobody” — says… much", "nobody says much"),
        ("naïve Straße", "NAÏVE straße!"),
        ("", " .,;!\n"),
        ("x" * 200 + " y", "X" * 200 + "-y"),
    ],
)
def test_case_and_punctuation_make_no_other_word(first, second):
    assert word_hashes(first).tolist() == word_hashes(second).tolist()


@pytest.mark.parametrize(
    ("text", "count"),
    [("one two-three", 3), ("x1 y_2", 2), ("漁港の朝", 4), ("เช้า", 4), ("한국어 말", 4), ("été à l'île", 4), ("", 0)],
)
def test_words_are_counted_as_a_reader_would(text, count):
    assert len(word_hashes(text)) == count


def test_a_word_has_the_same_hash_wherever_it_stands(monkeypatch):
    text = "the harbour wakes before the town does, " * 50
    whole = word_hashes(text)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 64)
    module._powers.cache_clear()
    try:
        assert word_hashes(text).tolist() == whole.tolist()
    finally:
        monkeypatch.undo()
        module._powers.cache_clear()
    assert len(set(whole.tolist())) == 6


@given(st.lists(st.text(alphabet="abc", min_size=1, max_size=3), max_size=30))
def test_hashes_are_equal_exactly_where_words_are(words):
    hashes = word_hashes(" ".join(words)).tolist()
    assert len(hashes) == len(words)
    assert all((hashes[i] == hashes[j]) == (words[i] == words[j]) for i in range(len(words)) for j in range(i))


def test_anagrams_and_orders_differ():
    assert word_hashes("abc")[0] != word_hashes("bca")[0]
    assert shingles(word_hashes("one two"), size=2)[0] != shingles(word_hashes("two one"), size=2)[0]


@pytest.mark.parametrize(("words", "size", "count"), [(9, 5, 5), (5, 5, 1), (3, 5, 1), (0, 5, 0)])
def test_a_text_has_a_shingle_a_place_and_a_short_one_a_single_one(words, size, count):
    assert len(shingles(np.arange(words, dtype=np.uint64), size=size)) == count


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_similarity_is_that_of_sets(first, second):
    arrays = [np.array(sorted(items), dtype=np.uint64) for items in (first, second)]
    expected = len(first & second) / len(first | second) if first and second else 0.0
    assert jaccard(*arrays) == expected
