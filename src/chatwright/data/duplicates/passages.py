"""Lines that stand on most pages of a site, and paragraphs that stand in the corpus before: which go, told by hashes.

A line of a site (menus, notices, "share this") goes from every page of it; a paragraph goes from every place but its
first. Not for copies of whole documents, which `corpus` finds, nor for repeats within one text, which are rules.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chatwright.data.document import HTML, Document
from chatwright.data.duplicates.counting import Rows, merged
from chatwright.foundation import storage
from chatwright.foundation.config import Config
from chatwright.foundation.stopping import StopFlag

_KEY_BYTES = 8
_CODE_INDENT = 4  # deeper lines are code, where the same line may stand on every page with reason
_FACTS = "facts.json"


class SiteLinesConfig(Config):
    """Lines repeated over the pages of a site: pages with an address by their host, other HTML by its source."""

    remove: bool = False  # costs a second pass over the pages' text
    max_share: float = Field(default=0.2, gt=0, le=1)  # of a site's pages; a line that stands on more of them goes
    min_pages: int = Field(default=10, ge=2)  # on fewer, no line goes: on two pages half would be one page
    min_words: int = Field(default=3, ge=1)  # shorter lines are headings ("Returns") more often than boilerplate


class ParagraphsConfig(Config):
    """Paragraphs that stood in another document, or in this one, before (Wenzek et al. 2020, section 4.1, by lines)."""

    remove_repeats: bool = False  # costs a second pass over the corpus
    min_words: int = Field(default=8, ge=1)  # shorter ones recur by chance: headings, answers, greetings


class Passage(NamedTuple):
    """A line or a paragraph of a text with its hash; no hash where it is too short to be judged."""

    text: str
    key: int | None


def site_of(document: Document) -> str:
    """The site that a page belongs to, empty for a text that is no page."""
    if document.url:
        try:
            host = urlsplit(document.url).hostname or ""
        except ValueError:
            host = ""
        if host:
            return host.removeprefix("www.")
    return document.source if document.media == HTML else ""


def key_of(*parts: str) -> int:
    """64 bits that name a passage."""
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=_KEY_BYTES).digest(), "little")


def lines_of(text: str, site: str, *, min_words: int) -> list[Passage]:
    """All lines of a page; case and white space make no difference between them."""
    return [Passage(line, _line_key(line, site, min_words)) for line in text.split("\n")]


def _line_key(line: str, site: str, min_words: int) -> int | None:
    words = line.split()
    if len(words) < min_words or len(line) - len(line.lstrip()) >= _CODE_INDENT:
        return None
    return key_of(site, " ".join(words).casefold())


def paragraphs_of(text: str, *, min_words: int) -> list[Passage]:
    """All pieces between blank lines; case and white space make no difference between them."""
    passages = []
    for piece in text.split("\n\n"):
        words = piece.split()
        passages.append(Passage(piece, key_of(" ".join(words).casefold()) if len(words) >= min_words else None))
    return passages


class _Table:
    """Columns of 64-bit numbers in files, ordered by the first and mapped, so that processes share them."""

    columns: tuple[str, ...]

    def __init__(self, directory: Path):
        self._directory = directory
        size = (directory / f"{self.columns[0]}.u64").stat().st_size // 8
        self._values = {
            name: np.memmap(directory / f"{name}.u64", np.uint64, mode="r") if size else np.empty(0, np.uint64)
            for name in self.columns
        }
        self.facts: dict[str, int] = storage.read_json(directory / _FACTS)

    def __len__(self) -> int:
        """Number of keys."""
        return len(self._values[self.columns[0]])

    def places(self, passages: Sequence[Passage]) -> NDArray[np.int64]:
        """Row of each passage's key, -1 where it has none here."""
        wanted = np.array([passage.key or 0 for passage in passages], np.uint64)
        if not len(self) or not len(wanted):
            return np.full(len(wanted), -1)
        keys = self._values[self.columns[0]]
        rows = np.searchsorted(keys, wanted)
        rows[rows == len(keys)] = 0
        rows[(keys[rows] != wanted) | (wanted == 0)] = -1
        return rows

    def value(self, name: str, row: int) -> int:
        """One number."""
        return int(self._values[name][row])

    @classmethod
    def write(cls, directory: Path, pieces: Iterator[tuple[NDArray[np.uint64], ...]], facts: dict[str, int]) -> Self:
        """Write pieces that follow each other in the order of their keys; `facts` may be filled meanwhile."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in cls.columns:
            (directory / f"{name}.u64").write_bytes(b"")
        for piece in pieces:
            for name, values in zip(cls.columns, piece, strict=True):
                with (directory / f"{name}.u64").open("ab") as file:
                    file.write(np.ascontiguousarray(values, np.uint64).data)
        storage.write_json(directory / _FACTS, facts)
        return cls(directory)


class Removed(NamedTuple):
    """A text without the passages that go, and what they were."""

    text: str
    passages: list[tuple[str, str]]  # the passage and why it goes, for people
    is_lender: bool = False  # another text loses a passage because it stands here


class SiteLines(_Table):
    """The lines that go, with the pages they stand on and the pages of their site."""

    columns = ("keys", "pages", "of")

    @classmethod
    def decide(
        cls, counts: Sequence[Path], config: SiteLinesConfig, directory: Path, *, stop: StopFlag | None = None
    ) -> Self:
        """Choose them by counts in which a site stands under its own key, as `site_rows` makes them.

        Raises:
            StoppedError: `stop` asked for it.
        """
        scratch = directory.parent
        sites = [rows[rows["key"] == rows["group"]] for rows in merged(counts, scratch, stop=stop)]
        order = np.concatenate([np.empty(0, np.uint64), *(rows["key"] for rows in sites)])
        pages = np.concatenate([np.empty(0, np.int64), *(rows["count"] for rows in sites)])
        facts = {"sites": int((pages >= config.min_pages).sum()), "pages": int(pages.sum())}

        def frequent() -> Iterator[tuple[NDArray[np.uint64], ...]]:
            for rows in merged(counts, scratch, stop=stop):
                of = pages[np.searchsorted(order, rows["group"])]
                goes = (rows["key"] != rows["group"]) & (of >= config.min_pages)
                goes &= rows["count"] > np.maximum(1, config.max_share * of)
                yield rows["key"][goes], rows["count"][goes].astype(np.uint64), of[goes].astype(np.uint64)

        return cls.write(directory, frequent(), facts)

    def without(self, text: str, site: str, *, min_words: int) -> Removed:
        """A page of a site without them."""
        lines = lines_of(text, site, min_words=min_words)
        rows = self.places(lines)
        gone = [
            (line.text.strip(), f"on {self.value('pages', row):,} of {self.value('of', row):,} pages of {site}")
            for line, row in zip(lines, rows.tolist(), strict=True)
            if row >= 0
        ]
        if not gone:
            return Removed(text, [])
        return Removed("\n".join(line.text for line, row in zip(lines, rows, strict=True) if row < 0), gone)


class Repeats(_Table):
    """The paragraphs that stand more than once, with the number of the first among all."""

    columns = ("keys", "first", "times")

    @classmethod
    def decide(cls, counts: Sequence[Path], directory: Path, *, stop: StopFlag | None = None) -> Self:
        """Choose them by counts whose `first` numbers paragraphs over the whole corpus.

        Raises:
            StoppedError: `stop` asked for it.
        """
        facts = {"paragraphs": 0, "distinct": 0}

        def repeated() -> Iterator[tuple[NDArray[np.uint64], ...]]:
            for rows in merged(counts, directory.parent, stop=stop):
                facts["paragraphs"] += int(rows["count"].sum())
                facts["distinct"] += len(rows)
                chosen: Rows = rows[rows["count"] > 1]
                yield chosen["key"], chosen["first"], chosen["count"].astype(np.uint64)

        return cls.write(directory, repeated(), facts)

    def without(self, text: str, number: int, *, min_words: int) -> Removed:
        """A text without paragraphs that stood before; `number` is that of its first paragraph in the corpus.

        A lender must stay in the corpus: its paragraphs leave every other place.
        """
        paragraphs = paragraphs_of(text, min_words=min_words)
        rows = self.places(paragraphs).tolist()
        goes = [row >= 0 and self.value("first", row) != number + n for n, row in enumerate(rows)]
        gone = [
            (paragraph.text.strip(), f"{self.value('times', row):,} times in the corpus")
            for paragraph, row, is_gone in zip(paragraphs, rows, goes, strict=True)
            if is_gone
        ]
        if not gone:
            return Removed(text, [])
        kept = (paragraph.text for paragraph, is_gone in zip(paragraphs, goes, strict=True) if not is_gone)
        here = Counter(row for row in rows if row >= 0)
        firsts = {row for row, is_gone in zip(rows, goes, strict=True) if row >= 0 and not is_gone}
        is_lender = any(self.value("times", row) > here[row] for row in firsts)
        return Removed("\n\n".join(kept), gone, is_lender)
