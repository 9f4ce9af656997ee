"""What one process does with one partition of raw documents: extract, clean, test, sign, write. Runs anywhere.

Its result depends on the payload alone, so a partition may be done again, or on another machine.
"""

import contextlib
import dataclasses
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from chatwright.data.clean import CleanConfig, Drop, Keep, clean_document, text_hash
from chatwright.data.document import CORPUS_SCHEMA, HTML, TEXT, Document, PartWriter, open_part, read_row_group
from chatwright.data.duplicates.corpus import BANDS_COLUMN, HASH_COLUMN, WORK_COLUMNS, bands_of
from chatwright.data.duplicates.decontaminate import EvaluationRuns
from chatwright.data.duplicates.shingles import word_hashes
from chatwright.data.engine import work_file
from chatwright.data.extract import HtmlExtractor
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable

WORK_SCHEMA = pa.schema([*CORPUS_SCHEMA, *WORK_COLUMNS])


class Payload(NamedTuple):
    """A partition, and all that its result depends on."""

    config: CleanConfig
    part: str
    groups: tuple[int, ...]
    runs: str | None = None  # directory with the evaluation sets' runs


def clean_partition(payload: Payload, path: Path) -> None:
    """Clean some row groups of a part into a work file."""
    tally = Tally()
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(work_file(path, WORK_SCHEMA, tally))
        part = stack.enter_context(open_part(Path(payload.part)))
        cleaner = stack.enter_context(_Cleaner(payload, tally, writer))
        for group in payload.groups:
            for document in read_row_group(part, group):
                cleaner.take(document)


class _Cleaner(contextlib.ExitStack):
    """The steps in their order, with what they need beside a document."""

    def __init__(self, payload: Payload, tally: Tally, writer: PartWriter):
        super().__init__()
        self._config = config = payload.config
        self._tally = tally
        self._writer = writer
        self._runs = EvaluationRuns.load(Path(payload.runs)) if payload.runs else None
        extractor = HtmlExtractor(extractor=config.html_extractor, time_limit_s=config.html_time_limit_s)
        self._extractor = self.enter_context(extractor)

    def take(self, document: Document) -> None:
        """Write the document as it comes out, or count why it does not."""
        self._tally.seen(len(document.text))
        outcome = self._cleaned(document)
        if isinstance(outcome, Drop):
            self._drop(document, outcome)
            return
        kept = outcome.document
        words = word_hashes(kept.text)
        places = self._runs.found_in(words) if self._runs else 0
        if places:
            self._drop(document, Drop("contaminated", f"{places} places begin a passage of an evaluation set"))
            return
        for name, changed in outcome.changes.items():
            self._tally.change(name, changed)
        columns = {HASH_COLUMN: text_hash(kept.text), BANDS_COLUMN: bands_of(words, self._config.duplicates)}
        self._writer.add(kept, **columns)

    def _cleaned(self, document: Document) -> Keep | Drop:
        if document.media == HTML:
            try:
                page = self._extractor.extract(document.text)
            except Unreadable as verdict:
                return Drop(verdict.reason, verdict.detail)
            document = dataclasses.replace(document, text=page.text, title=page.title or document.title, media=TEXT)
        return clean_document(document, self._config)

    def _drop(self, document: Document, drop: Drop) -> None:
        size = len(document.text)
        self._tally.drop(drop.reason, path=document.path, detail=drop.detail, id=document.id, characters=size)
