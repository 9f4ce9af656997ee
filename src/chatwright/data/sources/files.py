"""The source `files`: a folder or a URL of texts, pages, books, tables and archives of them.

Each file is a document or a stream of them. What cannot be read is counted with its reason and name. Not a crawler.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from chatwright.data import limits
from chatwright.data.decode import foreign_encoding, sound_text
from chatwright.data.document import UNKNOWN_LANGUAGE, UNKNOWN_LICENCE, Document, document_id
from chatwright.data.formats.lines import Lines, is_json_lines, lines_in_pieces, read_json_lines
from chatwright.data.formats.pieces import Pieces, pieces_in_parts, text_pieces
from chatwright.data.formats.reading import Blob, Reader, book_sandbox, counted, reader_of
from chatwright.data.formats.record import Record
from chatwright.data.formats.tables import RowGroup, read_row_group, row_groups
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable
from chatwright.data.sources.limited import Limited
from chatwright.data.sources.partition import Input, Listing, Partition, each_partition_of
from chatwright.data.sources.permitted import Permitted, permitted
from chatwright.data.sources.places import Listed, Place, listing_fingerprint, place_of, problem_with, scheme_of
from chatwright.foundation.errors import DataError
from chatwright.foundation.masking import masked

_ALL_ROWS = 1 << 62


class Files(Limited, Permitted):
    """Documents in a folder, or a single file, here or in an object store; pages as their owners allow."""

    kind: Literal["files"] = "files"
    path: str  # relative to the current directory; `~` is the home directory; or a URL, such as `s3://bucket/folder`
    include: tuple[str, ...] = ("**/*",)  # patterns below `path`
    domain: str | None = None  # None takes the folder's name
    licence: str = UNKNOWN_LICENCE  # where a document does not name its own
    text_key: str = "text"  # of JSON Lines, CSV and Parquet
    books: Literal["book", "chapter"] = "book"  # what one document of an EPUB is
    texts: Literal["file", "paragraphs"] = "file"  # "paragraphs" cuts a text at blank lines into pieces of some 100 kB

    def problems(self) -> Iterator[str]:
        """Addresses that are known, patterns that stay below the folder, caps."""
        yield from super().problems()
        if trouble := problem_with(self.path):
            yield f"`path` {masked(self.path)!r}: {trouble}"
        yield from pattern_problems(self.include)


def pattern_problems(include: tuple[str, ...]) -> Iterator[str]:
    """Patterns that leave their folder."""
    for pattern in include:
        if not pattern or PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
            yield f"`include` takes patterns below `path`, such as `**/*.txt`: {pattern!r}"


def fingerprint(config: Files) -> str:
    """The settings, and size and time of each local file."""
    return listing_fingerprint(config, config.path, config.include)


def list_files(config: Files, place: Place | None = None) -> list[Listed]:
    """Files that `include` names, in the order of their paths, none of them opened.

    Raises:
        DataError: the folder is missing, or there is none.
    """
    listed = (place or place_of(config.path)).list(config.include)
    if not listed:
        raise DataError(
            f"there is no file in `{config.path}` that `include` names: {', '.join(config.include)}",
            hint="put documents there (txt, md, rst, html, epub, pdf, docx, jsonl, csv, parquet, zip, tar, warc), "
            "or correct `include`",
        )
    return listed


def list_partitions(config: Files) -> list[Partition]:
    """Files in the order of their paths; Parquet in row groups, large local files of lines or paragraphs in parts.

    Raises:
        DataError: the folder is missing, or has no file that `include` names.
    """
    return list(iter_partitions(config, Listing()))


def iter_partitions(config: Files, listing: Listing) -> Iterator[Partition]:
    """The same, looking into no more files than it must.

    Raises:
        DataError: as `list_partitions`.
        StoppedError: a stop was asked for.
    """
    place = place_of(config.path, listing)
    listed = list_files(config, place)
    remote = [one for one in listed if _is_remote_table(_blob(place, input_of(one)))]
    footers = listing.ahead(lambda one: _row_groups(config, _blob(place, input_of(one))), remote)
    files = listing.through(listed, total=len(listed))
    inputs = (entry for one in files for entry in _inputs(config, place, one, listing, footers))
    yield from each_partition_of(
        "files",
        inputs,
        max_bytes=limits.PARTITION_BYTES,
        max_inputs=limits.PARTITION_INPUTS,
        name=lambda entry: str(entry["path"]),
    )


def read_partition(
    config: Files, partition: Partition, tally: Tally, *, place: Place | None = None
) -> Generator[Document, None, None]:
    """Documents of one partition; `place` is that of the configuration, where the caller has it open.

    Raises:
        DataError: a file changed since it was listed.
    """
    place = place or place_of(config.path)
    with book_sandbox() as sandbox:
        reader = reader_of(
            text_key=config.text_key, books=config.books, texts=config.texts, sandbox=sandbox, tally=tally
        )
        for entry in partition.inputs:
            try:
                records = _records(config, place, entry, reader)
                for record in permitted(config, records, tally, shown=entry["path"]):
                    yield document_of(config, place, entry["path"], record, tally)
            except Unreadable as verdict:
                tally.drop(verdict.reason, path=entry["path"], detail=verdict.detail, characters=entry["bytes"])


def input_of(one: Listed) -> Input:
    """What a partition says of a file."""
    entry: Input = {"path": one.shown, "bytes": one.size, "version": one.version}
    if one.shown != one.relative:
        entry["name_hex"] = one.relative.encode(errors="surrogateescape").hex()
    return entry


def relative_of(entry: Input) -> str:
    """A file's path below the root, as the file system has it."""
    return (
        bytes.fromhex(entry["name_hex"]).decode(errors="surrogateescape") if "name_hex" in entry else str(entry["path"])
    )


