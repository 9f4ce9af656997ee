"""The source `files`: a folder of texts, pages, books and tables, each file a document or a stream of them.

What cannot be read is counted with its reason and name. Not a crawler; archives other than EPUB are not opened.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from chatwright.data import limits
from chatwright.data.decode import Decoded, decode_html, decode_text, sound_text
from chatwright.data.document import HTML, UNKNOWN_LANGUAGE, UNKNOWN_LICENCE, Document, document_id
from chatwright.data.formats.books import read_book
from chatwright.data.formats.lines import read_all, read_json_lines
from chatwright.data.formats.record import Record
from chatwright.data.formats.tables import read_row_group, row_groups
from chatwright.data.report import Tally
from chatwright.data.sandbox import Sandbox, Unreadable
from chatwright.data.sources.partition import Input, Partition, partitions_of
from chatwright.foundation import storage
from chatwright.foundation.config import Config
from chatwright.foundation.errors import DataError

_FORMATS = {
    **dict.fromkeys((".txt", ".text", ".md", ".markdown", ".rst", ".txt.gz", ".md.gz", ".rst.gz"), "text"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    **dict.fromkeys((".epub", ".pdf"), "book"),
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"), "lines"),
    ".parquet": "table",
}
_ALL_ROWS = 1 << 62


class Files(Config):
    """Documents in a folder, or a single file."""

    kind: Literal["files"] = "files"
    path: str  # relative to the current directory; `~` is the home directory
    include: tuple[str, ...] = ("**/*",)  # patterns below `path`
    domain: str | None = None  # None takes the folder's name
    licence: str = UNKNOWN_LICENCE
    text_key: str = "text"  # of JSON Lines and Parquet

    def problems(self) -> Iterator[str]:
        """Patterns stay below the folder."""
        if not self.path:
            yield "`path` must name a folder"
        for pattern in self.include:
            if not pattern or PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
                yield f"`include` takes patterns below `path`, such as `**/*.txt`: {pattern!r}"


def fingerprint(config: Files) -> str:
    """The settings, and each file's relative path, size and time of change."""
    root = _root(config)
    files = [(shown, (root / relative).stat()) for relative, shown in _listed(config, root)]
    listed = [[shown, found.st_size, found.st_mtime_ns] for shown, found in files]
    return storage.digest_json([config.model_dump(mode="json"), listed])


def list_partitions(config: Files) -> list[Partition]:
    """Files in the order of their paths; a Parquet file in pieces of its row groups.

    Raises:
        DataError: the folder is missing, or has no file that `include` names.
    """
    root = _root(config)
    inputs = [entry for relative, shown in _listed(config, root) for entry in _inputs(config, root, relative, shown)]
    if not inputs:
        raise DataError(
            f"there is no file in `{config.path}` that `include` names: {', '.join(config.include)}",
            hint="put documents there (txt, md, rst, html, epub, pdf, jsonl, parquet), or correct `include`",
        )
    return partitions_of(
        "files",
        inputs,
        max_bytes=limits.PARTITION_BYTES,
        max_inputs=limits.PARTITION_INPUTS,
        name=lambda entry: str(entry["path"]),
    )


def read_partition(config: Files, partition: Partition, tally: Tally) -> Iterator[Document]:
    """Documents of one partition.

    Raises:
        DataError: a file changed since it was listed.
    """
    root = _root(config)
    with Sandbox(read_book, time_limit_s=limits.BOOK_TIME_LIMIT_S, what="book") as books:
        for entry in partition.inputs:
            try:
                for record in _records(config, root, entry, books, tally):
                    yield _document(config, root, entry["path"], record, tally)
            except Unreadable as verdict:
                tally.drop(verdict.reason, path=entry["path"], detail=verdict.detail, characters=entry["bytes"])


def _root(config: Files) -> Path:
    root = Path(config.path).expanduser()
    if not root.exists():
        raise DataError(
            f"there is no folder `{config.path}`",
            cause=f"it was looked for at `{root.absolute()}`",
            hint="correct `path` of the source `files`; it is relative to the current directory",
        )
    return root if root.is_dir() else root.parent


class _Listed(NamedTuple):
    """A file's path below the root, and the same for showing and storing: a name may be no valid Unicode."""

    relative: str
    shown: str


