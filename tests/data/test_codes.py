"""Where the classes of characters show no damage, ftfy's own test finds none."""

from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from hypothesis import example, given
from hypothesis import strategies as st

from chatwright.data.codes import LETTER, SPACE, WORD, _expand, codes_of, damaged_places, kinds_of

ODD = sorted(
    {code for members in MOJIBAKE_CATEGORIES.values() for code in _expand(members)}
    | set(map(ord, "ÂÃÎÐØÙà√≈‚×²³вЂВГРСβ€ā°™½"))
)
CHARACTERS = st.sampled_from([chr(code) for code in ODD]) | st.sampled_from(" aeZ.,?!°") | st.characters(codec="utf-8")


@given(st.text(CHARACTERS, max_size=8))
@example("Ã©tÃ©")
@example("cœ r")
@example("a Â b")
def test_what_is_passed_over_is_sound_to_ftfy(text):
    if is_bad(text):
        assert len(damaged_places(kinds_of(codes_of(text))))


@given(st.text())
def test_kinds_are_what_python_says_of_a_character(text):
    for character, kind in zip(text, kinds_of(codes_of(text)).tolist(), strict=True):
        if ord(character) < 0x10000:
            assert bool(kind & SPACE) == character.isspace()
            assert bool(kind & WORD) == (character.isalnum() or character == "_")
            assert not kind & LETTER or kind & WORD