def blob_of(place: Place, entry: Input) -> Blob:
    """A listed file, ready to be read.

    Raises:
        DataError: it changed since it was listed.
    """
    relative = relative_of(entry)
    if place.version(relative) != entry["version"]:
        raise DataError(
            f"`{relative}` of `{place.name}` changed while documents were collected",
            kept="the partitions finished so far",
            hint="let the folder rest and run the same command again",
        )
    return _blob(place, entry)


def _blob(place: Place, entry: Input) -> Blob:
    relative = relative_of(entry)
    return Blob(
        name=relative,
        shown=entry["path"],
        stored_bytes=int(entry["stored"] if "stored" in entry else entry["bytes"]),
        open=lambda: place.open(relative),
        path=place.path(relative),
    )


class _Cut(NamedTuple):
    """How a large file is cut into parts."""

    key: str  # under which an input says which part it is
    parts: Callable[..., Iterator[Lines] | Iterator[Pieces]]


def _inputs(
    config: Files, place: Place, one: Listed, listing: Listing, footers: Iterator[list[RowGroup] | None]
) -> Iterator[Input]:
    """A file whole or in parts. It was just listed: whether it changed is seen when it is read."""
    entry = input_of(one)
    blob = _blob(place, entry)
    if listing.names_suffice:
        yield entry
    elif blob.format == "table" and not blob.packing:
        groups = next(footers) if blob.path is None else listing.ask(lambda: _row_groups(config, blob))
        yield from _row_group_inputs(blob, entry, groups)
    elif one.size > limits.PARTITION_BYTES and (cut := _cut_of(config, blob)):
        yield from _part_inputs(blob, entry, cut, listing)
    else:
        yield entry


def _is_remote_table(blob: Blob) -> bool:
    return blob.format == "table" and not blob.packing and blob.path is None


def _row_groups(config: Files, blob: Blob) -> list[RowGroup] | None:
    """Those of a table; None where reading it gives the reason again, and it is counted there."""
    try:
        with blob.open() as file:
            return row_groups(file, text_key=config.text_key)
    except Unreadable:
        return None


def _row_group_inputs(blob: Blob, entry: Input, groups: list[RowGroup] | None) -> Iterator[Input]:
    if groups is None:
        yield entry
        return
    first = 0
    for number, group in enumerate(groups):
        yield {**entry, "bytes": group.bytes, "stored": blob.stored_bytes, "group": number, "first_row": first}
        first += group.rows


def _cut_of(config: Files, blob: Blob) -> _Cut | None:
    """How a file is cut; None for one that is read from its beginning, or gives a reason to be counted there.

    Numbers within the file are in the ids, so a file is read through before its parts are spread: dear if packed or
    remote. A text that is no UTF-8 is recoded as a whole.
    """
    if blob.packing or blob.path is None:
        return None
    with contextlib.suppress(Unreadable), blob.open() as file:
        if blob.format == "lines" and (not blob.may_be_one_value or is_json_lines(file)):
            return _Cut("lines", lines_in_pieces)
        if blob.format == "text" and config.texts == "paragraphs":
            is_in_utf8 = foreign_encoding(file.read(limits.ENCODING_SAMPLE_BYTES)) is None
            return _Cut("pieces", pieces_in_parts) if is_in_utf8 else None
    return None


def _part_inputs(blob: Blob, entry: Input, cut: _Cut, listing: Listing) -> Iterator[Input]:
    with blob.open() as file:
        for part in cut.parts(file, max_bytes=limits.PARTITION_BYTES):
            listing.check()
            if listing.names_suffice:
                yield entry
                return
            yield {**entry, "bytes": part.bytes, "stored": blob.stored_bytes, cut.key: list(part)}


def _records(config: Files, place: Place, entry: Input, reader: Reader) -> Iterator[Record]:
    blob = blob_of(place, entry)
    if not entry.keys() & {"group", "lines", "pieces"}:
        yield from reader.records(blob)
        return
    with blob.open() as file:
        if "pieces" in entry:
            pieces = Pieces(*entry["pieces"])
            file.seek(pieces.offset)
            yield from reader.numbered(text_pieces(file, size=pieces.bytes), blob, first=pieces.first)
            return
        if "lines" in entry:
            lines = Lines(*entry["lines"])
            file.seek(lines.offset)
            yield from read_json_lines(
                file, shown=entry["path"], text_key=config.text_key, tally=reader.tally, lines=lines
            )
            return
        yield from read_row_group(
            file,
            entry["group"],
            first_row=entry["first_row"],
            max_rows=_ALL_ROWS,
            text_key=config.text_key,
            shown=entry["path"],
            tally=reader.tally,
        )


def document_of(config: Files, place: Place, path: str, record: Record, tally: Tally) -> Document:
    """A record as a document of this source."""
    source = f"files:{config.path}"
    within = record.place if record.place.startswith("!/") else f"#{record.place}" if record.place else ""
    full = sound_text(f"{path}{within}").text
    return Document(
        id=document_id(source, full),
        text=counted(sound_text(record.text), tally),
        source=source,
        path=full,
        domain=config.domain or place.name,
        title=record.title,
        media=record.media,
        licence=record.licence or config.licence,
        licence_evidence=record.licence_evidence if record.licence else "",
        language=record.language or UNKNOWN_LANGUAGE,
        url=record.url or _web_address(config.path, path),
        fetched=record.fetched,
        robots=record.robots,
        tdm=record.tdm,
    )


def _web_address(root: str, path: str) -> str:
    """Where a file of a web server is, empty for other stores; `root` may be the file itself."""
    if scheme_of(root) not in ("http", "https"):
        return ""
    return root if root.rsplit("/", 1)[-1] == path else f"{root.rstrip('/')}/{path}"
