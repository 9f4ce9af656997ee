"""Files as a disk or a store gives them. Where reading one fails, the fault is the disk's or the network's.

A reader of a format takes an `OSError` for damage, counts the file and goes on; a failing connection must not end so:
its documents would be lost for good.
"""

import errno
import io
from collections.abc import Callable
from typing import IO, cast

from chatwright.data.sandbox import Unreadable
from chatwright.foundation.errors import ChatwrightError, DataError, UnreachableError

_FOR_GOOD = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError)
_PASSING = (408, 425, 429)  # of the statuses that blame the request, those that ask for patience


def stored_file(
    file: IO[bytes], *, name: str, failures: type[Exception] | tuple[type[Exception], ...] = OSError
) -> IO[bytes]:
    """The file; where reading it fails, a `DataError` with its name, which no reader takes for damage.

    Args:
        file: open for reading; it is closed with what is given back.
        name: for the person.
        failures: what reading raises where a disk or a network fails.
    """
    return cast("IO[bytes]", _Stored(file, name, failures))


class _Stored(io.RawIOBase):
    """Passes everything on but the classes of errors."""

    def __init__(self, file: IO[bytes], name: str, failures: type[Exception] | tuple[type[Exception], ...]):
        self._file = file
        self._name = name
        self._failures = failures

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """As the file says."""
        return self._file.seekable()

    def tell(self) -> int:
        """Position in the file."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position."""
        try:
            return self._file.seek(offset, whence)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise  # no disk's fault: a damaged archive points before the file's beginning
            raise self._failed(error) from error

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes."""
        return self._tried(self._file.read, size)

    def readline(self, size: int | None = -1) -> bytes:
        """The next line, or its first bytes."""
        return self._tried(self._file.readline, size)

    def close(self) -> None:
        """Close the file, too."""
        if not self.closed:
            self._file.close()
        super().close()

    def _tried(self, read: Callable[[int], bytes], size: int | None) -> bytes:
        try:
            return read(-1 if size is None else size)
        except (ChatwrightError, Unreadable):
            raise
        except self._failures as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> DataError:
        return not_read(f"reading `{self._name}` failed", error, hint="run the same command again: it goes on there")


def not_read(what: str, error: Exception, *, hint: str) -> DataError:
    """What a person is told where a disk, a network or a store's client failed; by its class, whether it may pass."""
    words = str(error).splitlines()
    kind = UnreachableError if _may_pass(error) else DataError
    return kind(
        what,
        cause=f"{type(error).__name__}: {words[0] if words else 'no details'}",
        kept="the partitions finished so far",
        hint=hint,
    )


def status_may_pass(status: int) -> bool:
    """Whether a status of HTTP does not blame the request, or blames it and asks for patience."""
    return not 400 <= status < 500 or status in _PASSING


def _may_pass(error: Exception) -> bool:
    """Whether asking again may help: not where the store says that there is no such thing, or not for us."""
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status_may_pass(status)
    return not isinstance(error, _FOR_GOOD)
