import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatwright.data import normalise as module
from chatwright.data.normalise import normalise, strip_punctuation

# Characters that meet each other's rules: damage, joiners, marks, bidi, newlines, controls.
TRICKY = st.text(
    st.sampled_from("aé \n\r\t\0\x85\u00a0\u0301\u0327\u200b\u200c\u200d\u202e\ufeff\u2028Ã©â€™œ\x80\x99가한")
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(TRICKY, st.text(st.characters(exclude_categories=["Cs"]))))
def test_normalising_twice_changes_nothing(text):
    once = normalise(text).text
    assert normalise(once).text == once


@settings(deadline=None)
@given(TRICKY)
def test_what_is_left_is_composed_and_visible(text):
    result = normalise(text).text
    assert unicodedata.is_normalized("NFC", result)
    assert not set(result) & set("\0\r\x85\u200b\u202e\ufeff\u2028")


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=126, min_codepoint=32)))
def test_plain_ascii_keeps_all_but_outer_spaces(text):
    result = normalise(text)
    assert result.text == text.rstrip()
    assert result.changes == {}


def test_wrong_decoding_is_repaired_in_its_line_only():
    result = normalise("It doesnâ€™t hurt.\nCafé Ångström stays.")
    assert result.text == "It doesn’t hurt.\nCafé Ångström stays."
    assert result.changes["encoding_repaired"] == 1


def test_repair_can_be_switched_off():
    assert normalise("doesnâ€™t", repair=False).text == "doesnâ€™t"


@pytest.mark.parametrize(
    ("text", "clean", "change"),
    [
        ("a\0b\x07c", "abc", "control_characters"),
        ("a\u200bb\ufeffc\U000e0041", "abc", "zero_width_characters"),
        ("a\u202eb\u2066c", "abc", "bidi_characters"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd", "newlines"),
        ("a\u00a0b\u2003c", "a b c", "spaces"),
        ("e\u0301", "é", "composed"),
        ("o" + "\u0335" * 99, "o" + "\u0335" * 30, "combining_marks_cut"),
    ],
)
def test_each_change_is_made_and_counted(text, clean, change):
    result = normalise(text)
    assert result.text == clean
    assert result.changes[change] >= 1


@pytest.mark.parametrize("text", ["👩\u200d🚀", "می\u200cخواهم", "क्\u200dष"])
def test_joiners_that_mean_something_stay(text):
    assert normalise(text).text == text


def test_blank_lines_and_trailing_spaces_shrink():
    assert normalise("\n\n a  \n\n\n\n\tb \n").text == " a\n\n\tb"


def test_punctuation_goes_and_symbols_stay():
    assert strip_punctuation("«Well», he said: 2 + 2 = 4!") == "Well he said 2 + 2 = 4"


WORST = {
    "marks": "a" + "\u0301\u0327" * 500_000,
    "short runs of marks": ("a" + "\u0301" * 30) * 32_000,
    "joiners": "\u200c" * 1_000_000,
    "joiners after letters": "é\u200c\u200d" * 330_000,
    "spaces": "x" + " " * 1_000_000 + "x",
    "newlines": "\n" * 1_000_000 + "x",
    "returns": "\r" * 1_000_000,
    "damage": "Ã©" * 500_000,
    "near damage": "Ã " * 500_000,
}


@pytest.mark.parametrize("name", sorted(WORST))
def test_each_pattern_takes_linear_time_on_its_worst_case(name):
    text = WORST[name]
    patterns = [module._NEWLINE, module._BLANK_LINES, module._SPACES, *module._INVISIBLE.values()]
    for pattern in [*patterns, module._long_combining_runs()]:
        began = time.process_time()
        pattern.sub("", text)
        assert time.process_time() - began < 1.0, pattern.pattern[:60]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WORST))
def test_a_megabyte_of_the_worst_is_normalised_in_seconds(name):
    began = time.process_time()
    normalise(WORST[name])
    assert time.process_time() - began < 5.0


def test_no_combining_mark_stands_where_none_is_looked_for():
    assert not any(unicodedata.combining(chr(code)) for code in range(0x20000, 0x110000))


@given(st.lists(st.sampled_from([*"ab \t\n\r\0\f", "  ", "\n\n\n", "\x1c", "\x7f"]), max_size=30).map("".join))
def test_one_round_is_enough_for_ascii(text):
    once = normalise(text).text
    assert normalise(once).text == once
    assert not set(once) - set("ab \t\n")
