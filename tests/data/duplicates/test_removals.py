"""Copies are followed to the document that stays, over any number of steps."""

import pytest

from chatwright.data.duplicates.removals import FILE, Removals, RemovedCopy, write_removals
from chatwright.foundation.errors import RefusedError

CHAIN = [
    RemovedCopy("b", "a", "exact_duplicate", 1.0),
    RemovedCopy("a", "lead", "near_duplicate", 0.9),
    RemovedCopy("c", "lead", "near_duplicate_across_splits", 0.8),
    RemovedCopy("x", "other", "exact_duplicate", 1.0),
]


def test_a_copy_of_a_copy_is_followed_to_what_stays(tmp_path):
    write_removals(CHAIN, tmp_path)
    removals = Removals(tmp_path)
    assert removals.stands_for("b") == ("lead", "near_duplicate", 0.9)
    assert removals.stands_for("x") == ("other", "exact_duplicate", 1.0)
    assert removals.stands_for("lead") is None
    assert removals.of("lead") == {
        "a": ("lead", "near_duplicate", 0.9),
        "b": ("lead", "near_duplicate", 0.9),
        "c": ("lead", "near_duplicate_across_splits", 0.8),
    }


def test_a_file_that_two_sources_name_is_a_copy_of_itself_and_ends_the_search(tmp_path):
    write_removals([RemovedCopy("a", "a", "exact_duplicate", 1.0)], tmp_path)
    assert Removals(tmp_path).stands_for("a") == ("a", "exact_duplicate", 1.0)
    assert Removals(tmp_path).of("a") == {}


def test_without_copies_there_is_no_file_and_an_older_one_goes(tmp_path):
    write_removals(CHAIN, tmp_path)
    write_removals([], tmp_path)
    assert not (tmp_path / FILE).exists()
    assert Removals(tmp_path).stands_for("a") is None


def test_a_damaged_file_is_refused_with_its_name(tmp_path):
    (tmp_path / FILE).write_bytes(b"no")
    with pytest.raises(RefusedError, match="copies"):
        Removals(tmp_path)
