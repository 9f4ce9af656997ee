"""Rows of Parquet files from outside, local or behind a file system object, a row group at a time."""

from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from chatwright.data import limits
from chatwright.data.formats.record import COLUMNS, Record, record_of_row
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable

_BATCH_ROWS = 256


class RowGroup(NamedTuple):
    """What a footer says of one row group."""

    rows: int
    bytes: int  # in memory


def row_groups(file: IO[bytes], *, text_key: str) -> list[RowGroup]:
    """Sizes of a file's row groups, read from its footer alone.

    Args:
        file: can seek; what it raises must be no `OSError` (`formats.stored`), which pyarrow raises for damage.
        text_key: the column of the text, which must be there.

    Raises:
        Unreadable: not Parquet, or no such column.
    """
    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise Unreadable("damaged_parquet", str(error)) from None
    if text_key not in parquet.schema_arrow.names:
        names = ", ".join(parquet.schema_arrow.names[:20])
        raise Unreadable("no_text_key", f"there is no column `{text_key}`; columns: {names}")
    sizes = [parquet.metadata.row_group(index) for index in range(parquet.num_row_groups)]
    return [RowGroup(group.num_rows, group.total_byte_size) for group in sizes]


def read_row_group(
    file: IO[bytes], group: int, *, first_row: int, max_rows: int, text_key: str, shown: str, tally: Tally
) -> Iterator[Record]:
    """Records of one row group; rows without text are counted with `file:row`.

    Args:
        file: as for `row_groups`.
        group: its number.
        first_row: number of its first row within the file, for the place of each record.
        max_rows: stop after so many rows.
        text_key: the column of the text.
        shown: the file's name in the report.
        tally: counts what is dropped.

    Raises:
        Unreadable: the row group is damaged or too large.
    """
    try:
        parquet = pq.ParquetFile(file)
        if parquet.metadata.row_group(group).total_byte_size > limits.MAX_ROW_GROUP_BYTES:
            raise Unreadable("row_group_too_large", f"group {group}")
        wanted = set(COLUMNS).intersection(parquet.schema_arrow.names) - {text_key}
        columns = [text_key, *sorted(wanted)]
        number = first_row
        last = first_row + max_rows
        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group], columns=columns):
            for row in range(min(batch.num_rows, last - number)):
                yield from _record(batch, row, number=number, text_key=text_key, shown=shown, tally=tally)
                number += 1
            if number >= last:
                return
    except (pa.ArrowException, OSError) as error:
        raise Unreadable("damaged_parquet", f"row group {group}: {error}") from None


def _record(batch: Any, row: int, *, number: int, text_key: str, shown: str, tally: Tally) -> Iterator[Record]:
    try:
        values = {name: batch.column(name)[row].as_py() for name in batch.schema.names}
    except UnicodeDecodeError:
        tally.drop("invalid_utf8", path=f"{shown}:{number}")
        return
    text = values.pop(text_key)
    if not isinstance(text, str):
        tally.drop("no_text_key", path=f"{shown}:{number}", detail=f"it is {type(text).__name__}")
        return
    yield record_of_row(text, values, str(number))
