"""A document with its origin, and the Parquet parts in which documents are kept.

Readers stream by row group, so memory is bounded by a group and never by a corpus. Not for token ids.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chatwright.data import limits
from chatwright.data.decode import sound_text
from chatwright.foundation.errors import RefusedError

PART_PATTERN = "part-*.parquet"
TEXT = "text"
HTML = "html"
UNKNOWN_LANGUAGE = "und"
UNKNOWN_LICENCE = "unknown"
RECIPE_SAYS = "recipe"  # the licence's only evidence is the source's `licence` in the recipe


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One text and where it is from. An empty field means: not known, or not a page.

    What stands from `cluster` on is known after cleaning. Nothing here is the time of collecting: the same inputs
    give the same bytes whenever they are read.
    """

    id: str
    text: str
    source: str  # `python-docs`, `files:PATH`, `hub:DATASET@REVISION`
    path: str  # within the source: a file, `archive.zip!/inner.txt`, a URL; `#` and a place where a file gives several
    domain: str
    title: str = ""
    media: str = TEXT  # TEXT or HTML
    licence: str = UNKNOWN_LICENCE  # SPDX where it could be told
    language: str = UNKNOWN_LANGUAGE  # BCP 47; UNKNOWN_LANGUAGE unless the source says it
    url: str = ""  # where a reader finds it
    fetched: str = ""  # ISO 8601, UTC: when a page was fetched; empty for files at hand, whose hash says which
    licence_evidence: str = ""  # who says so, such as "recipe", or the words of the document itself
    robots: str = ""  # verdict of robots.txt and robots tags on a page: "allowed" or "disallowed"
    tdm: str = ""  # text and data mining (TDM Reservation Protocol): "reserved" or "not_reserved"
    raw_sha256: str = ""  # of the text as collected, before cleaning; equal for equal copies
    cluster: str = ""  # of near copies, see `duplicates.corpus`: the leader's content hash, often this document's own
    quality: float = 0.0  # 0 to 1, see `clean.quality_of`
    split: str = ""  # "train" or "heldout"
    characters: int = 0  # this and the following: see `scores`
    compression: float = 0.0
    flesch: float = 0.0
    mtld: float = 0.0


_ORIGIN = [(name, pa.string()) for name in ("id", "text", "source", "path", "domain", "title")]
_RIGHTS = [(name, pa.string()) for name in ("licence", "language")]
PROVENANCE = ("url", "fetched", "licence_evidence", "robots", "tdm", "raw_sha256")
_PROVENANCE = [(name, pa.string()) for name in PROVENANCE]
_VERDICTS = [("cluster", pa.string()), ("quality", pa.float64()), ("split", pa.string())]
_SCORES = [("characters", pa.int64()), *((name, pa.float64()) for name in ("compression", "flesch", "mtld"))]
# What documents from outside may say at any length.
_CUT = ("title", "licence", "language", "fetched", "licence_evidence", "robots", "tdm")
DOCUMENTS_SCHEMA = pa.schema([*_ORIGIN, ("media", pa.string()), *_RIGHTS, *_PROVENANCE])
CORPUS_SCHEMA = pa.schema([*_ORIGIN, *_RIGHTS, *_PROVENANCE, *_VERDICTS, *_SCORES])


def document_id(source: str, path: str) -> str:
    """A stable name of 16 hexadecimal digits: it depends on the origin alone, never on the text or the order."""
    return hashlib.blake2b(f"{source}\0{path}".encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def overlong(document: Document) -> list[str]:
    """Fields beside the text that are longer than the limit: `sealed` cuts them."""
    return [name for name in (*_CUT, "url") if len(getattr(document, name)) > limits.MAX_METADATA_CHARACTERS]


def sealed(document: Document) -> Document:
    """The document with the hash of its text as it is now, and the recipe named where the licence has no evidence.

    No field keeps a lone surrogate: a part that holds one cannot be written, and its whole partition would be lost.
    None but the text is without limit; an address beyond it is left out, since its beginning is another address.
    """
    values = {field.name: getattr(document, field.name) for field in dataclasses.fields(document)}
    for name in overlong(document):
        values[name] = "" if name == "url" else values[name][: limits.MAX_METADATA_CHARACTERS]
    values |= {name: sound_text(value).text for name, value in values.items() if isinstance(value, str)}
    values["raw_sha256"] = hashlib.sha256(values["text"].encode()).hexdigest()
    is_said = values["licence"] != UNKNOWN_LICENCE
    values["licence_evidence"] = values["licence_evidence"] or (RECIPE_SAYS if is_said else "")
    return Document(**values)


class PartWriter:
    """Writes one Parquet file, a bounded row group at a time. Equal documents give equal bytes."""

    def __init__(self, path: Path, schema: pa.Schema):
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=3)
        self._rows: list[dict[str, Any]] = []
        self._buffered_bytes = 0
        self.text_bytes = 0
        self.documents = 0

    def add(self, document: Document, **columns: Any) -> None:
        """Append a document; `columns` are those of the schema that a document lacks."""
        row = {name: getattr(document, name) for name in self._schema.names if name not in columns} | columns
        size = len(document.text.encode())
        self._rows.append(row)
        self._buffered_bytes += size + sum(len(value) for name, value in row.items() if _is_long(name, value))
        self.text_bytes += size
        self.documents += 1
        if self._buffered_bytes >= limits.ROW_GROUP_BYTES or len(self._rows) >= limits.ROW_GROUP_DOCUMENTS:
            self._flush()

    def close(self, metadata: Mapping[str, str] | None = None) -> None:
        """Write what is buffered, the metadata and the footer."""
        self._flush()
        if metadata:
            self._writer.add_key_value_metadata(dict(metadata))
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []
        self._buffered_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer.is_open:
            self.close()


