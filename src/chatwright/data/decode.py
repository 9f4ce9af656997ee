"""Bytes from outside into sound Unicode, with what had to be guessed or replaced said and counted.

Not for repairing text that was decoded wrongly before it came here: that is `normalise`.
"""

import io
import re
from collections.abc import Callable
from typing import NamedTuple

from chatwright.data import limits
from chatwright.data.charsets import ISO_2022_JP, codec_in

_BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_BINARY_NUL_SHARE = 0.1
_UTF16_NUL_SHARE = 0.2
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_HIGH = bytes(range(0x80, 0x100))
# Sound multi-byte sequences of UTF-8 come about by chance in few of the letters of other encodings: damage that is a
# quarter of them at most is damage, not another encoding.
_DAMAGE_SHARE = 0.25
_LINE_SEQUENCES = 4  # sound sequences of a line from which it is no chance that it reads as UTF-8
_MIXED_SHARE = 0.1  # of all bytes beyond ASCII that must stand in such lines
_GUESSABLE_BYTES = 32  # beyond ASCII: of fewer, statistics tell no encoding


class Decoded(NamedTuple):
    """Text and what was done to get it: names of changes with the number of places."""

    text: str
    changes: dict[str, int]


class Foreign(NamedTuple):
    """An encoding other than UTF-8."""

    encoding: str
    is_guess: bool  # told by statistics, not by a mark


def decode_text(data: bytes) -> Decoded | None:
    """UTF-8 if it is or was meant to be, else what its byte order mark or statistics say; None if it is not text.

    Unlike a plain `errors="replace"`, every place that could not be decoded is counted. Of a file that mixes UTF-8
    with another encoding, each line is read by itself.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return _decode_as(data[len(mark) :], encoding, guessed=False)
    wide = _wide_encoding(data)
    if wide:
        return _decode_as(data, wide, guessed=True)
    if data.count(0) > _BINARY_NUL_SHARE * len(data):
        return None
    try:
        return Decoded(data.decode(), {})
    except UnicodeDecodeError:
        return _by_lines(data) or _mended(data) or _guess(data)


def decode_html(data: bytes) -> Decoded | None:
    """Like `decode_text`, but a page's own `charset` is believed before statistics."""
    from resiliparse.parse.encoding import detect_encoding

    has_mark = any(data.startswith(mark) for mark, _ in _BOMS)
    if has_mark or _wide_encoding(data):
        return decode_text(data)
    try:
        return Decoded(data.decode(), {})
    except UnicodeDecodeError:
        if data.count(0) > _BINARY_NUL_SHARE * len(data):
            return None
        if mended := _mended(data):
            return mended
        return _decode_as(data, detect_encoding(data, from_html_meta=True) or "utf-8", guessed=True)


def decode_as_declared(
    data: bytes, content_type: str, *, otherwise: Callable[[bytes], Decoded | None]
) -> Decoded | None:
    """A body from a server: by its mark, UTF-8 if it is, what the server says it is if that fits, else as `otherwise`.

    Sound UTF-8 goes before the header, which is often wrong; but ISO-2022-JP is written in ASCII, and the bytes of
    UTF-16 are often sound UTF-8 with NULs.

    Args:
        data: the body.
        content_type: the header of that name; of its charsets those of `charsets` are known.
        otherwise: `decode_html` or `decode_text`.
    """
    codec = codec_in(content_type)
    is_marked = any(data.startswith(mark) for mark, _ in _BOMS)
    is_wide = codec is not None and codec.startswith("utf_16")
    if codec is None or is_marked or (b"\0" in data) != is_wide:
        return otherwise(data)
    is_odd = is_wide or (codec == ISO_2022_JP and b"\x1b" in data)
    if not is_odd and _is_utf8(data):
        return otherwise(data)
    try:
        return Decoded(data.decode(codec), {})
    except UnicodeDecodeError:
        return otherwise(data)


def foreign_encoding(head: bytes) -> Foreign | None:
    """What a stream of lines is in, by what it begins with; None where that is UTF-8, or too little to tell.

    Statistics are asked only where most of the lines beyond ASCII are no UTF-8: a few such lines are damage.
    """
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return None if encoding == "utf-8" else Foreign(encoding, is_guess=False)
    if wide := _wide_encoding(head):
        return Foreign(wide, is_guess=True)
    lines = [line for line in io.BytesIO(head) if not line.isascii()]
    odd = [line for line in lines if _mended(line) is None]
    sample = b"".join(odd)
    is_binary = head.count(0) > _BINARY_NUL_SHARE * len(head)
    if is_binary or len(odd) <= len(lines) / 2 or len(sample) - _num_ascii(sample) < _GUESSABLE_BYTES:
        return None
    guess = _encoding_of(sample)
    return None if guess is None else Foreign(guess, is_guess=True)


