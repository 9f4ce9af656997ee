"""Rows of Parquet files from outside, local or behind a file system object, a row group at a time."""

from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chatwright.data import limits
from chatwright.data.formats.record import COLUMNS, Record, record_of_row
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable

_BATCH_ROWS = 256  # decoded at once, fewer where rows are big
_BATCH_BYTES = 16 * limits.MIB  # of a column, if each of its rows were the longest


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
        Unreadable: the row group is damaged, or gives more than a group may.
    """
    try:
        number, left = first_row, limits.MAX_ROW_GROUP_BYTES
        last = first_row + max_rows
        for batch in _batches(file, group, text_key=text_key):
            for row in range(min(batch.num_rows, last - number)):
                left -= _size_of(batch.column(text_key)[row])
                if left < 0:
                    raise Unreadable("row_group_too_large", f"group {group}: what its rows give, from row {number}")
                yield from _record(batch, row, number=number, text_key=text_key, shown=shown, tally=tally)
                number += 1
            if number >= last:
                return
    except (pa.ArrowException, OSError) as error:
        raise Unreadable("damaged_parquet", f"row group {group}: {error}") from None


def _batches(file: IO[bytes], group: int, *, text_key: str) -> Iterator[Any]:
    """The text's column and those beside it that hold strings, a bounded number of rows at a time."""
    parquet = pq.ParquetFile(file)
    facts = parquet.metadata.row_group(group)
    if facts.total_byte_size > limits.MAX_ROW_GROUP_BYTES:
        raise Unreadable("row_group_too_large", f"group {group}")
    kinds = dict(zip(parquet.schema_arrow.names, parquet.schema_arrow.types, strict=True))
    if not _is_string(kinds[text_key]):
        raise Unreadable("no_text_key", f"row group {group}: the column `{text_key}` holds {kinds[text_key]}")
    beside = {name for name in COLUMNS if name in kinds and _is_string(kinds[name])} - {text_key}
    columns = [text_key, *sorted(beside)]
    longest = max(facts.total_byte_size // max(1, facts.num_rows), _longest_of(file, parquet.metadata, group, columns))
    batch_size = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, longest)))
    yield from parquet.iter_batches(batch_size=batch_size, row_groups=[group], columns=columns)


def _longest_of(file: IO[bytes], metadata: Any, group: int, columns: list[str]) -> int:
    """Bytes of the longest string in the dictionaries of a row group: any number of rows may name it.

    One row is read with the whole dictionary; where it shows a single entry, which may be that row's alone, the size
    of the column stands for it.
    """
    facts = metadata.row_group(group)
    chunks = [facts.column(number) for number in range(facts.num_columns)]
    chunks = [chunk for chunk in chunks if chunk.has_dictionary_page and chunk.path_in_schema in columns]
    probe = pq.ParquetFile(file, metadata=metadata, read_dictionary=columns, buffer_size=limits.MIB)
    first = next(probe.iter_batches(batch_size=1, row_groups=[group], columns=columns), None)
    if first is None:
        return 0
    longest = 0
    for chunk in chunks:
        entries = first.column(chunk.path_in_schema).dictionary
        is_whole = len(entries) > 1
        size = pc.max(pc.binary_length(entries)).as_py() or 0 if is_whole else chunk.total_uncompressed_size
        longest = max(longest, size)
    return longest


def _is_string(kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _size_of(value: Any) -> int:
    """Bytes of a string that has not been taken out of its batch, 0 where there is none."""
    if isinstance(value, pa.DictionaryScalar) and value.is_valid:
        value = value.value
    return value.as_buffer().size if value.is_valid else 0


def _record(batch: Any, row: int, *, number: int, text_key: str, shown: str, tally: Tally) -> Iterator[Record]:
    size = _size_of(batch.column(text_key)[row])
    if size > limits.MAX_LINE_BYTES:
        tally.drop("too_large", path=f"{shown}:{number}", detail=f"{size} bytes", characters=size)
        return
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
