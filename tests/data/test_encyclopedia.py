import bz2
import importlib.util

import pytest

pytest.importorskip("mwparserfromhell")

from chatwright.data import limits
from chatwright.data.formats.wikitext import plain_text, read_pages, read_site
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable
from chatwright.data.sources import Wikipedia, fingerprint, list_partitions, read_partition
from chatwright.foundation.errors import DataError

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <base>https://de.wikipedia.org/wiki/Wikipedia:Hauptseite</base>
    <namespaces>
      <namespace key="6" case="first-letter">Datei</namespace>
      <namespace key="14" case="first-letter">Kategorie</namespace>
    </namespaces>
  </siteinfo>
"""


def page(number, title, text, *, ns=0, extra=""):
    return f"""  <page>
    <title>{title}</title>
    <ns>{ns}</ns>
    <id>{number}</id>
    {extra}
    <revision>
      <id>9{number}</id>
      <timestamp>2026-01-02T03:04:05Z</timestamp>
      <model>wikitext</model>
      <text bytes="{len(text)}" xml:space="preserve">{text}</text>
    </revision>
  </page>
"""


def dump(*pages):
    return f"{HEAD}{''.join(pages)}</mediawiki>\n".encode()


def words(wikitext):
    return plain_text({"wikitext": wikitext, "left_out": ("datei", "file", "category")})["text"]


def collect(path, **settings):
    config = Wikipedia(path=str(path), **settings)
    tally = Tally()
    return [d for one in list_partitions(config) for d in read_partition(config, one, tally)], tally


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("'''Tea''' is a [[drink]] of [[leaf|leaves]].", "Tea is a drink of leaves."),
        ("A {{template|with [[links]]}}word.<ref>note</ref> On.", "A word. On."),
        ("Before\n{| class=x\n! a\n|-\n| cell\n|}\nAfter", "Before\n\nAfter"),
        (
            "See [https://a.example the page] &ndash; [[Datei:x.jpg|thumb|a [[picture]]]][[category:Tea]]now.",
            "See the page – now.",
        ),
        ("Tea (; {{IPA|x}}) is.<!-- no -->", "Tea is."),
        ("Lead.\n\n== History ==\nOld.\n\n== References ==\n{{reflist}}\n=== Books ===\n", "Lead.\n\nHistory\n\nOld."),
        ("x<math>\\frac</math>y<br>z <small>w</small>", "xy\nz w"),
        ("{{unclosed [[and|", "{{unclosed [[and|"),
    ],
)
def test_wikitext_becomes_its_words(wikitext, text):
    assert words(wikitext) == text


def test_deep_nesting_ends_in_a_moment():
    assert isinstance(words("{{" * 3_000 + "[[" * 3_000 + "''" * 3_000), str)


@pytest.mark.slow
def test_articles_are_read_and_the_rest_is_counted(tmp_path):
    (tmp_path / "dewiki-1-pages-articles.xml.bz2").write_bytes(
        bz2.compress(
            dump(
                page(1, "Grüner Tee", "'''Tee''' ist ein [[Getränk]]."),
                page(2, "Tee", "#WEITERLEITUNG [[Grüner Tee]]", extra='<redirect title="Grüner Tee" />'),
                page(3, "Diskussion:Tee", "words", ns=1),
                page(4, "Leer", "{{Begriffsklärung}}"),
                page(5, "A &amp; B", "&lt;b&gt;Fett&lt;/b&gt;"),
            )
        )
    )
    documents, tally = collect(tmp_path)
    assert [(d.title, d.text) for d in documents] == [
        ("Grüner Tee", "Grüner Tee\n\nTee ist ein Getränk."),
        ("A & B", "A & B\n\nFett"),
    ]
    assert {reason: entry["count"] for reason, entry in tally.dropped.items()} == {
        "redirect": 1,
        "not_an_article": 1,
        "no_text": 1,
    }
    first = documents[0]
    assert first.url == "https://de.wikipedia.org/wiki/Grüner_Tee"
    assert (first.language, first.fetched, first.licence) == ("de", "2026-01-02T03:04:05Z", "CC-BY-SA-4.0")
    assert first.path == "dewiki-1-pages-articles.xml.bz2#1"


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 137, 700, 5_000])
def test_a_multistream_dump_in_ranges_gives_what_it_gives_whole(tmp_path, monkeypatch, size):
    pages = [page(n, f"Page {n}", f"Text number {n * n}. " * 3) for n in range(40)]
    streams = [HEAD, *("".join(pages[at : at + 5]) for at in range(0, 40, 5)), "</mediawiki>"]
    path = tmp_path / "xwiki-pages-articles-multistream.xml.bz2"
    path.write_bytes(b"".join(bz2.compress(text.encode()) for text in streams))
    monkeypatch.setattr(limits, "WIKI_RANGE_BYTES", max(size, path.stat().st_size // 6))
    monkeypatch.setattr(limits, "MIB", size)  # reads of any size find the border of streams
    assert len(list_partitions(Wikipedia(path=str(path)))) >= 1
    documents, tally = collect(path)
    assert [d.title for d in documents] == [f"Page {n}" for n in range(40)]
    assert tally.dropped == {}


def test_a_page_over_the_limit_or_unsound_is_a_verdict_and_the_rest_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_WIKI_PAGE_BYTES", 2_000)
    path = tmp_path / "d.xml"
    path.write_bytes(dump(page(1, "Long", "x" * 3_000), page(2, "Odd", "&bad;"), page(3, "Good", "text")))
    with path.open("rb") as file:
        found = list(read_pages(file))
    assert [one.reason if isinstance(one, Unreadable) else one.title for one in found] == [
        "too_large",
        "damaged_dump",
        "Good",
    ]


def test_a_dump_that_is_cut_says_so(tmp_path):
    path = tmp_path / "d.xml"
    path.write_bytes(dump(page(1, "Whole", "x"), page(2, "Cut", "y"))[:-200])
    with path.open("rb") as file, pytest.raises(Unreadable) as caught:
        list(read_pages(file))
    assert caught.value.reason == "damaged_dump"


def test_the_head_names_language_address_and_what_is_left_out():
    site = read_site(HEAD.encode())
    assert site.base == "https://de.wikipedia.org/wiki/"
    assert {"datei", "kategorie", "file", "image"} <= set(site.left_out)


def test_without_the_parser_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "x-pages-articles.xml").write_bytes(dump())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError) as caught:
        list_partitions(Wikipedia(path=str(tmp_path)))
    assert "chatwright[wikipedia]" in caught.value.hint


def test_a_folder_without_a_dump_says_which_to_fetch(tmp_path):
    with pytest.raises(DataError, match="pages-articles"):
        list_partitions(Wikipedia(path=str(tmp_path)))
    assert fingerprint(Wikipedia(path=str(tmp_path))) != fingerprint(Wikipedia(path=str(tmp_path), domain="x"))
