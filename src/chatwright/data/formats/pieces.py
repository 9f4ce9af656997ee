"""A stream of text in pieces, each some hundred kilobytes of whole paragraphs: for files that hold many texts.

Where a piece ends depends on the bytes alone, never on how many of them were read at once.
"""

import io
import re
from collections.abc import Iterator

from chatwright.data import limits

_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")


def text_pieces(file: io.BufferedReader) -> Iterator[bytes]:
    """Pieces that end with a blank line, and together are the text; those of nothing but white space are left out.

    Where no blank line comes within `limits.MAX_TEXT_PIECE_BYTES`, a piece ends with the last line before that, or the
    last word, or the last whole letter of UTF-8.
    """
    rest = b""
    while data := file.read1(limits.MIB):
        rest += data
        begin = 0
        while (end := _end_of_piece(rest, begin)) is not None:
            if not rest[begin:end].isspace():
                yield rest[begin:end]
            begin = end
        rest = rest[begin:]
    if rest.strip():
        yield rest


def _end_of_piece(data: bytes, begin: int) -> int | None:
    """Where the piece that begins there ends; None if more must be read to know."""
    last = begin + limits.MAX_TEXT_PIECE_BYTES
    blank = _BLANK_LINE.search(data, begin + limits.TEXT_PIECE_BYTES, last)
    if blank:
        return blank.end()
    if len(data) <= last:
        return None
    for mark in (b"\n", b"\r", b" "):
        end = data.rfind(mark, begin, last) + 1
        if end > begin:
            return end
    return next(end for end in range(last, last - 4, -1) if data[end] & 0xC0 != 0x80 or end == last - 3)
