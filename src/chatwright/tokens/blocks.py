"""Tokens on disk that are checked when they are used, not only when they are opened: what changed meanwhile is refused.

A shard is compared with its SHA-256 once, when a split is opened; a training then reads it for weeks. In that first
pass each block's CRC-32 is noted (4 bytes for 16 KiB, in memory), and a read is compared with the notes of the blocks
that it touches. Plain reads, not a memory map: a map of a file that was cut ends the process with a bus error.
Guards against accidents, not against somebody who wants to be believed: that is what the SHA-256 is for.
"""

import hashlib
import os
import zlib
from array import array
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chatwright.foundation.errors import RefusedError

_BLOCK_BYTES = 16 << 10


class BlockDigests(NamedTuple):
    """What a pass over a file has noted."""

    sha256: str
    blocks: "array[int]"  # CRC-32 of each


def digest_blocks(path: Path) -> BlockDigests:
    """SHA-256 of a file's bytes, and what later reads are compared with."""
    whole, blocks = hashlib.sha256(), array("I")
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            whole.update(block)
            blocks.append(zlib.crc32(block))
    return BlockDigests(whole.hexdigest(), blocks)


class CheckedTokens:
    """The ids of one shard; every read is checked.

    Args:
        path: an NPY file that was sound when it was noted.
        blocks: the notes.
        dtype: of the ids.
        length: ids in all.
        offset: bytes before the first id.
    """

    def __init__(self, path: Path, blocks: "array[int]", *, dtype: np.dtype[Any], length: int, offset: int):
        self._path, self._blocks = path, blocks
        self._dtype, self._length, self._offset = dtype, length, offset
        self._recent: tuple[int, bytes] | None = None  # the last block read, for who reads in order

    def __len__(self) -> int:
        """Ids in all."""
        return self._length

    def __getitem__(self, wanted: slice) -> NDArray[Any]:
        """A stretch of ids.

        Raises:
            RefusedError: the file is no longer as it was when it was opened.
        """
        start, stop, _ = wanted.indices(self._length)
        if stop <= start:
            return np.empty(0, self._dtype)
        size = self._dtype.itemsize
        first, last = self._offset + start * size, self._offset + stop * size
        begin = first // _BLOCK_BYTES
        data = b"".join(self._block(number) for number in range(begin, (last - 1) // _BLOCK_BYTES + 1))
        skip = first - begin * _BLOCK_BYTES
        return np.frombuffer(data, self._dtype, count=stop - start, offset=skip)

    def _block(self, number: int) -> bytes:
        recent = self._recent
        if recent is not None and recent[0] == number:
            return recent[1]
        block = self._read(number)
        if zlib.crc32(block) != self._blocks[number]:
            raise self._changed(number, "its bytes differ")
        self._recent = (number, block)
        return block

    def _read(self, number: int) -> bytes:
        try:
            file = os.open(self._path, os.O_RDONLY)
            try:
                return os.pread(file, _BLOCK_BYTES, number * _BLOCK_BYTES)
            finally:
                os.close(file)
        except OSError as error:
            raise self._changed(number, str(error)) from error

    def _changed(self, number: int, how: str) -> RefusedError:
        size = self._dtype.itemsize
        first = max(0, (number * _BLOCK_BYTES - self._offset) // size)
        last = min(self._length, ((number + 1) * _BLOCK_BYTES - self._offset) // size) - 1
        return RefusedError(
            f"token shard `{self._path}` was damaged while it was in use: block {number} of {len(self._blocks)}, "
            f"tokens {first} to {last}: {how}",
            kept="what was saved before; none of these tokens was used",
            hint="put the file back as it was, and run the same command again",
        )