def _listed(config: Files, root: Path) -> list[_Listed]:
    """Files that `include` names, sorted; links to folders are not followed, hidden files are not meant."""
    single = Path(config.path).expanduser()
    if single.is_file():
        names = {single.name}
    else:
        found = (path for pattern in config.include for path in root.glob(pattern))
        names = {path.relative_to(root).as_posix() for path in found if path.is_file()}
    visible = [name for name in names if not any(part.startswith(".") for part in PurePosixPath(name).parts)]
    return sorted(_Listed(name, _shown(name)) for name in visible)


def _inputs(config: Files, root: Path, relative: str, shown: str) -> list[Input]:
    found = (root / relative).stat()
    entry: Input = {"path": shown, "bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
    if shown != relative:
        return [{**entry, "name_hex": relative.encode(errors="surrogateescape").hex()}]
    if _format(shown) != "table":
        return [entry]
    try:
        groups = row_groups(root / relative, text_key=config.text_key)
    except Unreadable:
        return [entry]  # reading it gives the reason again, where it is counted
    pieces, first = [], 0
    for number, group in enumerate(groups):
        pieces.append({**entry, "bytes": group.bytes, "stored": found.st_size, "group": number, "first_row": first})
        first += group.rows
    return pieces


def _records(config: Files, root: Path, entry: Input, books: Sandbox, tally: Tally) -> Iterator[Record]:
    path = root / (
        bytes.fromhex(entry["name_hex"]).decode(errors="surrogateescape") if "name_hex" in entry else entry["path"]
    )
    _require_unchanged(path, entry)
    match _format(path.name):
        case "text":
            data = read_all(path, max_bytes=limits.MAX_TEXT_FILE_BYTES)
            yield Record(_counted(decode_text(data), tally), title=_stem(path))
        case "html":
            data = read_all(path, max_bytes=limits.MAX_HTML_BYTES)
            yield Record(_counted(decode_html(data), tally), media=HTML)
        case "book":
            if entry["bytes"] > limits.MAX_BOOK_FILE_BYTES:
                raise Unreadable("too_large", f"{entry['bytes']} bytes")
            book = books.call(str(path))
            yield Record(book["text"], title=book["title"] or _stem(path), language=book["language"])
        case "lines":
            yield from read_json_lines(path, shown=entry["path"], text_key=config.text_key, tally=tally)
        case "table":
            yield from _table(config, path, entry, tally)
        case _:
            raise Unreadable("unsupported_format", path.suffix or "no suffix")


def _table(config: Files, path: Path, entry: Input, tally: Tally) -> Iterator[Record]:
    if "group" not in entry:
        row_groups(path, text_key=config.text_key)  # raises what it raised when the file was listed
        raise Unreadable("damaged_parquet", "its footer could not be read when it was listed")
    yield from read_row_group(
        path,
        entry["group"],
        first_row=entry["first_row"],
        max_rows=_ALL_ROWS,
        text_key=config.text_key,
        shown=entry["path"],
        tally=tally,
    )


def _require_unchanged(path: Path, entry: Input) -> None:
    with contextlib.suppress(OSError):
        found = path.stat()
        if (found.st_size, found.st_mtime_ns) == (entry.get("stored", entry["bytes"]), entry["mtime_ns"]):
            return
    raise DataError(
        f"`{path}` changed while documents were collected",
        kept="the partitions finished so far",
        hint="let the folder rest and run the same command again",
    )


def _counted(decoded: Decoded | None, tally: Tally) -> str:
    if decoded is None:
        raise Unreadable("undecodable", "it is not text in any known encoding")
    for name, count in decoded.changes.items():
        tally.change(name, count)
    return decoded.text


def _document(config: Files, root: Path, path: str, record: Record, tally: Tally) -> Document:
    source = f"files:{config.path}"
    place = f"{path}#{record.place}" if record.place else path
    return Document(
        id=document_id(source, place),
        text=_counted(sound_text(record.text), tally),
        source=source,
        path=place,
        domain=config.domain or root.absolute().name,
        title=sound_text(record.title).text,
        media=record.media,
        licence=config.licence,
        language=record.language or UNKNOWN_LANGUAGE,
    )


def _format(name: str) -> str | None:
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    return _FORMATS.get("".join(suffixes[-2:])) or _FORMATS.get("".join(suffixes[-1:]))


def _stem(path: Path) -> str:
    return _shown(path.name.split(".")[0])


def _shown(name: str) -> str:
    return name.encode(errors="surrogateescape").decode(errors="replace")
