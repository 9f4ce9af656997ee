"""One file of any known format as records: packing, archives and formats are told by the name's endings.

Knows no recipe and no folder: it is handed an open stream. What gives no text is counted with its reason.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, cast

from chatwright.data import limits
from chatwright.data.decode import decode_html, decode_text
from chatwright.data.formats.archives import Member, tar_members, zip_members
from chatwright.data.formats.books import read_book
from chatwright.data.formats.compression import Budget, compression_of, decompressed
from chatwright.data.formats.lines import read_all, read_json_lines
from chatwright.data.formats.pages import page_record
from chatwright.data.formats.pieces import text_pieces
from chatwright.data.formats.recoded import in_utf8
from chatwright.data.formats.record import Record, counted
from chatwright.data.formats.separated import read_separated
from chatwright.data.formats.stored import stored_file
from chatwright.data.formats.tables import read_row_group, row_groups
from chatwright.data.formats.web_archives import read_web_archive
from chatwright.data.report import Tally
from chatwright.data.sandbox import Sandbox, Unreadable
from chatwright.foundation import storage

_JSON = ".json"  # of JSON Lines in many data sets, of one JSON value elsewhere
_FORMATS = {
    **dict.fromkeys((".txt", ".text", ".md", ".markdown", ".rst"), "text"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    **dict.fromkeys((".epub", ".pdf", ".docx"), "book"),
    **dict.fromkeys((".jsonl", ".ndjson", _JSON), "lines"),
    **dict.fromkeys((".csv", ".tsv"), "separated"),
    ".parquet": "table",
    ".warc": "web_archive",
    ".zip": "zip",
    ".tar": "tar",
}
_SHORT = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}
_ALL_ROWS = 1 << 62
_IN_PIECES = '`texts = "paragraphs"` of the source reads it in pieces'


@dataclass(frozen=True, kw_only=True)
class Blob:
    """One file, wherever it is."""

    name: str  # decides the format
    shown: str  # its name in documents and in the report
    stored_bytes: int
    open: Callable[[], IO[bytes]]  # as `formats.stored` says, or a member of an archive
    path: Path | None = None  # where it is a file of this machine as it stands

    @property
    def packing(self) -> str:
        """The suffix of its compression, empty if there is none."""
        return compression_of(long_name(self.name))

    @property
    def format(self) -> str | None:
        """A key of the formats, None for an unknown one."""
        return _FORMATS.get(self._ending)

    @property
    def may_be_one_value(self) -> bool:
        """Whether the ending leaves open that it holds JSON Lines."""
        return self._ending == _JSON

    @property
    def _ending(self) -> str:
        name = long_name(self.name)
        inner = name.removesuffix(name[len(name) - len(self.packing) :]) if self.packing else name
        return PurePosixPath(inner).suffix.lower()


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads blobs; holds what a recipe chose and the child process for books.

    Args:
        text_key: column or key of the text.
        books: a document a book, or a document a chapter.
        texts: a document a file, or a document some 100 kB of whole paragraphs.
        sandbox: calls `books.read_book`.
        tally: counts what is dropped.
    """

    text_key: str
    books: Literal["book", "chapter"]
    texts: Literal["file", "paragraphs"]
    sandbox: Sandbox
    tally: Tally
    depth: int = 0  # archives around the file

    def records(self, blob: Blob, budget: Budget | None = None) -> Iterator[Record]:
        """Every text of a file. A `place` that begins with `!/` lies within an archive.

        Args:
            blob: the file.
            budget: of the archive that it stands in; None gives it one of its own.

        Raises:
            Unreadable: it gives none, or none from here on.
        """
        budget = budget or Budget(blob.stored_bytes)
        kind = blob.format
        if kind is None:
            raise Unreadable("unsupported_format", PurePosixPath(blob.name).suffix or "no suffix")
        if kind in ("book", "table"):
            with _on_disk(blob, budget) as path:
                if kind == "book":
                    yield from self._book(path, blob)
                    return
                opened = blob.open() if path == blob.path else stored_file(path.open("rb"), name=blob.shown)
                with contextlib.closing(opened) as file:
                    yield from self._table(file, blob)
            return
        with contextlib.closing(blob.open()) as stored:
            yield from self._streamed(kind, decompressed(stored, blob.packing, budget), blob, budget)

    def _streamed(self, kind: str, stream: IO[bytes], blob: Blob, budget: Budget) -> Iterator[Record]:
        place: dict[str, Any] = {"shown": blob.shown, "tally": self.tally}
        match kind:
            case "text":
                yield from self._text(stream, blob)
            case "html":
                decoded = decode_html(read_all(stream, max_bytes=limits.MAX_HTML_BYTES))
                yield page_record(counted(decoded, self.tally), {})
            case "lines":
                place |= {"text_key": self.text_key, "may_be_one_value": blob.may_be_one_value}
                yield from read_json_lines(stream, **place)
            case "separated":
                yield from read_separated(stream, text_key=self.text_key, **place)
            case "web_archive":
                yield from read_web_archive(stream, **place)
            case _:
                yield from self._archive(kind, stream, blob, budget)

    def _text(self, stream: IO[bytes], blob: Blob) -> Iterator[Record]:
        if self.texts == "file":
            data = read_all(stream, max_bytes=limits.MAX_TEXT_FILE_BYTES, instead=_IN_PIECES)
            yield Record(counted(decode_text(data), self.tally), title=stem(blob.name))
            return
        yield from self.numbered(text_pieces(in_utf8(stream, self.tally)), blob)

    def numbered(self, pieces: Iterator[bytes], blob: Blob, *, first: int = 1) -> Iterator[Record]:
        """Pieces of a text, named by their numbers from `first` on; what is no text is counted."""
        for number, piece in enumerate(pieces, start=first):
            try:
                yield Record(counted(decode_text(piece), self.tally), str(number), stem(blob.name))
            except Unreadable as verdict:
                path = f"{blob.shown}#{number}"
                self.tally.drop(verdict.reason, path=path, detail=verdict.detail, characters=len(piece))

    def _archive(self, kind: str, stream: IO[bytes], blob: Blob, budget: Budget) -> Iterator[Record]:
        if self.depth >= limits.MAX_ARCHIVE_DEPTH:
            raise Unreadable("archive_too_deep", f"more than {limits.MAX_ARCHIVE_DEPTH} archives in each other")
        with contextlib.ExitStack() as stack:
            if kind == "zip":
                file = stream if stream.seekable() else stack.enter_context(_spooled(stream))
                members = zip_members(file, shown=blob.shown, budget=budget, tally=self.tally)
            else:
                members = tar_members(stream, shown=blob.shown, tally=self.tally)
            for member in members:
                yield from self._member(member, blob, budget)

    def _member(self, member: Member, blob: Blob, budget: Budget) -> Iterator[Record]:
        shown = f"{blob.shown}!/{member.name}"
        name = member.name.rsplit("~", 1)[0] if member.name.rsplit("~", 1)[-1].isdecimal() else member.name
        inner = Blob(name=name, shown=shown, stored_bytes=member.stored_bytes, open=lambda: member.stream)
        try:
            for record in replace(self, depth=self.depth + 1).records(inner, budget):
                within = record.place if record.place.startswith("!/") else f"#{record.place}" if record.place else ""
                yield record._replace(place=f"!/{member.name}{within}")
        except Unreadable as verdict:
            if verdict.reason == "compression_ratio":
                raise  # the budget of the whole file is spent
            self.tally.drop(verdict.reason, path=shown, detail=verdict.detail, characters=member.stored_bytes)

    def _book(self, path: Path, blob: Blob) -> Iterator[Record]:
        book = self.sandbox.call(str(path))
        by_chapter = self.books == "chapter"
        kept = book["chapters"]
        for page in book["dropped"]:
            place = f"{blob.shown}#{page['place']}"
            self.tally.drop(page["reason"], path=place, characters=page["characters"])
        if not kept:
            raise Unreadable("no_text", f"none of its {len(book['dropped'])} pages is a part of the work")
        about = {key: book.get(key, "") for key in ("language", "licence", "licence_evidence", "url")}
        title = book["title"] or stem(blob.name)
        if not by_chapter or len(kept) == 1:
            yield Record("\n\n".join(chapter["text"] for chapter in kept), title=title, **about)
            return
        for chapter in kept:
            heading = f"{title}: {chapter['title']}" if chapter["title"] else title
            yield Record(chapter["text"], chapter["place"], heading, **about)

    def _table(self, file: IO[bytes], blob: Blob) -> Iterator[Record]:
        first = 0
        for number, group in enumerate(row_groups(file, text_key=self.text_key)):
            yield from read_row_group(
                file,
                number,
                first_row=first,
                max_rows=_ALL_ROWS,
                text_key=self.text_key,
                shown=blob.shown,
                tally=self.tally,
            )
            first += group.rows


