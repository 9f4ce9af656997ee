"""A stream of text in pieces, each some hundred kilobytes of whole paragraphs: for files that hold many texts.

Where a piece ends depends on the bytes alone, never on how many of them were read at once.
"""

import re
from collections.abc import Iterator
from typing import IO, NamedTuple

from chatwright.data import limits

_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")


class Pieces(NamedTuple):
    """Pieces of a file that follow each other."""

    offset: int  # of the first one's first byte
    bytes: int
    first: int  # number in the file, from 1, of the first one that is not left out


def text_pieces(file: IO[bytes], *, size: int = 1 << 62) -> Iterator[bytes]:
    """Pieces that end with a blank line, and together are the text; those of nothing but white space are left out.

    Where no blank line comes within `limits.MAX_TEXT_PIECE_BYTES`, a piece ends with the last line before that, or the
    last word, or the last whole letter of UTF-8.

    Args:
        file: stands where a piece begins.
        size: the pieces within so many bytes are meant, as `Pieces` has them.
    """
    left = size
    for piece in _cut(file):
        if not piece.isspace():
            yield piece
        left -= len(piece)
        if left <= 0:
            return


def pieces_in_parts(file: IO[bytes], *, max_bytes: int) -> Iterator[Pieces]:
    """A file as parts of whole pieces, each ending with the first piece that reaches `max_bytes`; reads it once."""
    offset, size, first, number = 0, 0, 1, 0
    for piece in _cut(file):
        size += len(piece)
        number += not piece.isspace()
        if size >= max_bytes:
            yield Pieces(offset, size, first)
            offset, size, first, number = offset + size, 0, first + number, 0
    if size:
        yield Pieces(offset, size, first)


def _cut(file: IO[bytes]) -> Iterator[bytes]:
    """All pieces."""
    # One block at a time: a call that waits for more would lose to a cut what it has already.
    read = getattr(file, "read1", file.read)
    rest = b""
    while data := read(limits.MIB):
        rest += data
        begin = 0
        while (end := _end_of_piece(rest, begin)) is not None:
            yield rest[begin:end]
            begin = end
        rest = rest[begin:]
    if rest:
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
