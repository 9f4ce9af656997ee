"""Documents of a run by their names, and those with the same or nearly the same text.

The same text is told by the hash of what was collected; what cleaning found is in `copies.parquet` and the clusters.
"""

from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chatwright.data.document import open_part, part_files
from chatwright.data.duplicates.removals import EXACT, Removals, StandsFor

ABOUT = ("id", "path", "source", "url", "licence", "licence_evidence", "fetched", "raw_sha256", "cluster", "split")


class Row(NamedTuple):
    """A document where it is stored."""

    part: str
    row: int  # within the part
    about: dict[str, str]


def rows(directory: Path, wanted: dict[str, set[str]]) -> Iterator[Row]:
    """Rows of a published directory of which a column has one of the values; reads only the columns it looks at."""
    if not directory.is_dir() or not any(wanted.values()):
        return
    for path in part_files(directory):
        with open_part(path) as file:
            first = 0
            for group in range(file.num_row_groups):
                yield from _rows_of_group(file, group, path.name, first, wanted)
                first += file.metadata.row_group(group).num_rows


def _rows_of_group(
    file: pq.ParquetFile, group: int, part: str, first: int, wanted: dict[str, set[str]]
) -> Iterator[Row]:
    columns = [name for name in ABOUT if name in file.schema_arrow.names]
    table = file.read_row_group(group, columns=columns)
    masks = [
        pc.is_in(table[name], value_set=pa.array(sorted(values), pa.string()))
        for name, values in wanted.items()
        if name in columns and values
    ]
    if masks:
        for row in pc.indices_nonzero(reduce(pc.or_, masks)).to_pylist():
            yield Row(part, first + row, {name: table[name][row].as_py() or "" for name in columns})


class Copy(NamedTuple):
    """A document with the same or nearly the same text as another."""

    id: str
    path: str
    similarity: float | None  # to the document that stays for them; 1: equal once cleaned; None: nobody wrote it down
    goes_along: bool  # taking the other down takes this one down, too: they were collected with the same text
    in_corpus: bool


class Family(NamedTuple):
    """The documents around one."""

    kept: Row | None  # stays in the corpus for this one, which went as its copy
    how: StandsFor | None  # in which way
    copies: list[Copy]  # all others, the kept one among them


def family_of(about: dict[str, str], run_dir: Path) -> Family:
    """The documents of a run whose text is a document's or nearly so.

    Args:
        about: the document's columns, those of the corpus where it stands there.
        run_dir: of the run.
    """
    id_, raw = about["id"], {about.get("raw_sha256", "")} - {""}
    corpus, removals = run_dir / "corpus", Removals(run_dir / "corpus")
    how = removals.stands_for(id_)
    staying = _by_id(rows(corpus, {"id": {how.id if how else id_}, "raw_sha256": raw}))
    kept = None
    if id_ in staying:
        how = None
    elif how is None and staying:  # a corpus of an earlier version does not say which copies went
        how = StandsFor(next(iter(staying)), EXACT, 1.0)
    if how is not None:
        kept = staying.get(how.id)
    lead = how.id if how else id_
    went = removals.of(lead)
    cluster = {staying[lead].about["cluster"]} - {""} if lead in staying else set()
    staying |= _by_id(rows(corpus, {"cluster": cluster}))
    wanted = {"id": {lead, *went, *staying}, "raw_sha256": raw}
    others = _by_id(rows(run_dir / "documents", wanted)) | staying
    others.pop(id_, None)
    alike = {other: found.similarity for other, found in went.items()} | ({lead: how.similarity} if how else {})
    copies = []
    for other, row in sorted(others.items()):
        is_same = row.about.get("raw_sha256") in raw
        similarity = 1.0 if is_same else alike.get(other)
        copies.append(Copy(other, row.about["path"], similarity, is_same, other in staying))
    return Family(kept, how, copies)


def _by_id(found: Iterator[Row]) -> dict[str, Row]:
    return {row.about["id"]: row for row in found}
