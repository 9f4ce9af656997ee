"""Members of zip and tar archives, one after the other as streams. Nothing is ever unpacked to a path.

A member's name is a label and no more: `../x`, absolute names and links lead nowhere.
"""

import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple

from chatwright.data import limits
from chatwright.data.formats.compression import Budget
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable

_CHUNK_BYTES = 256 * limits.KIB
_ZIP_END = struct.Struct("<4s4H2LH")
_ZIP64_POINTER = struct.Struct("<4sLQL")  # stands right before the end record
_ZIP64_END = struct.Struct("<4sQ2H2L4Q")
_TAR_FAULTS = (tarfile.TarError, OSError, EOFError, ValueError)
_ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError, struct.error)


class Member(NamedTuple):
    """One file of an archive; its stream must be read before the next member is asked for."""

    name: str
    stored_bytes: int
    stream: IO[bytes]


def zip_members(file: IO[bytes], *, shown: str, budget: Budget, tally: Tally) -> Iterator[Member]:
    """Members of a zip archive in its directory's order; links and encrypted ones are counted.

    Args:
        file: open, and can seek.
        shown: the archive's name in the report.
        budget: of the file that all this stands in.
        tally: counts what is dropped.

    Raises:
        Unreadable: it is no sound archive, or has too many members.
    """
    _require_modest_directory(file)
    try:
        archive = zipfile.ZipFile(file)
    except _ZIP_FAULTS as error:
        raise Unreadable("damaged_zip", str(error)) from None
    names = _Names(shown, tally)
    with archive:
        for info in archive.infolist():
            if info.is_dir() or not names.wanted(info.filename):
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                names.drop("link_in_archive", info.filename)
            elif info.flag_bits & 1:
                names.drop("encrypted", info.filename)
            else:
                try:
                    stream = _Checked.stream(archive.open(info), "damaged_zip", budget)
                except _ZIP_FAULTS as error:
                    names.drop("damaged_zip", info.filename, str(error))
                    continue
                yield Member(names.unique(info.filename), info.compress_size, stream)
    names.require_some()


def tar_members(file: IO[bytes], *, shown: str, tally: Tally) -> Iterator[Member]:
    """Members of a tar archive as they come; links, devices and sparse files are counted.

    Raises:
        Unreadable: it is no sound archive, ends without its end mark, or has too many members; what came before stays.
    """
    try:
        forward = _Forward(file)
        archive = tarfile.open(fileobj=forward, mode="r:")  # noqa: SIM115 - it holds nothing to close
        names = _Names(shown, tally)
        while (info := archive.next()) is not None:
            # It would keep every header it ever read.
            archive.members.clear()  # type: ignore[attr-defined]
            if info.isdir() or not names.wanted(info.name):
                continue
            stream = archive.extractfile(info) if info.isreg() and not info.issparse() else None
            if stream is None:
                names.drop("link_in_archive" if info.issym() or info.islnk() else "not_a_file", info.name)
                continue
            yield Member(names.unique(info.name), info.size, _Checked.stream(stream, "damaged_tar"))
        # `next` gives None for a damaged, cut or missing header as for the blocks of zeros that end a sound archive.
        if len(forward.block) < tarfile.BLOCKSIZE or any(forward.block):
            raise Unreadable("damaged_tar", "it ends without its end mark, or a header is damaged")
        names.require_some()
    except _TAR_FAULTS as error:
        raise Unreadable("damaged_tar", str(error)) from None


class _Names:
    """Labels of members: hidden ones counted, repeated ones numbered, all together limited."""

    def __init__(self, shown: str, tally: Tally):
        self._shown = shown
        self._tally = tally
        self._seen: dict[str, int] = {}
        self._members = 0

    def wanted(self, name: str) -> bool:
        """Whether a member is meant; a hidden one (such as `__MACOSX/._a.txt`) is counted."""
        self._members += 1
        if self._members > limits.MAX_CORPUS_ARCHIVE_MEMBERS:
            raise Unreadable("too_many_members", f"more than {limits.MAX_CORPUS_ARCHIVE_MEMBERS}")
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if any(part.startswith(".") and part not in (".", "..") for part in parts):
            self.drop("hidden_file", name)
            return False
        return True

    def unique(self, name: str) -> str:
        """The name, with a number where an earlier member has the same."""
        count = self._seen[name] = self._seen.get(name, 0) + 1
        return name if count == 1 else f"{name}~{count}"

    def require_some(self) -> None:
        """Say so where an archive had no member at all."""
        if not self._members:
            raise Unreadable("no_text", "the archive has no member")

    def drop(self, reason: str, name: str, detail: str = "") -> None:
        """Count a member that is not read."""
        self._tally.drop(reason, path=f"{self._shown}!/{name}", detail=detail)


