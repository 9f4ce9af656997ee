"""Bytes from outside into sound Unicode, with what had to be guessed or replaced said and counted.

Not for repairing text that was decoded wrongly before it came here: that is `normalise`.
"""

import re
from typing import NamedTuple

from chatwright.data import limits

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


class Decoded(NamedTuple):
    """Text and what was done to get it: names of changes with the number of places."""

    text: str
    changes: dict[str, int]


def decode_text(data: bytes) -> Decoded | None:
    """UTF-8 if it is, else what its byte order mark or statistics say; None if it is not text.

    Unlike a plain `errors="replace"`, every place that could not be decoded is counted.
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
        return _guess(data)


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
        return _decode_as(data, detect_encoding(data, from_html_meta=True) or "utf-8", guessed=True)


def sound_text(text: str) -> Decoded:
    """Replace lone surrogates, which no file of ours can hold (JSON's escapes can make them)."""
    if text.isascii():
        return Decoded(text, {})
    sound, count = _SURROGATE.subn("\N{REPLACEMENT CHARACTER}", text)
    return Decoded(sound, {"surrogates_replaced": count} if count else {})


def _guess(data: bytes) -> Decoded | None:
    from charset_normalizer import from_bytes

    # The sample begins at the first odd byte: plain ASCII before it says nothing about an encoding.
    start = next((match.start() for match in [re.search(rb"[\x80-\xff]", data)] if match), 0)
    start = max(0, start - limits.KIB)
    best = from_bytes(data[start : start + limits.ENCODING_SAMPLE_BYTES]).best()
    return _decode_as(data, best.encoding, guessed=True) if best else None


def _decode_as(data: bytes, encoding: str, *, guessed: bool) -> Decoded | None:
    try:
        text = data.decode(encoding, "replace")
    except LookupError:
        return None
    changes = {"encoding_detected": 1} if guessed else {}
    damage = text.count("\N{REPLACEMENT CHARACTER}")
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
