"""JSON Lines and whole texts from streams, in bounded memory. A line that is no sound record is counted, not fatal."""

import codecs
import itertools
import json
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from chatwright.data import limits
from chatwright.data.formats.record import Record, record_of_row
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable


class Lines(NamedTuple):
    """Whole lines of a file that follow each other."""

    offset: int  # of the first one's first byte
    bytes: int
    first: int  # the first one's number in the file, from 1
    number: int  # of lines; the last of a file may have no end


ALL_LINES = Lines(0, 1 << 62, 1, 1 << 62)


def lines_in_pieces(file: IO[bytes], *, max_bytes: int) -> Iterator[Lines]:
    """A file as pieces of whole lines, each ending with the first line that reaches `max_bytes`; reads it once."""
    start, first, number, offset = 0, 1, 0, 0
    while data := file.read(limits.MIB):
        at = 0
        while (end := data.find(b"\n", max(at, start + max_bytes - offset - 1)) + 1) > 0:
            number += data.count(b"\n", at, end)
            yield Lines(start, offset + end - start, first, number)
            at, start, first, number = end, offset + end, first + number, 0
        number += data.count(b"\n", at)
        offset += len(data)
    if offset > start:
        yield Lines(start, offset - start, first, number + 1)


def read_json_lines(
    file: IO[bytes],
    *,
    shown: str,
    text_key: str,
    tally: Tally,
    lines: Lines = ALL_LINES,
    may_be_one_value: bool = False,
) -> Iterator[Record]:
    """Records of a stream of JSON lines; a bad line is counted with `file:line`.

    Args:
        file: the unpacked stream.
        shown: its name in the report.
        text_key: the key of the text.
        tally: counts what is dropped.
        lines: those that the stream begins with, where it does not stand at the file's beginning.
        may_be_one_value: look at the first line, for the file's ending does not say that it holds JSON Lines.

    Raises:
        Unreadable: it is one JSON value, or the rest of a packed file is damaged or too large.
    """
    found = bounded_lines(file)
    if may_be_one_value:
        found = _of_objects(found)
    for number, line in enumerate(itertools.islice(found, lines.number), start=lines.first):
        try:
            if line is None:
                raise Unreadable("line_too_long", f"more than {limits.MAX_LINE_BYTES} bytes")
            if line.strip():
                yield _record(line, number, text_key)
        except Unreadable as verdict:
            tally.drop(verdict.reason, path=f"{shown}:{number}", detail=verdict.detail, characters=len(line or b""))


def is_json_lines(file: IO[bytes]) -> bool:
    """Whether the first line with content may be an object by itself; reads no further."""
    try:
        next((line for line in _of_objects(bounded_lines(file)) if line is None or line.strip()), None)
    except Unreadable:
        return False
    return True


def read_all(file: IO[bytes], *, max_bytes: int, instead: str = "") -> bytes:
    """A whole stream; `instead` is what a person may do about one that is too large.

    Raises:
        Unreadable: it is larger than `max_bytes`, damaged or hostile.
    """
    pieces, left = [], max_bytes + 1
    while left > 0 and (data := file.read(min(left, limits.MIB))):
        pieces.append(data)
        left -= len(data)
    if left <= 0:
        raise Unreadable("too_large", f"more than {max_bytes} bytes{instead and f'; {instead}'}")
    return b"".join(pieces)


def bounded_lines(file: IO[bytes]) -> Iterator[bytes | None]:
    """Lines; None for one over the limit, whose rest is passed over in pieces."""
    while line := file.readline(limits.MAX_LINE_BYTES + 1):
        if len(line) <= limits.MAX_LINE_BYTES:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(limits.MIB)
        yield None


def _of_objects(lines: Iterator[bytes | None]) -> Iterator[bytes | None]:
    """The lines, unless the first with content is no object by itself, as in an array or a value over several lines."""
    is_first = True
    for line in lines:
        if is_first and (line is None or line.strip()):
            is_first = False
            content = (line or b"{}").removeprefix(codecs.BOM_UTF8).strip()
            if content.startswith(b"["):
                raise Unreadable("not_json_lines", "a JSON array, not JSON Lines")
            if not (content.startswith(b"{") and content.endswith(b"}")):
                raise Unreadable("not_json_lines", "the first line is no JSON object by itself")
        yield line


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
    return record_of_row(text, value, str(number))


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