def _require_modest_directory(file: IO[bytes]) -> None:
    """Refuse a directory of millions of names before it is read into memory."""
    try:
        size = file.seek(0, io.SEEK_END)
        length = min(size, (1 << 16) + _ZIP_END.size)
        file.seek(size - length)
        tail = file.read(length)
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) - at < _ZIP_END.size:
            raise Unreadable("damaged_zip", "it has no directory")
        count, directory_bytes = _ZIP_END.unpack_from(tail, at)[4:6]
        found = _large_directory(file, size - length + at)
        file.seek(0)
    except (OSError, ValueError, struct.error) as error:
        raise Unreadable("damaged_zip", str(error)) from None
    if found is not None:
        if count not in (found.members, 0xFFFF) or directory_bytes not in (found.num_bytes, 0xFFFFFFFF):
            raise Unreadable("damaged_zip", "its two end records contradict each other")
        directory_bytes = found.num_bytes
    if directory_bytes > limits.MAX_ARCHIVE_DIRECTORY_BYTES:
        raise Unreadable("too_many_members", f"a directory of {directory_bytes} bytes")


class _Directory(NamedTuple):
    """What a zip64 record says of an archive's directory."""

    members: int
    num_bytes: int


def _large_directory(file: IO[bytes], end_at: int) -> _Directory | None:
    """What the zip64 record says, if one is pointed to; whoever reads the archive believes it, whatever the other says.

    Readers look for it right before its pointer, or where that points: it must be one and the same.
    """
    file.seek(max(0, end_at - _ZIP64_POINTER.size))
    pointer = file.read(min(end_at, _ZIP64_POINTER.size))
    if not pointer.startswith(b"PK\x06\x07"):
        return None
    before = end_at - _ZIP64_POINTER.size - _ZIP64_END.size
    places = (before, _ZIP64_POINTER.unpack(pointer)[2])
    found = {_zip64_end(file, place) for place in places if 0 <= place < end_at} - {None}
    if len(found) != 1:
        raise Unreadable("damaged_zip", "its zip64 record is missing, or there are two")
    return found.pop()


def _zip64_end(file: IO[bytes], place: int) -> _Directory | None:
    file.seek(place)
    record = file.read(_ZIP64_END.size)
    if len(record) < _ZIP64_END.size or not record.startswith(b"PK\x06\x06"):
        return None
    return _Directory(*_ZIP64_END.unpack(record)[7:9])


class _Checked(io.RawIOBase):
    """One member's bytes, counted as they come, whatever its header claims; damage gets the archive's reason."""

    def __init__(self, member: IO[bytes], reason: str, budget: Budget | None):
        self._member = member
        self._reason = reason
        self._budget = budget

    @classmethod
    def stream(cls, member: IO[bytes], reason: str, budget: Budget | None = None) -> IO[bytes]:
        """A buffered stream; `budget` is for members that are packed themselves."""
        return io.BufferedReader(cls(member, reason, budget), _CHUNK_BYTES)

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes."""
        view = memoryview(buffer).cast("B")
        try:
            data = self._member.read(min(len(view), _CHUNK_BYTES))
        except (*_ZIP_FAULTS, tarfile.TarError) as error:
            raise Unreadable(self._reason, str(error)) from None
        if self._budget is not None:
            self._budget.spend(len(data))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the member, too."""
        if not self.closed:
            self._member.close()
        super().close()


class _Forward(io.RawIOBase):
    """A stream that can only be read on, as a file that can tell and seek forward, or back by one byte.

    A larger read than any member's chunk is a header that claims too much: it is refused before it is read. `block` is
    the last block that was asked for: a header, where `TarFile.next` has just returned.
    """

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._position = 0
        self._last = b""
        self._back = False
        self.block = b""

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """As far as tar needs it."""
        return True

    def tell(self) -> int:
        """Position in the stream."""
        return self._position - self._back

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go on to a position."""
        if whence != io.SEEK_SET:
            raise OSError("a stream is not sought from its end")
        if offset == self._position - 1 and self._last:
            self._back = True
        while offset > self.tell():
            if not self.read(min(_CHUNK_BYTES, offset - self.tell())):
                raise EOFError("the archive is cut")
        if offset != self.tell():
            raise OSError("a stream is not read backwards")
        return offset

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, fewer only at the end."""
        if size is None or size < 0 or size > limits.MAX_TAR_HEADER_BYTES:
            raise Unreadable("damaged_tar", f"a header of {size} bytes")
        is_block = size == tarfile.BLOCKSIZE
        pieces = [self._last] if self._back and size else []
        size -= len(pieces)
        self._back = self._back and not pieces
        while size > 0 and (data := self._file.read(size)):
            pieces.append(data)
            size -= len(data)
            self._position += len(data)
        joined = b"".join(pieces)
        self._last = joined[-1:] or self._last
        if is_block:
            self.block = joined
        return joined
