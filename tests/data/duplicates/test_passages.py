"""Counts that are merged on disk, lines of sites, and paragraphs that stood before."""

import functools

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatwright.data.document import Document
from chatwright.data.duplicates import counting
from chatwright.data.duplicates.counting import SCHEMA, merged, rows_of, summed, table_of
from chatwright.data.duplicates.passages import (
    Repeats,
    SiteLines,
    SiteLinesConfig,
    key_of,
    lines_of,
    paragraphs_of,
    site_of,
)
from chatwright.foundation.errors import StoppedError
from chatwright.foundation.stopping import StopFlag


def write(rows, path):
    with pq.ParquetWriter(path, SCHEMA) as writer:
        writer.write_table(table_of(rows))
    return path


def as_dict(rows):
    return {int(row["key"]): (int(row["first"]), int(row["count"])) for row in rows}


@given(st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 99)), max_size=60), max_size=9))
def test_counts_merged_on_disk_are_those_of_one_dictionary(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("counts")
    paths = [
        write(rows_of([k for k, _ in part], firsts=[f for _, f in part]), folder / f"{n}.parquet")
        for n, part in enumerate(parts)
    ]
    expected = {}
    for key, first in (pair for part in parts for pair in part):
        least, count = expected.get(key, (first, 0))
        expected[key] = (min(least, first), count + 1)
    with pytest.MonkeyPatch.context() as patch:  # so small that batches, tiers and bounds all come into play
        patch.setattr(counting, "BATCH_ROWS", 3)
        patch.setattr(counting, "FAN_IN", 2)
        pieces = list(merged(paths, folder))
    keys = np.concatenate([np.empty(0, np.uint64), *(rows["key"] for rows in pieces)])
    assert keys.tolist() == sorted(expected)
    assert {key: value for rows in pieces for key, value in as_dict(rows).items()} == expected
    assert sorted(folder.glob("tier-*")) == []
    assert all(path.exists() for path in paths)


def test_memory_holds_a_few_batches_whatever_is_merged(tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "BATCH_ROWS", 100)
    paths = [write(rows_of(range(n, 50_000, 7)), tmp_path / f"{n}.parquet") for n in range(6)]
    largest = max(len(rows) for rows in merged(paths, tmp_path))
    assert largest <= 2 * 6 * 100


@pytest.mark.parametrize("fan_in", [2, 32])
def test_merging_counts_can_be_stopped_between_batches_and_leaves_what_it_was_handed(tmp_path, monkeypatch, fan_in):
    monkeypatch.setattr(counting, "FAN_IN", fan_in)
    paths = [write(rows_of(range(n, 50, 7)), tmp_path / f"{n}.parquet") for n in range(6)]
    whole, stop = list(merged(paths, tmp_path)), StopFlag()
    stop.requested = True
    with pytest.raises(StoppedError):
        list(merged(paths, tmp_path, stop=stop))
    for decide in (Repeats.decide, functools.partial(SiteLines.decide, config=SiteLinesConfig())):
        with pytest.raises(StoppedError):
            decide(paths, directory=tmp_path / "decided", stop=stop)
    stop.requested = False
    assert [as_dict(rows) for rows in merged(paths, tmp_path, stop=stop)] == [as_dict(rows) for rows in whole]


def test_equal_keys_become_one_with_their_least_place():
    rows = summed([rows_of([5, 5, 2], firsts=[9, 4, 7]), rows_of([2], firsts=[1], counts=[10])])
    assert as_dict(rows) == {5: (4, 2), 2: (1, 11)}


@pytest.mark.parametrize(
    ("url", "media", "site"),
    [
        ("https://www.example.org/a", "text", "example.org"),
        ("http://docs.example.org:8080/a?b", "html", "docs.example.org"),
        ("", "html", "files:x"),
        ("", "text", ""),
        ("http://[broken", "html", "files:x"),
        ("not an address", "text", ""),
    ],
)
def test_a_page_belongs_to_its_host_or_its_source(url, media, site):
    document = Document(id="0", text="", source="files:x", path="p", domain="d", url=url, media=media)
    assert site_of(document) == site


def test_lines_are_the_same_whatever_case_and_white_space_and_short_or_indented_ones_are_not_judged():
    first, second, short, code = lines_of(
        "Share  this page\nSHARE this page \nShare it\n    share this page", "s", min_words=3
    )
    assert first.key == second.key == key_of("s", "share this page")
    assert short.key is None
    assert code.key is None
    assert lines_of("Share this page", "other", min_words=3)[0].key != first.key


def counts_of(pages, path, *, min_words=3):
    """Counts of pages given as (site, text), as a partition writes them."""
    pairs = []
    for site, text in pages:
        own = key_of(site)
        pairs += sorted(
            {(line.key, own) for line in lines_of(text, site, min_words=min_words) if line.key} | {(own, own)}
        )
    return write(rows_of([key for key, _ in pairs], groups=[own for _, own in pairs]), path)


def test_a_line_goes_only_where_enough_of_a_site_has_it(tmp_path):
    menu, rare = "The menu of this site", "A sentence that two pages share"
    pages = [("a.org", f"{menu}\nPage number {n} says this\n{rare if n < 2 else ''}") for n in range(12)]
    pages += [("b.org", f"{menu}\nAnother page says {n} things") for n in range(4)]
    paths = [counts_of(pages[:5], tmp_path / "0.parquet"), counts_of(pages[5:], tmp_path / "1.parquet")]
    lines = SiteLines.decide(paths, SiteLinesConfig(), tmp_path / "lines")
    assert lines.facts == {"sites": 1, "pages": 16}
    found = lines.without(pages[0][1], "a.org", min_words=3)
    assert found.text == f"Page number 0 says this\n{rare}"
    assert found.passages == [(menu, "on 12 of 12 pages of a.org")]
    assert lines.without(pages[-1][1], "b.org", min_words=3).passages == []


def test_a_line_on_two_pages_of_every_site_stays(tmp_path):
    pages = [("a.org", f"A line of two pages\nPage number {n} says") for n in range(2)]
    lines = SiteLines.decide([counts_of(pages, tmp_path / "0.parquet")], SiteLinesConfig(), tmp_path / "lines")
    assert len(lines) == 0
    assert lines.without(pages[0][1], "a.org", min_words=3).passages == []


def test_a_repeated_paragraph_stays_where_it_stood_first_and_nowhere_else(tmp_path):
    notice = "All rights to this text are held by somebody else entirely."
    texts = [f"First text.\n\n{notice}", f"{notice}\n\nSecond text.\n\n{notice.upper()}"]
    keys, firsts, starts, number = [], [], [], 0
    for text in texts:
        starts.append(number)
        for passage in paragraphs_of(text, min_words=8):
            if passage.key is not None:
                keys.append(passage.key)
                firsts.append(number)
            number += 1
    path = write(rows_of(keys, firsts=firsts), tmp_path / "0.parquet")
    repeats = Repeats.decide([path], tmp_path / "repeats")
    assert repeats.facts == {"paragraphs": 3, "distinct": 1}
    rest = [repeats.without(text, start, min_words=8) for text, start in zip(texts, starts, strict=True)]
    assert [one.text for one in rest] == [texts[0], "Second text."]
    assert rest[1].passages == [(notice, "3 times in the corpus"), (notice.upper(), "3 times in the corpus")]
