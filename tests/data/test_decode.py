import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatwright.data import charsets, limits
from chatwright.data.decode import Decoded, decode_as_declared, decode_html, decode_text, sound_text

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


@pytest.mark.parametrize("place", [0, 100, 200_000])
def test_one_bad_byte_costs_one_letter_of_utf8_wherever_it_lies(place):
    whole = RUSSIAN * 400
    decoded = decode_text(whole[:place].encode() + b"\xff" + whole[place:].encode())
    assert decoded.text == f"{whole[:place]}\N{REPLACEMENT CHARACTER}{whole[place:]}"
    assert decoded.changes == {"undecodable_replaced": 1}


def test_an_english_text_with_one_bad_byte_keeps_its_few_quotes():
    decoded = decode_text("“Plain” words – and ‘others’ ".encode() * 2 + b"caf\xe9 " + b"more words " * 20)
    assert decoded.text.startswith("“Plain” words – and ‘others’ ")
    assert decoded.changes == {"undecodable_replaced": 1}


def test_a_replacement_character_that_stood_there_is_no_damage():
    decoded = decode_text("Уже \N{REPLACEMENT CHARACTER} было. ".encode() + b"\xff")
    assert decoded.changes == {"undecodable_replaced": 1}


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r", "cp866"])
@pytest.mark.parametrize("odd_lines", [1, 3, 9])
def test_of_mixed_encodings_each_line_is_read_by_itself(encoding, odd_lines):
    sound, odd = "Широкая электрификация южных губерний даст мощный толчок.\n", RUSSIAN[:400].strip() + "\n"
    decoded = decode_text(sound.encode() * 5 + odd.encode(encoding) * odd_lines + sound.encode() * 3)
    assert decoded.text == sound * 5 + odd * odd_lines + sound * 3
    assert decoded.changes == {"encoding_detected": 1}


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("gb18030", "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。寒来暑往，秋收冬藏。\n"),
        ("shift_jis", "いろはにほへと　ちりぬるを　わかよたれそ　つねならむ\n"),
        ("euc_kr", "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.\n"),
        ("cp1252", "Voix ambiguë d'un cœur qui, au zéphyr, préfère les jattes de kiwis. Où êtes-vous passé\xa0?\n"),
        ("cp1251", RUSSIAN + "\n"),
    ],
)
@pytest.mark.parametrize("times", [1, 8])
def test_no_other_encoding_is_taken_for_damaged_utf8(encoding, text, times):
    decoded = decode_text((text * times).encode(encoding))
    assert "\N{REPLACEMENT CHARACTER}" not in decoded.text
    assert decoded.changes == {"encoding_detected": 1}


def test_the_sample_of_a_guess_ends_at_a_letters_border():
    line = "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。寒来暑往，秋收冬藏。云腾致雨，露结为霜。"
    text = "甲" + ("\n" + line) * (limits.ENCODING_SAMPLE_BYTES // len(line.encode("gb18030")) + 9)
    decoded = [decode_text(("x" * shift + text).encode("gb18030")) for shift in range(2)]
    assert [one.text == "x" * shift + text for shift, one in enumerate(decoded)] == [True, True]


def test_a_page_with_one_bad_byte_stays_utf8():
    page = "<p>" + RUSSIAN
    decoded = decode_html(page.encode() + b"\xff" + page.encode())
    assert decoded.text == f"{page}\N{REPLACEMENT CHARACTER}{page}"
    assert decoded.changes == {"undecodable_replaced": 1}


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


@pytest.mark.parametrize(
    ("text", "encoding", "charset"),
    [
        (RUSSIAN, "cp1251", "Windows-1251"),
        ("“café”", "cp1252", '"iso-8859-1"'),
        ("天地玄黄，宇宙洪荒。", "gbk", "gb2312"),
        ("いろはにほへと", "cp932", "shift_jis"),
        ("いろはにほへと", "iso2022_jp", "iso-2022-jp"),  # in ASCII alone, so that it is sound UTF-8 too
        ("모든 인간은", "cp949", "ks_c_5601-1987"),
        (f"<p>{RUSSIAN}", "utf-16-le", "utf-16"),
        ("ภาษาไทย", "cp874", "tis-620"),
    ],
)
def test_a_charset_that_fits_is_believed(text, encoding, charset):
    decoded = decode_as_declared(text.encode(encoding), f"text/html; charset={charset}; x=y", otherwise=nothing)
    assert decoded == (text, {})


def nothing(data):
    """What stands for statistics where they must not be asked."""
    raise AssertionError(data)


@pytest.mark.parametrize(
    ("data", "charset"),
    [
        (RUSSIAN.encode(), "iso-8859-1"),
        (RUSSIAN.encode("utf-16"), "windows-1251"),
        (RUSSIAN.encode("cp1251"), "utf-16"),
        (RUSSIAN.encode("cp1251"), "utf-8"),
        (b"caf\xe9 \x81", "latin1"),
        (b"caf\xe9", "punycode"),
        (b"caf\xe9", ""),
    ],
)
def test_a_charset_that_does_not_fit_is_not_believed(data, charset):
    told = Decoded("as statistics say", {})
    assert decode_as_declared(data, f"text/html; charset={charset}", otherwise=lambda _: told) is told


def test_every_charset_of_the_table_is_a_codec_that_reads_a_megabyte():
    """One that takes time with the square of the text would not come back."""
    data = bytes(range(0x20, 0x7F)) * 11_000
    for codec in set(charsets._CODECS.values()):
        assert len(data.decode(codec, "replace")) >= len(data) / 2
    assert len(charsets._CODECS) == sum(len(labels.split()) for labels in charsets._LABELS.values())