def sound_text(text: str) -> Decoded:
    """Replace lone surrogates, which no file of ours can hold (JSON's escapes can make them)."""
    if text.isascii():
        return Decoded(text, {})
    sound, count = _SURROGATE.subn(_REPLACEMENT, text)
    return Decoded(sound, {"surrogates_replaced": count} if count else {})


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _mended(data: bytes) -> Decoded | None:
    """UTF-8 with its damage replaced and counted; None where too much of it is damage for UTF-8."""
    text = data.decode("utf-8", "replace")
    damage = text.count(_REPLACEMENT) - data.count(_REPLACEMENT.encode())
    if damage > _DAMAGE_SHARE * (len(text) - _num_ascii(data) - damage):
        return None
    return Decoded(text, {"undecodable_replaced": damage} if damage else {})


def _by_lines(data: bytes) -> Decoded | None:
    """UTF-8 with lines of another encoding between; None if it is not such a mixture.

    The odd lines count as of one encoding: what statistics say of the first of them, as many as a sample holds.
    """
    odd = bytearray()
    in_utf8 = beyond_ascii = 0
    for line in io.BytesIO(data):
        if line.isascii():
            continue
        beyond_ascii += len(line) - _num_ascii(line)
        mended = _mended(line)
        if mended is None:
            if len(odd) < limits.ENCODING_SAMPLE_BYTES:
                odd += line
        elif len(mended.text) - _num_ascii(line) >= _LINE_SEQUENCES:
            in_utf8 += len(line) - _num_ascii(line)
    if in_utf8 < _MIXED_SHARE * beyond_ascii or len(odd) - _num_ascii(odd) < _GUESSABLE_BYTES:
        return None
    encoding = _encoding_of(bytes(odd))
    return _mixture(data, encoding) if encoding else None


def _mixture(data: bytes, encoding: str) -> Decoded:
    text = io.StringIO()
    damage = 0
    for line in io.BytesIO(data):
        decoded = _mended(line) or Decoded(line.decode(encoding, "replace"), {})
        text.write(decoded.text)
        if not line.isascii():
            damage += decoded.text.count(_REPLACEMENT)
    damage -= data.count(_REPLACEMENT.encode())
    return Decoded(text.getvalue(), {"encoding_detected": 1} | ({"undecodable_replaced": damage} if damage > 0 else {}))


def _num_ascii(data: bytes | bytearray) -> int:
    return len(data.translate(None, _HIGH))


def _guess(data: bytes) -> Decoded | None:
    encoding = _encoding_of(data)
    return _decode_as(data, encoding, guessed=True) if encoding else None


def _encoding_of(data: bytes) -> str | None:
    from charset_normalizer import from_bytes

    # The sample begins at the first odd byte: plain ASCII before it says nothing about an encoding. It ends behind
    # white space, which is a part of no letter in any encoding: half a letter would rule out the right one.
    start = next((match.start() for match in [re.search(rb"[\x80-\xff]", data)] if match), 0)
    start = max(0, start - limits.KIB)
    sample = data[start : start + limits.ENCODING_SAMPLE_BYTES]
    if start + len(sample) < len(data):
        end = max(sample.rfind(space) for space in (b"\n", b"\r", b" "))
        sample = sample[: end + 1] or sample
    best = from_bytes(sample).best()
    return best.encoding if best else None


def _decode_as(data: bytes, encoding: str, *, guessed: bool) -> Decoded | None:
    try:
        text = data.decode(encoding, "replace")
    except LookupError:
        return None
    changes = {"encoding_detected": 1} if guessed else {}
    damage = text.count(_REPLACEMENT)
    if damage:
        changes["undecodable_replaced"] = damage
    return Decoded(text, changes)


def _wide_encoding(data: bytes) -> str | None:
    """UTF-16 without its mark shows as NUL in every other byte of Latin text."""
    sample = data[: limits.ENCODING_SAMPLE_BYTES]
    if len(sample) < 4 or b"\0" not in sample:
        return None
    half = len(sample) / 2
    even, odd = sample[0::2].count(0) / half, sample[1::2].count(0) / half
    if odd > _UTF16_NUL_SHARE and even < odd / 10:
        return "utf-16-le"
    if even > _UTF16_NUL_SHARE and odd < even / 10:
        return "utf-16-be"
    return None
