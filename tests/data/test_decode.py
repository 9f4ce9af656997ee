import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatwright.data.decode import decode_html, decode_text, sound_text

RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 20


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200))
def test_utf8_is_read_as_it_is(text):
    decoded = decode_text(text.encode())
    assert decoded is not None
    assert decoded.text == text.removeprefix("\ufeff")
    assert decoded.changes == {}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_believed(encoding):
    assert decode_text(RUSSIAN.encode(encoding)).text == RUSSIAN


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_latin_utf16_without_its_mark_is_seen(encoding):
    decoded = decode_text("Plain words in wide bytes.".encode(encoding))
    assert decoded.text == "Plain words in wide bytes."
    assert decoded.changes == {"encoding_detected": 1}


def test_another_encoding_is_detected_and_counted():
    decoded = decode_text(RUSSIAN.encode("cp1251"))
    assert decoded.text == RUSSIAN
    assert decoded.changes["encoding_detected"] == 1


def test_an_odd_byte_far_into_the_file_is_seen():
    assert decode_text(b"plain words " * 50_000 + "café au lait à Besançon, déjà vu".encode("cp1252")) is not None


def test_binary_is_no_text():
    assert decode_text(bytes(range(256)) * 40 + b"\0\0\0\0" * 5_000) is None


def test_a_page_says_its_encoding_itself():
    page = '<html><head><meta charset="windows-1251"></head><body>Съешь</body></html>'
    assert "Съешь" in decode_html(page.encode("cp1251")).text


@settings(deadline=None)
@given(st.text(st.characters(), max_size=50))
def test_sound_text_can_always_be_encoded(text):
    sound = sound_text(text)
    sound.text.encode()
    surrogates = sum("\ud800" <= character <= "\udfff" for character in text)
    assert sound.changes.get("surrogates_replaced", 0) == surrogates
