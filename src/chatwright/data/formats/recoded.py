"""A stream of text as UTF-8, whatever it is in: told once, from what it begins with.

For formats that are read line by line. What fits in memory is `decode`'s alone, which looks at the whole text.
"""

import codecs
import io
from collections.abc import Iterator
from typing import IO, Any

from chatwright.data import limits
from chatwright.data.decode import Foreign, foreign_encoding
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable


def in_utf8(file: IO[bytes], tally: Tally) -> io.BufferedReader:
    """The same text as UTF-8, a byte order mark as that of UTF-8; the bytes as they are where they seem to be UTF-8.

    Reading it raises `Unreadable` where reading the file does, behind everything that came before.

    Args:
        file: the unpacked stream.
        tally: counts an encoding that was guessed, and places that could not be decoded.
    """
    return io.BufferedReader(_Blocks(_utf8_blocks(file, tally)), limits.MIB)


def _utf8_blocks(file: IO[bytes], tally: Tally) -> Iterator[bytes]:
    blocks = _beginning_first(file)
    head = next(blocks)
    foreign = foreign_encoding(head)
    if foreign is None:
        yield head
        yield from blocks
        return
    if foreign.is_guess:
        tally.change("encoding_detected")
    for text in _decoded(head, blocks, foreign):
        damage = text.count("\N{REPLACEMENT CHARACTER}")
        if damage:
            tally.change("undecodable_replaced", damage)
        yield text.encode("utf-8", "replace")


def _beginning_first(file: IO[bytes]) -> Iterator[bytes]:
    """The file's bytes, at first as many as an encoding is told by."""
    # One piece at a time: a call that waits for more would lose to a cut what it has already.
    read = getattr(file, "read1", file.read)
    head = b""
    verdict: Unreadable | None = None
    try:
        while len(head) < limits.ENCODING_SAMPLE_BYTES and (block := read(limits.ENCODING_SAMPLE_BYTES)):
            head += block
    except Unreadable as caught:
        verdict = caught
    yield head
    if verdict is not None:
        raise verdict
    while block := read(limits.MIB):
        yield block


def _decoded(head: bytes, blocks: Iterator[bytes], foreign: Foreign) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(foreign.encoding)("replace")
    yield decoder.decode(head)
    for block in blocks:
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


class _Blocks(io.RawIOBase):
    """What a generator gives, as a stream."""

    def __init__(self, blocks: Iterator[bytes]):
        self._blocks = blocks
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes, 0 at the end."""
        while not self._left:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._left = memoryview(block)
        view = memoryview(buffer).cast("B")
        size = min(len(view), len(self._left))
        view[:size] = self._left[:size]
        self._left = self._left[size:]
        return size
