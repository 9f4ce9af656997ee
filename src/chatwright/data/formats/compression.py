"""Compressed streams from outside: gz, bz2, xz and zst over any open binary file, in bounded memory.

What a file may give in all, whatever is packed within what, is a multiple of its stored size: its `Budget`.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any

import pyarrow as pa

from chatwright.data import limits
from chatwright.data.sandbox import Unreadable

_CHUNK_BYTES = 64 * limits.KIB
_KINDS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}


class Budget:
    """Bytes that unpacking one file may still give, over all its layers and members."""

    def __init__(self, stored_bytes: int):
        self._allowed = max(
            limits.COMPRESSION_FLOOR_BYTES,
            min(limits.MAX_UNPACKED_BYTES, stored_bytes * limits.MAX_COMPRESSION_RATIO),
            stored_bytes * limits.PLAUSIBLE_COMPRESSION_RATIO,
        )
        self._left = self._allowed

    def spend(self, size: int) -> None:
        """Count what was unpacked.

        Raises:
            Unreadable: `compression_ratio`.
        """
        self._left -= size
        if self._left < 0:
            raise Unreadable("compression_ratio", f"more than the {self._allowed} bytes that its stored size allows")


def compression_of(name: str) -> str:
    """The suffix of a name that says how the file is packed, empty for a plain one."""
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    return suffix if suffix in _KINDS else ""


def decompressed(file: IO[bytes], suffix: str, budget: Budget) -> IO[bytes]:
    """The unpacked stream of an open file; a plain file is given back as it is.

    Reading it raises `Unreadable` where the stream is damaged, cut or beyond its budget.

    Args:
        file: open for reading; need not seek. An `OSError` of its own would count as damage: see `formats.stored`.
        suffix: what `compression_of` gave.
        budget: of the file that all this stands in.
    """
    if not suffix:
        return file
    return io.BufferedReader(_Unpacked(file, _KINDS[suffix], budget), _CHUNK_BYTES)


class _Unpacked(io.RawIOBase):
    """Counts what a decompressor gives, and names what it raises."""

    def __init__(self, file: IO[bytes], kind: str, budget: Budget):
        self._file = file
        self._kind = kind
        self._budget = budget
        inner: Any = _OPENERS[kind](file)
        # One piece at a time: a call that waits for more would lose to a cut what it has already.
        self._read: Callable[[int], bytes] = getattr(inner, "read1", inner.read)

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next unpacked bytes."""
        view = memoryview(buffer).cast("B")
        try:
            data: bytes = self._read(min(len(view), _CHUNK_BYTES))
        except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
            raise Unreadable(f"damaged_{self._kind}", str(error)) from None
        self._budget.spend(len(data))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file below, too."""
        if not self.closed:
            self._file.close()
        super().close()


class _Xz:
    """xz streams one behind the other, with a limit on the decoder's memory, which `lzma.open` lacks."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._decoder = self._fresh()
        self._pending = b""

    def read(self, size: int) -> bytes:
        """At most `size` unpacked bytes, empty at the end."""
        while True:
            if self._decoder.eof:
                self._pending = (self._decoder.unused_data or self._file.read(_CHUNK_BYTES)).lstrip(b"\0")
                if not self._pending:
                    return b""
                self._decoder = self._fresh()
            elif self._decoder.needs_input and not self._pending:
                self._pending = self._file.read(_CHUNK_BYTES)
                if not self._pending:
                    raise EOFError("the stream ends before its end mark")
            data = self._decoder.decompress(self._pending, size)
            self._pending = b""
            if data:
                return data

    @staticmethod
    def _fresh() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=limits.MAX_XZ_MEMORY_BYTES)


_OPENERS: dict[str, Callable[[IO[bytes]], Any]] = {
    "gzip": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
    "bzip2": bz2.BZ2File,
    "xz": _Xz,
    "zstd": lambda file: pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"),  # windows up to 128 MiB
}
