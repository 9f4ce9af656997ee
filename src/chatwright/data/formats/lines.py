"""JSON Lines and gzip streams from outside, in bounded memory. A line that is no sound record is counted, not fatal."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from chatwright.data import limits
from chatwright.data.formats.record import Record
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable


def read_json_lines(path: Path, *, shown: str, text_key: str, tally: Tally) -> Iterator[Record]:
    """Records of a `.jsonl` or `.jsonl.gz` file; a bad line is counted with `file:line`.

    Args:
        path: the file.
        shown: its name in the report.
        text_key: the key of the text.
        tally: counts what is dropped.

    Raises:
        Unreadable: the rest of a compressed file is damaged or too large.
    """
    with open_bounded(path) as file:
        for number, line in enumerate(_bounded_lines(file), start=1):
            try:
                if line is None:
                    raise Unreadable("line_too_long", f"more than {limits.MAX_LINE_BYTES} bytes")
                if line.strip():
                    yield _record(line, number, text_key)
            except Unreadable as verdict:
                tally.drop(verdict.reason, path=f"{shown}:{number}", detail=verdict.detail, characters=len(line or b""))


def read_all(path: Path, *, max_bytes: int) -> bytes:
    """A whole file, unpacked if its name ends in `.gz`.

    Raises:
        Unreadable: it is larger than `max_bytes`, or a damaged or hostile archive.
    """
    with open_bounded(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise Unreadable("too_large", f"more than {max_bytes} bytes")
    return data


class _BoundedGzip:
    """Reads a gzip file and refuses to give more than a multiple of its stored size."""

    def __init__(self, path: Path):
        self._file = gzip.open(path)  # noqa: SIM115 - closed by __exit__
        stored = path.stat().st_size
        self._left = max(limits.COMPRESSION_FLOOR_BYTES, stored * limits.MAX_COMPRESSION_RATIO)

    def read(self, size: int) -> bytes:
        """At most `size` bytes, all of them unless the file ends."""
        return self._counted(lambda: self._file.read(size))

    def readline(self, size: int) -> bytes:
        """A line, or its first `size` bytes."""
        return self._counted(lambda: self._file.readline(size))

    def _counted(self, read: Any) -> bytes:
        try:
            data: bytes = read()
        except (OSError, EOFError, zlib.error) as error:
            raise Unreadable("damaged_gzip", str(error)) from None
        self._left -= len(data)
        if self._left < 0:
            raise Unreadable("compression_ratio", f"more than {limits.MAX_COMPRESSION_RATIO} times its stored size")
        return data

    def __enter__(self) -> "_BoundedGzip":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def open_bounded(path: Path) -> "IO[bytes] | _BoundedGzip":
    """Open a plain or gzip file for reading in pieces."""
    return _BoundedGzip(path) if path.suffix == ".gz" else path.open("rb")


def _bounded_lines(file: "IO[bytes] | _BoundedGzip") -> Iterator[bytes | None]:
    """Lines; None for one over the limit, whose rest is passed over in pieces."""
    while line := file.readline(limits.MAX_LINE_BYTES + 1):
        if len(line) <= limits.MAX_LINE_BYTES:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(limits.MIB)
        yield None


def _record(line: bytes, number: int, text_key: str) -> Record:
    try:
        value = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_without_duplicates)
    except UnicodeDecodeError as error:
        raise Unreadable("invalid_utf8", f"byte {error.start} of the line") from None
    except RecursionError:
        raise Unreadable("json_too_deep", f"more than {limits.MAX_JSON_DEPTH} levels") from None
    except ValueError as error:
        raise Unreadable("invalid_json", str(error)) from None
    if line.count(b"[") + line.count(b"{") > limits.MAX_JSON_DEPTH and _depth_exceeds(value, limits.MAX_JSON_DEPTH):
        raise Unreadable("json_too_deep", f"more than {limits.MAX_JSON_DEPTH} levels")
    if not isinstance(value, dict):
        raise Unreadable("not_an_object", f"it is a {type(value).__name__}")
    text = value.get(text_key)
    if not isinstance(text, str):
        kind = type(text).__name__ if text_key in value else "missing"
        raise Unreadable("no_text_key", f"`{text_key}` should be a string; it is {kind}")
    title = value.get("title")
    return Record(text, str(number), title if isinstance(title, str) else "")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        inner = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        level = [child for children in inner for child in children]
        if not level:
            return False
    return any(isinstance(item, dict | list) for item in level)
