"""What one process does with one partition of raw documents: extract, clean, test, sign, write. Runs anywhere.

Its result depends on the payload alone, so a partition may be done again, or on another machine. What has to be
counted over all partitions in between is `passage_partition`'s.
"""

import contextlib
import dataclasses
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from chatwright.data.clean import CleanConfig, Drop, Keep, judged, sound_document
from chatwright.data.document import (
    CORPUS_SCHEMA,
    DOCUMENTS_SCHEMA,
    HTML,
    TEXT,
    Document,
    PartWriter,
    open_part,
    read_row_group,
)
from chatwright.data.duplicates.corpus import BANDS_COLUMN, HASH_COLUMN, WORK_COLUMNS, bands_of
from chatwright.data.duplicates.decontaminate import EvaluationRuns
from chatwright.data.duplicates.passages import SiteLines, site_of
from chatwright.data.duplicates.shingles import word_hashes
from chatwright.data.engine import work_file
from chatwright.data.extract import HtmlExtractor
from chatwright.data.normalise import tidy_lines
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable

WORK_SCHEMA = pa.schema([*CORPUS_SCHEMA, *WORK_COLUMNS])


class Payload(NamedTuple):
    """A partition, and all that its result depends on."""

    config: CleanConfig
    part: str
    groups: tuple[int, ...]
    runs: str | None = None  # directory with the evaluation sets' runs


class SoundPayload(NamedTuple):
    """A partition that `sound_partition` wrote, and all that its result depends on."""

    config: CleanConfig
    part: str
    lines: str  # directory of the site lines that go
    runs: str | None = None


def clean_partition(payload: Payload, path: Path) -> None:
    """Clean some row groups of a part into a work file."""
    tally = Tally()
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(work_file(path, WORK_SCHEMA, tally))
        part = stack.enter_context(open_part(Path(payload.part)))
        reader = stack.enter_context(_Reader(payload.config, tally))
        judge = _Judge(payload.config, tally, writer, runs=payload.runs)
        for group in payload.groups:
            for document in read_row_group(part, group):
                sound = reader.read(document)
                if sound is not None:
                    judge.take(sound, document)


def sound_partition(payload: Payload, path: Path) -> None:
    """Write the sound text of some row groups, for what has to be counted before they are judged.

    `media` stays what the document was, so that `site_of` still knows pages.
    """
    tally = Tally()
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(work_file(path, DOCUMENTS_SCHEMA, tally))
        part = stack.enter_context(open_part(Path(payload.part)))
        reader = stack.enter_context(_Reader(payload.config, tally))
        for group in payload.groups:
            for document in read_row_group(part, group):
                sound = reader.read(document)
                if sound is not None:
                    _count_changes(sound, tally)
                    writer.add(dataclasses.replace(sound.document, media=document.media))


def judge_partition(payload: SoundPayload, path: Path) -> None:
    """Judge a partition of sound texts, once the lines of their sites are out."""
    tally = Tally()
    config, lines = payload.config, SiteLines(Path(payload.lines))
    with work_file(path, WORK_SCHEMA, tally) as writer, open_part(Path(payload.part)) as part:
        judge = _Judge(config, tally, writer, runs=payload.runs)
        for group in range(part.num_row_groups):
            for document in read_row_group(part, group):
                tally.seen(len(document.text))
                sound = _without_lines(document, lines, config, tally)
                judge.take(sound, document, whole=document.text)


def _without_lines(document: Document, lines: SiteLines, config: CleanConfig, tally: Tally) -> Keep:
    site = site_of(document)
    document = dataclasses.replace(document, media=TEXT)
    if not site:
        return Keep(document, {})
    found = lines.without(document.text, site, min_words=config.site_lines.min_words)
    if not found.passages:
        return Keep(document, {})
    tally.change("site_lines", len(found.passages))
    for line, why in found.passages:
        tally.show_change("site_lines", path=document.path, detail=f"{why}: {line}")
    return Keep(dataclasses.replace(document, text=tidy_lines(found.text)), {})


class _Reader(contextlib.ExitStack):
    """From a raw document to its sound text; what has none is counted."""

    def __init__(self, config: CleanConfig, tally: Tally):
        super().__init__()
        self._config = config
        self._tally = tally
        extractor = HtmlExtractor(extractor=config.html_extractor, time_limit_s=config.html_time_limit_s)
        self._extractor = self.enter_context(extractor)

    def read(self, document: Document) -> Keep | None:
        """The sound document."""
        self._tally.seen(len(document.text))
        outcome = self._read(document)
        if isinstance(outcome, Drop):
            count_drop(outcome, document, self._tally)
            return None
        return outcome

    def _read(self, document: Document) -> Keep | Drop:
        if document.media == HTML:
            try:
                page = self._extractor.extract(document.text)
            except Unreadable as verdict:
                return Drop(verdict.reason, verdict.detail)
            document = dataclasses.replace(document, text=page.text, title=page.title or document.title, media=TEXT)
        return sound_document(document, self._config)


class _Judge:
    """From a sound text to a row of a work file; what is dropped is counted."""

    def __init__(self, config: CleanConfig, tally: Tally, writer: PartWriter, *, runs: str | None):
        self._config = config
        self._tally = tally
        self._writer = writer
        self._runs = EvaluationRuns.load(Path(runs)) if runs else None

    def take(self, sound: Keep, before: Document, *, whole: str | None = None) -> None:
        """Write the document as it comes out, or count why it does not; `before` is it as it came in."""
        outcome = judged(sound, self._config, whole=whole)
        if isinstance(outcome, Drop):
            count_drop(outcome, before, self._tally)
            return
        kept = outcome.document
        words = word_hashes(kept.text)
        places = self._runs.found_in(words) if self._runs else 0
        if places:
            verdict = Drop("contaminated", f"{places} places begin a passage of an evaluation set")
            count_drop(verdict, before, self._tally)
            return
        _count_changes(outcome, self._tally)
        columns = {HASH_COLUMN: outcome.content, BANDS_COLUMN: bands_of(words, self._config.duplicates)}
        self._writer.add(kept, **columns)


def _count_changes(outcome: Keep, tally: Tally) -> None:
    for name, changed in outcome.changes.items():
        tally.change(name, changed)


def count_drop(drop: Drop, document: Document, tally: Tally) -> None:
    """Count a document that ends here, as it was when it came in."""
    size = len(document.text)
    tally.drop(drop.reason, path=document.path, detail=drop.detail, id=document.id, characters=size)
