"""Counting lines of sites and paragraphs of one partition, and taking out paragraphs that stood before. Runs anywhere.

As with `clean_partition`, a result depends on the payload alone.
"""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from chatwright.data.clean import CleanConfig, Drop, shortened
from chatwright.data.clean_partition import count_drop
from chatwright.data.document import CORPUS_SCHEMA, open_part, read_row_group
from chatwright.data.duplicates.counting import SCHEMA, Rows, rows_of, summed, table_of
from chatwright.data.duplicates.passages import Repeats, key_of, lines_of, paragraphs_of, site_of
from chatwright.data.engine import TALLY, work_file
from chatwright.data.normalise import tidy_lines
from chatwright.data.report import Tally

_NUMBER_BITS = 40  # of a paragraph within its partition; the partition's own number stands above them


class LinesPayload(NamedTuple):
    """A partition of sound texts whose lines are counted."""

    part: str
    min_words: int


class ParagraphsPayload(NamedTuple):
    """A partition of judged documents whose paragraphs are counted, or taken out."""

    config: CleanConfig
    part: str
    number: int  # of the partition
    without: tuple[int, ...]  # rows that went as copies of whole documents
    repeats: str = ""  # directory of the paragraphs that stand more than once, once it is known


def count_lines(payload: LinesPayload, path: Path) -> None:
    """On how many pages each line of a site stands, and under the site's own key how many pages it has."""
    tally = Tally()
    pages: Counter[tuple[int, int]] = Counter()
    with open_part(Path(payload.part)) as part:
        for group in range(part.num_row_groups):
            for document in read_row_group(part, group):
                tally.seen(len(document.text))
                site = site_of(document)
                if site:
                    own = key_of(site)
                    lines = lines_of(document.text, site, min_words=payload.min_words)
                    pages.update({(line.key, own) for line in lines if line.key is not None} | {(own, own)})
    keys, sites = [key for key, _ in pages], [site for _, site in pages]
    _write(rows_of(keys, groups=sites, counts=list(pages.values())), path, tally)


def count_paragraphs(payload: ParagraphsPayload, path: Path) -> None:
    """How often each paragraph stands, and the number of its first place."""
    tally = Tally()
    pieces: list[Rows] = []
    number = payload.number << _NUMBER_BITS
    least = payload.config.paragraphs.min_words
    gone = set(payload.without)
    with open_part(Path(payload.part)) as part:
        position = 0
        for group in range(part.num_row_groups):
            keys, firsts = [], []
            for document in read_row_group(part, group):
                if position not in gone:
                    tally.seen(len(document.text))
                    for passage in paragraphs_of(document.text, min_words=least):
                        if passage.key is not None:
                            keys.append(passage.key)
                            firsts.append(number)
                        number += 1
                position += 1
            pieces.append(rows_of(keys, firsts=firsts))
    _write(summed(pieces), path, tally)


def without_repeats(payload: ParagraphsPayload, path: Path) -> None:
    """The documents of a partition that are no copies, without paragraphs that stood before; the rest is counted.

    One that would be too short so, and has a paragraph that others lose for it, stays whole: else it would be lost.
    """
    tally = Tally()
    repeats, config = Repeats(Path(payload.repeats)), payload.config
    number = payload.number << _NUMBER_BITS
    gone = set(payload.without)
    with work_file(path, CORPUS_SCHEMA, tally) as writer, open_part(Path(payload.part)) as part:
        position = 0
        for group in range(part.num_row_groups):
            for document in read_row_group(part, group):
                if position not in gone:
                    text = document.text
                    tally.seen(len(text))
                    found = repeats.without(text, number, min_words=config.paragraphs.min_words)
                    number += text.count("\n\n") + 1
                    outcome = shortened(document, tidy_lines(found.text), config) if found.passages else None
                    if isinstance(outcome, Drop) and found.is_lender:
                        tally.change("repeated_paragraphs_kept", len(found.passages))
                        writer.add(document)
                    elif isinstance(outcome, Drop):
                        count_drop(outcome, document, tally)
                    else:
                        _show(found.passages, document.path, tally)
                        writer.add(outcome.document if outcome else document)
                position += 1


def _show(passages: list[tuple[str, str]], path: str, tally: Tally) -> None:
    if passages:
        tally.change("repeated_paragraphs", len(passages))
        for paragraph, why in passages:
            tally.show_change("repeated_paragraphs", path=path, detail=f"{why}: {' '.join(paragraph.split())}")


def _write(rows: Rows, path: Path, tally: Tally) -> None:
    with pq.ParquetWriter(path, SCHEMA, compression="lz4") as writer:
        writer.write_table(table_of(rows))
        writer.add_key_value_metadata({TALLY: json.dumps(asdict(tally), ensure_ascii=True)})
