"""The source `wikipedia`: articles of a MediaWiki dump (`pages-articles.xml`, packed or not), read as a stream.

A multistream dump is read in pieces by several processes: its bz2 streams stand one behind the other, a hundred pages
each. Redirects, pages that are no articles and pages in other models than wikitext are counted.
"""

import importlib.util
import io
from collections.abc import Iterator
from typing import IO, Any, Literal

from chatwright.data import limits
from chatwright.data.decode import sound_text
from chatwright.data.document import UNKNOWN_LANGUAGE, Document, document_id
from chatwright.data.formats.compression import Budget, compression_of, decompressed
from chatwright.data.formats.wikitext import Page, Site, plain_text, read_pages, read_site
from chatwright.data.report import Tally
from chatwright.data.sandbox import Sandbox, Unreadable
from chatwright.data.sources.files import blob_of, input_of, pattern_problems
from chatwright.data.sources.limited import Limited
from chatwright.data.sources.partition import Input, Partition, partitions_of
from chatwright.data.sources.places import listing_fingerprint, place_of, problem_with
from chatwright.foundation.errors import DataError
from chatwright.foundation.masking import masked

_STREAM_MARK = b"BZh91AY&SY"  # 80 bits that begin a bz2 stream at level 9; by chance once in 10^24 bytes
_HEAD_BYTES = 256 * limits.KIB


class Wikipedia(Limited):
    """Articles of a MediaWiki dump."""

    kind: Literal["wikipedia"] = "wikipedia"
    path: str  # the dump, a folder of dumps, or a URL
    include: tuple[str, ...] = ("*pages-articles*.xml*",)
    domain: str | None = "wikipedia"
    licence: str = "CC-BY-SA-4.0"  # of Wikipedia's text; other wikis differ

    def problems(self) -> Iterator[str]:
        """Addresses, patterns and caps."""
        yield from super().problems()
        if trouble := problem_with(self.path):
            yield f"`path` {masked(self.path)!r}: {trouble}"
        yield from pattern_problems(self.include)


def fingerprint(config: Wikipedia) -> str:
    """The settings, and size and time of each local dump."""
    return listing_fingerprint(config, config.path, config.include)


def list_partitions(config: Wikipedia) -> list[Partition]:
    """Each dump whole, or a multistream one in ranges of bytes.

    Raises:
        DataError: there is no dump, or the parser of wikitext is not installed.
    """
    if importlib.util.find_spec("mwparserfromhell") is None:
        raise DataError(
            "the source `wikipedia` needs the package `mwparserfromhell`",
            hint="install it with `pip install 'chatwright[wikipedia]'` and run the same command again",
        )
    listed = [one for one in place_of(config.path).list(config.include) if "-index" not in one.shown]
    if not listed:
        raise DataError(
            f"there is no dump in `{config.path}` that `include` names: {', '.join(config.include)}",
            hint="download one such as `simplewiki-latest-pages-articles-multistream.xml.bz2`",
        )
    inputs: list[Input] = []
    for one in listed:
        entry = input_of(one)
        in_pieces = "multistream" in one.shown and one.shown.endswith(".bz2")
        step = limits.WIKI_RANGE_BYTES if in_pieces else max(1, one.size)
        starts = range(0, max(1, one.size), step)
        inputs += [
            {**entry, "stored": one.size, "bytes": min(step, one.size - start), "start": start} for start in starts
        ]
    return partitions_of(
        "wikipedia", inputs, max_bytes=1, max_inputs=1, name=lambda entry: f"{entry['path']} from byte {entry['start']}"
    )


def read_partition(config: Wikipedia, partition: Partition, tally: Tally) -> Iterator[Document]:
    """Articles of one dump, or of a range of it."""
    with Sandbox(plain_text, time_limit_s=limits.WIKITEXT_TIME_LIMIT_S, what="wikitext") as sandbox:
        for entry in partition.inputs:
            try:
                yield from _articles(config, entry, sandbox, tally)
            except Unreadable as verdict:
                tally.drop(verdict.reason, path=entry["path"], detail=verdict.detail, characters=entry["bytes"])


