"""What files from outside may do to a reader: nothing but be counted. Caps and take-down, too."""

import bz2
import gzip
import json
import lzma
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatwright.data import collect, licences, limits
from chatwright.data.collect import CollectConfig
from chatwright.data.document import iter_documents
from chatwright.data.formats import books, wikitext
from chatwright.data.formats.compression import Budget
from chatwright.data.formats.pages import meta_of
from chatwright.data.report import Tally
from chatwright.data.sandbox import Unreadable
from chatwright.data.sources import Files, list_partitions, read_partition
from chatwright.foundation import storage

MIB = 1 << 20
ONE_PAGE = {"compression": "zstd", "use_dictionary": True, "dictionary_pagesize_limit": 1 << 30}
PATTERNS = {
    "marks of notes": lambda text: books._MARKS.sub("", text),
    "line hyphens": lambda text: books._LINE_HYPHEN.sub("", text),
    "licence of a page": licences.licence_of_page,
    "licence in words": licences.recognise,
    "empty brackets": lambda text: wikitext._EMPTY_BRACKETS.sub("", text),
    "spaces": lambda text: wikitext._SPACES.sub(" ", text),
    "empty sections": wikitext._without_empty_sections,
    "meta tags": meta_of,
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
    "<meta ",
    '<meta name="robots" content="',
    "<meta name=robots content='x",
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


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_long_text_that_many_rows_of_a_table_name_is_in_memory_once(tmp_path, kind):
    texts = pa.array(["x" * MIB] * 256).cast(kind)
    pq.write_table(pa.table({"title": texts, "text": texts}), tmp_path / "a.parquet", **ONE_PAGE)
    del texts
    config, tally = Files(path=str(tmp_path)), Tally()
    before, most = pa.total_allocated_bytes(), 0
    (partition,) = list_partitions(config)
    for document in read_partition(config, partition, tally):
        most = max(most, pa.total_allocated_bytes() - before)
        assert len(document.text) == MIB
    assert 0 < most < 128 * MIB
    assert tally.dropped == {}


def test_what_a_row_group_gives_is_limited_in_all_and_by_the_text(tmp_path, monkeypatch):
    texts = ["small", "x" * 2_000, *["y" * 900] * 9]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", **ONE_PAGE)
    monkeypatch.setattr(limits, "MAX_LINE_BYTES", 1_000)
    monkeypatch.setattr(limits, "MAX_ROW_GROUP_BYTES", 5_000)
    config, tally = Files(path=str(tmp_path)), Tally()
    (partition,) = list_partitions(config)
    documents = list(read_partition(config, partition, tally))
    assert [len(document.text) for document in documents] == [5, 900, 900, 900]
    assert {reason: entry["examples"][0]["path"] for reason, entry in tally.dropped.items()} == {
        "too_large": "a.parquet:1",
        "row_group_too_large": "a.parquet",
    }


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.binary(), pa.int64(), pa.struct({"a": pa.string()})])
def test_a_column_of_another_kind_is_no_text(tmp_path, kind):
    values = {pa.list_(pa.string()): [["x"]], pa.binary(): [b"x"], pa.int64(): [1]}.get(kind, [{"a": "x"}])
    pq.write_table(pa.table({"text": pa.array(values, kind)}), tmp_path / "a.parquet")
    config, tally = Files(path=str(tmp_path)), Tally()
    (partition,) = list_partitions(config)
    assert list(read_partition(config, partition, tally)) == []
    assert list(tally.dropped) == ["no_text_key"]


@pytest.mark.parametrize(
    ("stored", "allowed"),
    [(10, MIB), (MIB, 100 * MIB), (30 * MIB, 2048 * MIB), (200 * MIB, 4000 * MIB), (1024 * MIB, 20 * 1024 * MIB)],
)
def test_unpacking_stops_at_a_hundred_times_two_gibibytes_or_what_texts_may_give(stored, allowed):
    budget = Budget(stored)
    budget.spend(allowed)
    with pytest.raises(Unreadable, match="compression_ratio"):
        budget.spend(1)


def test_metadata_at_any_length_is_cut_and_counted(tmp_path, stage):
    (tmp_path / "in").mkdir()
    rows = [{"text": "one", "title": "t" * 9_000, "url": "u" * 9_000}, {"text": "two", "title": "T"}]
    (tmp_path / "in" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    context = stage(CollectConfig(sources=(Files(path=str(tmp_path / "in")),)))
    collect.run(context)
    first, second = iter_documents(context.output)
    assert (first.title, first.url, second.title) == ("t" * limits.MAX_METADATA_CHARACTERS, "", "T")
    report = storage.read_json(context.output / "report.json")
    assert report["changed"]["metadata_cut"] == {"documents": 1, "places": 2}


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
    said = capsys.readouterr().err
    assert "names `never-there`, and no document was met" in said
    assert said.count("no document was met") == 1


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_copies_of_a_document_that_is_taken_down_go_with_it_whatever_their_source(folder, tmp_path, stage, workers):
    (folder / "0.txt").write_text((folder / "4.txt").read_text())
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "copy.txt").write_text((folder / "4.txt").read_text())
    (tmp_path / "more" / "other.txt").write_text("other")
    sources = (Files(path=str(tmp_path / "more")), Files(path=str(folder)))
    context = stage(CollectConfig(sources=sources, taken_down=("4.txt",)), workers=workers)
    collect.run(context)
    assert [d.path for d in iter_documents(context.output)] == ["other.txt", "1.txt", "2.txt", "3.txt", "5.txt"]
    report = storage.read_json(context.output / "report.json")
    assert report["dropped"]["taken_down"]["count"] == 1
    copies = report["dropped"]["taken_down_copy"]
    assert [one["path"] for one in copies["examples"]] == ["copy.txt", "0.txt"]
    assert "`4.txt`" in copies["examples"][0]["detail"]


def test_an_address_of_two_documents_does_not_hide_an_entry_that_met_none(tmp_path, stage, capsys):
    (tmp_path / "in").mkdir()
    rows = [{"text": f"text {n}", "url": "https://a.example/" if n < 2 else ""} for n in range(3)]
    (tmp_path / "in" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths, _ = run(stage, tmp_path / "in", taken_down=("https://a.example/", "gone"))
    assert paths == ["a.jsonl#3"]
    said = capsys.readouterr().err
    assert "names `gone`, and no document" in said
    assert "names `https://a.example/`" not in said


def test_collected_documents_carry_the_hash_of_their_text(folder, stage):
    context = stage(CollectConfig(sources=(Files(path=str(folder), licence="MIT"),)))
    collect.run(context)
    documents = list(iter_documents(context.output))
    assert len({d.raw_sha256 for d in documents}) == 6
    assert {(d.licence, d.licence_evidence) for d in documents} == {("MIT", "recipe")}