def _is_long(name: str, value: Any) -> bool:
    return name != "text" and isinstance(value, str | bytes)


def part_files(directory: Path) -> list[Path]:
    """The Parquet parts of a published directory, in order.

    Raises:
        RefusedError: there is no such directory.
    """
    if not directory.is_dir():
        raise RefusedError(f"there is no directory of documents `{directory}`", hint="run the stage that makes it")
    return sorted(directory.glob(PART_PATTERN))


def open_part(path: Path) -> pq.ParquetFile:
    """Open one part of ours.

    Raises:
        RefusedError: the file is not sound Parquet.
    """
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise RefusedError(f"`{path}` is not sound Parquet: {error}", hint="make the directory again") from error


def iter_documents(directory: Path, *, split: str | None = None) -> Iterator[Document]:
    """Documents of a published directory in their stored order, one row group in memory.

    Args:
        directory: what collecting or cleaning published.
        split: only the documents of this split.

    Raises:
        RefusedError: the directory is missing, or a part is damaged.
    """
    for path in part_files(directory):
        with open_part(path) as file:
            for group in range(file.num_row_groups):
                yield from read_row_group(file, group, split=split)


class Place(NamedTuple):
    """A row group of a directory of parts."""

    part: int  # number in the order of the parts
    group: int


_BEGINNING = Place(0, 0)


def iter_groups(
    directory: Path, columns: Sequence[str], *, split: str | None = None, begin: Place = _BEGINNING
) -> Iterator[tuple[Place, list[dict[str, Any]]]]:
    """Some columns of the documents of each row group from `begin` on; what is not asked for is not read.

    Raises:
        RefusedError: the directory is missing, or a part is damaged or lacks a column.
    """
    wanted = list(dict.fromkeys([*columns, *(["split"] if split is not None else [])]))
    for part, path in enumerate(part_files(directory)[begin.part :], start=begin.part):
        with open_part(path) as file:
            for group in range(begin.group if part == begin.part else 0, file.num_row_groups):
                try:
                    table = file.read_row_group(group, columns=wanted)
                    if split is not None:
                        table = table.filter(pc.equal(table["split"], split))
                    rows = table.select(list(columns)).to_pylist()
                except (pa.ArrowInvalid, OSError, KeyError, UnicodeDecodeError) as error:
                    raise RefusedError(
                        f"row group {group} of `{path}` is damaged: {error}", hint="make the directory again"
                    ) from error
                yield Place(part, group), rows


def num_groups(directory: Path) -> int:
    """Row groups of all parts, as `iter_groups` gives them.

    Raises:
        RefusedError: the directory is missing, or a part is damaged.
    """
    number = 0
    for path in part_files(directory):
        with open_part(path) as file:
            number += file.num_row_groups
    return number


def iter_rows(directory: Path, columns: Sequence[str], *, split: str | None = None) -> Iterator[dict[str, Any]]:
    """Some columns of every document, in stored order.

    Raises:
        RefusedError: as `iter_groups`.
    """
    for _, rows in iter_groups(directory, columns, split=split):
        yield from rows


def read_row_group(file: pq.ParquetFile, group: int, *, split: str | None = None) -> Iterator[Document]:
    """Documents of one row group, of either schema.

    Raises:
        RefusedError: the group is damaged or lacks a column.
    """
    known = [field.name for field in dataclasses.fields(Document) if field.name in file.schema_arrow.names]
    try:
        table = file.read_row_group(group, columns=known)
        if split is not None:
            table = table.filter(pc.equal(table["split"], split))
        for row in table.to_pylist():
            yield Document(**row)
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise RefusedError(
            f"row group {group} of a part is damaged: {error}", hint="make the directory again"
        ) from error