def _articles(config: Wikipedia, entry: Input, sandbox: Sandbox, tally: Tally) -> Iterator[Document]:
    blob = blob_of(place_of(config.path), entry)
    packing = compression_of(blob.name)
    with blob.open() as file:
        site = read_site(decompressed(file, packing, Budget(blob.stored_bytes)).read(_HEAD_BYTES))
    with blob.open() as file:
        is_range = entry["bytes"] < entry["stored"]
        stored: IO[bytes] = io.BufferedReader(_Range(file, entry["start"], entry["bytes"])) if is_range else file
        for page in read_pages(decompressed(stored, packing, Budget(entry["bytes"]))):
            tally_path = f"{entry['path']}#{page.title if isinstance(page, Page) else 'page'}"
            try:
                if isinstance(page, Unreadable):
                    raise page
                yield _document(config, entry["path"], site, page, _words(page, site, sandbox, tally))
            except Unreadable as verdict:
                size = len(page.wikitext) if isinstance(page, Page) else 0
                tally.drop(verdict.reason, path=tally_path, detail=verdict.detail, characters=size)


def _words(page: Page, site: Site, sandbox: Sandbox, tally: Tally) -> str:
    """An article's text.

    Raises:
        Unreadable: it is none.
    """
    if page.namespace != "0":
        raise Unreadable("not_an_article", f"namespace {page.namespace}")
    if page.redirects:
        raise Unreadable("redirect")
    if page.model != "wikitext":
        raise Unreadable("not_an_article", f"content model {page.model}")
    value = sandbox.call({"wikitext": page.wikitext, "left_out": site.left_out})
    if value["templates"]:
        tally.change("templates_removed", value["templates"])
    if not value["text"]:
        raise Unreadable("no_text", "nothing is left without templates and tables")
    return str(value["text"])


def _document(config: Wikipedia, path: str, site: Site, page: Page, text: str) -> Document:
    source = f"wikipedia:{config.path}"
    place = f"{path}#{page.number}"
    title = sound_text(page.title).text
    return Document(
        id=document_id(source, place),
        text=f"{title}\n\n{sound_text(text).text}",
        source=source,
        path=place,
        domain=config.domain or "wikipedia",
        title=title,
        licence=config.licence,
        language=site.language or UNKNOWN_LANGUAGE,
        url=f"{site.base}{title.replace(' ', '_')}" if site.base else "",
        fetched=page.changed,
    )


class _Range(io.RawIOBase):
    """The bz2 streams that begin within a range of bytes, each to its end."""

    def __init__(self, file: IO[bytes], start: int, length: int):
        self._file = file
        self._stop = start + length
        self._position = start  # in the file
        self._held = b""  # read and not given: a mark may lie across the border of two reads
        self._waiting = b""
        self._is_over = False
        file.seek(start)
        self._seek_first()

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next packed bytes."""
        view = memoryview(buffer).cast("B")
        while not self._waiting and not self._is_over:
            self._waiting = self._next()
        data, self._waiting = self._waiting[: len(view)], self._waiting[len(view) :]
        view[: len(data)] = data
        return len(data)

    def _seek_first(self) -> None:
        """Go to the first stream that begins within the range."""
        while not self._is_over:
            begin = self._position - len(self._held)
            is_end = not self._fill()
            at = self._held.find(_STREAM_MARK)
            if at >= 0:
                self._held = self._held[at:]
                self._is_over = begin + at >= self._stop
                return
            self._is_over = is_end or begin >= self._stop
            self._held = self._held[1 - len(_STREAM_MARK) :]

    def _fill(self) -> bool:
        data = self._file.read(limits.MIB)
        self._position += len(data)
        self._held += data
        return bool(data)

    def _next(self) -> bytes:
        """What is held, as far as the first stream that begins behind the range."""
        begin = self._position - len(self._held)
        self._is_over = not self._fill()
        at = self._held.find(_STREAM_MARK, max(0, self._stop - begin))
        if at >= 0:
            self._is_over = True
            return self._held[:at]
        border = len(self._held) if self._is_over else max(0, len(self._held) + 1 - len(_STREAM_MARK))
        data, self._held = self._held[:border], self._held[border:]
        return data
