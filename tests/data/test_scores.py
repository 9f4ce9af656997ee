"""Scores are what their sources define, on texts where they can be counted by hand."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatwright.data.scores import _factor_length, flesch, mtld, score, syllable_count

WORDS = {"the": 1, "cake": 1, "table": 2, "harbour": 2, "reading": 2, "Apple": 2, "whole": 1, "since": 1, "b": 0, "": 0}


@pytest.mark.parametrize(("word", "count"), WORDS.items())
def test_syllables_are_runs_of_vowels_without_a_silent_e(word, count):
    assert syllable_count(word) == count
    assert syllable_count(f"{word} {word}") == 2 * count


def test_reading_ease_is_flesch_s_formula():
    text = "The cat sat on the mat. The dog ran."
    assert flesch(text, num_words=9) == pytest.approx(206.835 - 1.015 * 9 / 2 - 84.6 * 9 / 9)


def test_long_words_read_harder_than_short_ones():
    hard = "Incomprehensible administrative recapitulation necessitates considerable deliberation."
    assert flesch(hard, num_words=6) < 0 < flesch("We go to the sea and we see a boat.", num_words=10)


def test_diversity_of_one_word_again_and_again_is_two():
    assert mtld(["tide"] * 100) == pytest.approx(2.0)


def test_diversity_of_words_that_never_repeat_is_their_number():
    assert mtld([f"w{n}" for n in range(50)]) == 50


def test_diversity_counts_factors_forwards_and_backwards():
    # Forwards: a b a a -> 3/4 is above 0.72, so the fifth word ends the factor at 2/5.
    assert mtld(list("abaab")) == pytest.approx((5 / 1 + 5 / 1) / 2)


def test_scores_of_a_text_are_stored_together():
    text = "The tide comes in. " * 40
    found = score(text, text.split())
    assert found.characters == len(text)
    assert found.compression == pytest.approx(len(text) / len(zlib.compress(text.encode(), 1)), abs=1e-3)
    assert found.flesch > 90
    assert found.mtld < 10
    assert score("", []) == (0, 0.0, 0.0, 0.0)


def factor_length_word_by_word(words):
    """The definition of MTLD as it is written: the share is looked at after every word."""
    factors, seen, count = 0.0, set(), 0
    for word in words:
        seen.add(word)
        count += 1
        if len(seen) <= 0.72 * count:
            factors += 1
            seen.clear()
            count = 0
    if count:
        factors += (1 - len(seen) / count) / (1 - 0.72)
    return len(words) / factors if factors else float(len(words))


@given(st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), min_size=1, max_size=300))
def test_taking_many_words_at_once_gives_the_same_factors(words):
    assert _factor_length(words) == factor_length_word_by_word(words)