def reader_of(
    *,
    text_key: str,
    books: Literal["book", "chapter"],
    sandbox: Sandbox,
    tally: Tally,
    texts: Literal["file", "paragraphs"] = "file",
) -> Reader:
    """A reader for files that stand in no archive."""
    return Reader(text_key=text_key, books=books, texts=texts, sandbox=sandbox, tally=tally)


def book_sandbox() -> Sandbox:
    """The child process in which books are parsed; starts with the first one."""
    return Sandbox(read_book, time_limit_s=limits.BOOK_TIME_LIMIT_S, what="book")


def long_name(name: str) -> str:
    """`a.tgz` as `a.tar.gz`."""
    suffix = PurePosixPath(name).suffix.lower()
    return name[: -len(suffix)] + _SHORT[suffix] if suffix in _SHORT else name


def stem(name: str) -> str:
    """A file's name without folders and endings."""
    base = PurePosixPath(name).name
    return base.split(".")[0].encode(errors="surrogateescape").decode(errors="replace")


@contextlib.contextmanager
def _on_disk(blob: Blob, budget: Budget) -> Iterator[Path]:
    """A path for parsers that need one: the file itself, or a copy that is gone afterwards."""
    if blob.path is not None and not blob.packing:
        if blob.format == "book" and blob.stored_bytes > limits.MAX_BOOK_FILE_BYTES:
            raise Unreadable("too_large", f"{blob.stored_bytes} bytes")
        yield blob.path
        return
    kind = PurePosixPath(long_name(blob.name).removesuffix(blob.packing)).suffix.lower()
    with tempfile.TemporaryDirectory(prefix="chatwright-") as folder:
        path = Path(folder) / f"document{kind}"
        with contextlib.closing(blob.open()) as stored, path.open("wb") as copy:
            _copy(decompressed(stored, blob.packing, budget), copy)
        yield path


@contextlib.contextmanager
def _spooled(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile(prefix="chatwright-") as copy:
        _copy(stream, copy)
        copy.seek(0)
        yield stored_file(cast("IO[bytes]", copy), name="a temporary copy")


def _copy(stream: IO[bytes], copy: IO[bytes]) -> None:
    """Write a stream to a temporary file, as far as the limit for one stored document."""
    left = limits.MAX_BOOK_FILE_BYTES
    with storage.full_disk_named(Path(tempfile.gettempdir())):  # that is no fault of the document
        while data := stream.read(limits.MIB):
            left -= len(data)
            if left < 0:
                raise Unreadable("too_large", f"more than {limits.MAX_BOOK_FILE_BYTES} bytes")
            copy.write(data)
        copy.flush()


__all__ = ["Blob", "Reader", "book_sandbox", "counted", "long_name", "reader_of", "stem"]
