"""What files from outside may do to a reader: nothing but be counted. Caps and take-down, too."""

import bz2
import gzip
import lzma
import time

import pytest

from chatwright.data import collect, licences, limits
from chatwright.data.collect import CollectConfig
from chatwright.data.document import iter_documents
from chatwright.data.formats import books, wikitext
from chatwright.data.sources import Files
from chatwright.foundation import storage

MIB = 1 << 20
PATTERNS = {
    "marks of notes": lambda text: books._MARKS.sub("", text),
    "line hyphens": lambda text: books._LINE_HYPHEN.sub("", text),
    "licence of a page": licences.licence_of_page,
    "licence in words": licences.recognise,
    "empty brackets": lambda text: wikitext._EMPTY_BRACKETS.sub("", text),
    "spaces": lambda text: wikitext._SPACES.sub(" ", text),
    "empty sections": wikitext._without_empty_sections,
    "head of a dump": lambda text: wikitext.read_site(text.encode()),
}
WORST = [
    "<a noteref",
    "<a noterefnoteref ",
    "<span pagebreak>",
    '<a epub:type="noteref" >x',
    '<a rel="license license ',
    "<link rel=license href=",
    "creativecommons.org/licenses/by-nc",
    "CC BY NC SA ",
    "( , ; : ",
    " (",
    " \t",
    "\n\n\n",
    '<namespace key="6" ',
    "<base>https://a/",
]


@pytest.mark.parametrize("name", sorted(PATTERNS))
@pytest.mark.parametrize("piece", WORST)
def test_every_pattern_takes_linear_time(name, piece):
    text = piece * (MIB // len(piece))
    began = time.process_time()
    PATTERNS[name](text)
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(("name", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_data_behind_a_packed_stream_is_never_taken_for_text(tmp_path, stage, name, pack, prose):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"a.jsonl.{name}").write_bytes(pack(b'{"text": "kept"}\n' * 3) + b"trailing junk" * 20)
    (tmp_path / "in" / "b.txt").write_text(prose)
    context = stage(CollectConfig(sources=(Files(path=str(tmp_path / "in")),)))
    collect.run(context)
    assert [d.text for d in iter_documents(context.output)] == ["kept"] * 3 + [prose]


@pytest.fixture
def folder(tmp_path, monkeypatch, prose):
    """Six texts of one size, each in a partition of its own."""
    monkeypatch.setattr(limits, "PARTITION_INPUTS", 1)
    path = tmp_path / "texts"
    path.mkdir()
    for number in range(6):
        (path / f"{number}.txt").write_text(f"{prose} {number}")
    return path


def run(stage, folder, *, name="output", **settings):
    taken_down = settings.pop("taken_down", ())
    context = stage(CollectConfig(sources=(Files(path=str(folder), **settings),), taken_down=taken_down), name=name)
    collect.run(context)
    report = storage.read_json(context.output / "report.json")
    return [d.path for d in iter_documents(context.output)], report


def test_a_cap_on_documents_counts_what_is_beyond(folder, stage):
    paths, report = run(stage, folder, max_documents=2)
    assert paths == ["0.txt", "1.txt"]
    assert report["dropped"]["over_cap"]["count"] == 4
    assert report["sources"] == [
        {"source": f"files {folder}", "documents": 2, "bytes": report["bytes"], "dropped": {"over_cap": 4}}
    ]


def test_the_document_that_crosses_a_cap_of_bytes_is_the_last(folder, stage):
    size = len((folder / "0.txt").read_bytes())
    assert run(stage, folder, max_bytes=2 * size + 1)[0] == ["0.txt", "1.txt", "2.txt"]


def test_within_a_partition_reading_stops_at_the_cap_and_says_so(tmp_path, stage):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"text": "x"}\n' * 50)
    paths, report = run(stage, tmp_path / "in", max_documents=3)
    assert paths == ["a.jsonl#1", "a.jsonl#2", "a.jsonl#3"]
    assert "was not read" in report["dropped"]["over_cap"]["examples"][0]["detail"]


def test_documents_are_taken_down_by_path_or_id(folder, stage, capsys):
    everything, _ = run(stage, folder)
    (id_,) = [d.id for d in iter_documents(stage(None).output) if d.path == "4.txt"]
    paths, report = run(stage, folder, name="less", taken_down=("1.txt", id_, "never-there"))
    assert set(everything) - set(paths) == {"1.txt", "4.txt"}
    assert report["dropped"]["taken_down"]["count"] == 2
    assert "3 entries, 2 documents" in capsys.readouterr().err


def test_collected_documents_carry_the_hash_of_their_text(folder, stage):
    context = stage(CollectConfig(sources=(Files(path=str(folder), licence="MIT"),)))
    collect.run(context)
    documents = list(iter_documents(context.output))
    assert len({d.raw_sha256 for d in documents}) == 6
    assert {(d.licence, d.licence_evidence) for d in documents} == {("MIT", "recipe")}
