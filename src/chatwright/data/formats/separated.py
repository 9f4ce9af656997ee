"""CSV and TSV as records: a header that names the columns, then a row a document. A bad row is counted, not fatal."""

import csv
from collections.abc import Iterator
from typing import IO

from chatwright.data import limits
from chatwright.data.formats.lines import bounded_lines
from chatwright.data.formats.recoded import in_utf8
from chatwright.data.formats.record import Record, record_of_row
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable

_DELIMITERS = ",;\t|"


def read_separated(file: IO[bytes], *, shown: str, text_key: str, tally: Tally) -> Iterator[Record]:
    """Records of a table of separated values (RFC 4180), in UTF-8 or what its beginning says (`recoded`).

    The delimiter is the first of comma, semicolon, tab and bar with which the header names `text_key`.

    Args:
        file: the unpacked stream.
        shown: its name in the report.
        text_key: the column of the text.
        tally: counts what is dropped, by `file:line`.

    Raises:
        Unreadable: no such column, or the rest of a packed file is damaged or too large.
    """
    csv.field_size_limit(limits.MAX_LINE_BYTES)  # the module's default would refuse a longer article
    lines = _Lines(in_utf8(file, tally), shown, tally)
    head = next(lines, "")
    delimiter, names = _header(head, text_key)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.begin_record()
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            tally.drop("invalid_csv", path=f"{shown}:{lines.first}", detail=str(error))
            continue
        except _RecordTooLong:
            detail = f"a record of more than {limits.MAX_LINE_BYTES} characters"
            tally.drop("line_too_long", path=f"{shown}:{lines.first}", detail=detail)
            continue
        first = lines.first
        if not row:
            continue
        if len(row) != len(names):
            tally.drop("invalid_csv", path=f"{shown}:{first}", detail=f"{len(row)} fields, {len(names)} in the header")
            continue
        values = dict(zip(names, row, strict=True))
        yield record_of_row(values[text_key], values, str(first))


def _header(line: str, text_key: str) -> tuple[str, list[str]]:
    names: list[str] = []
    for delimiter in _DELIMITERS:
        try:
            names = next(csv.reader([line], delimiter=delimiter, strict=True), [])
        except csv.Error:
            continue
        if text_key in names:
            return delimiter, names
    raise Unreadable("no_text_key", f"the header names no column `{text_key}`: {line.strip()[:100]}")


class _RecordTooLong(Exception):  # noqa: N818 - a verdict on a record, not an error of ours
    """The lines of one record, whose quotes may span any number of them, are too many: `csv` limits a field alone."""


class _Lines:
    """Decoded lines; one that is too long or not UTF-8 is counted and left out.

    Raises:
        _RecordTooLong: a record does not end within the limit of a line.
    """

    def __init__(self, file: IO[bytes], shown: str, tally: Tally):
        self._lines = bounded_lines(file)
        self._shown = shown
        self._tally = tally
        self.number = 0
        self.first = 0  # number of the first line of the record, 0 before it
        self._characters = 0  # of the record

    def begin_record(self) -> None:
        """What is given next belongs to another record."""
        self.first = self._characters = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        for line in self._lines:
            self.number += 1
            try:
                if line is None:
                    raise Unreadable("line_too_long", f"more than {limits.MAX_LINE_BYTES} bytes")
                text = line.decode("utf-8-sig" if self.number == 1 else "utf-8").replace("\0", "")
                self.first = self.first or self.number
                self._characters += len(text)
                if self._characters > limits.MAX_LINE_BYTES:
                    raise _RecordTooLong
                return text
            except UnicodeDecodeError as error:
                self._tally.drop("invalid_utf8", path=f"{self._shown}:{self.number}", detail=f"byte {error.start}")
            except Unreadable as verdict:
                self._tally.drop(verdict.reason, path=f"{self._shown}:{self.number}", detail=verdict.detail)
        raise StopIteration
