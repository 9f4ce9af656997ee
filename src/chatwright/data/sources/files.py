"""The source `files`: a folder or a URL of texts, pages, books, tables and archives of them.

Each file is a document or a stream of them. What cannot be read is counted with its reason and name. Not a crawler.
"""

from collections.abc import Generator, Iterator
from pathlib import PurePosixPath
from typing import Literal

from chatwright.data import limits
from chatwright.data.decode import sound_text
from chatwright.data.document import UNKNOWN_LANGUAGE, UNKNOWN_LICENCE, Document, document_id
from chatwright.data.formats.lines import Lines, is_json_lines, lines_in_pieces, read_json_lines
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
    """Files in the order of their paths; Parquet in pieces of row groups, local JSON Lines in pieces of lines.

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
    files = listing.through(listed, total=len(listed))
    inputs = (entry for one in files for entry in _inputs(config, place, one, listing))
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


def _inputs(config: Files, place: Place, one: Listed, listing: Listing) -> Iterator[Input]:
    """A file whole or in pieces. It was just listed: whether it changed is seen when it is read."""
    entry = input_of(one)
    blob = _blob(place, entry)
    is_plain = blob.format == "lines" and not blob.packing and blob.path is not None
    if listing.names_suffice:
        yield entry
    elif is_plain and one.size > limits.PARTITION_BYTES and not _is_one_value(blob):
        yield from _line_inputs(blob, entry, listing)
    elif blob.format != "table" or blob.packing:
        yield entry
    else:
        yield from _row_group_inputs(config, blob, entry, listing)


def _line_inputs(blob: Blob, entry: Input, listing: Listing) -> Iterator[Input]:
    """Pieces of lines. Their numbers are in the ids, so they are counted before they are spread: dear if remote."""
    with blob.open() as file:
        for lines in lines_in_pieces(file, max_bytes=limits.PARTITION_BYTES):
            listing.check()
            if listing.names_suffice:
                yield entry
                return
            yield {**entry, "bytes": lines.bytes, "stored": blob.stored_bytes, "lines": list(lines)}


def _is_one_value(blob: Blob) -> bool:
    """Whether a file is JSON and not JSON Lines: it is counted where it is read."""
    if not blob.may_be_one_value:
        return False
    with blob.open() as file:
        return not is_json_lines(file)


def _row_group_inputs(config: Files, blob: Blob, entry: Input, listing: Listing) -> Iterator[Input]:
    def groups_of_footer() -> list[RowGroup]:
        with blob.open() as file:
            return row_groups(file, text_key=config.text_key)

    try:
        groups = listing.ask(groups_of_footer)
    except Unreadable:
        yield entry  # reading it gives the reason again, where it is counted
        return
    first = 0
    for number, group in enumerate(groups):
        yield {**entry, "bytes": group.bytes, "stored": blob.stored_bytes, "group": number, "first_row": first}
        first += group.rows


def _records(config: Files, place: Place, entry: Input, reader: Reader) -> Iterator[Record]:
    blob = blob_of(place, entry)
    if "group" not in entry and "lines" not in entry:
        yield from reader.records(blob)
        return
    with blob.open() as file:
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
