"""Sources with caps are read no further than their caps need, and give what reading them whole would give."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatwright.data import collect, limits
from chatwright.data.collect import CollectConfig
from chatwright.data.document import iter_documents
from chatwright.data.report import Tally
from chatwright.data.sources import Files, files, list_partitions, read_partition
from chatwright.data.sources.limited import Cap
from chatwright.foundation import storage


@pytest.fixture
def folder_of(tmp_path, monkeypatch, prose):
    """Makes a folder of texts of different lengths, each in a partition of its own."""
    monkeypatch.setattr(limits, "PARTITION_INPUTS", 1)

    def make(name, count, *, texts=()):
        path = tmp_path / name
        path.mkdir()
        for number in range(count):
            text = dict(texts).get(number, f"{name} {number}. {prose[: 40 + 37 * number % 200]}")
            (path / f"{number:02}.txt").write_text(text)
        return path

    return make


@pytest.fixture
def read(monkeypatch):
    """Labels of the partitions that are read, in their order."""
    labels = []
    original = collect.collect_partition

    def noted(payload, path):
        labels.append(payload.partition.label)
        original(payload, path)

    monkeypatch.setattr(collect, "collect_partition", noted)
    return labels


def taken(context):
    return [(document.domain, document.path) for document in iter_documents(context.output)]


def test_no_more_partitions_are_read_than_a_cap_needs(folder_of, stage, read):
    context = stage(CollectConfig(sources=(Files(path=str(folder_of("many", 40)), max_documents=5),)))
    collect.run(context)
    assert read == [f"{number:02}.txt" for number in range(5)]
    over = storage.read_json(context.output / "report.json")["dropped"]["over_cap"]
    assert (over["count"], over["examples"][0]["path"]) == (35, "05.txt")


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("cap", [{"max_bytes": 1}, {"max_bytes": 1500}, {"max_documents": 7, "max_bytes": 10**6}])
def test_what_is_taken_and_told_is_that_of_reading_everything(folder_of, stage, cap, workers):
    capped, whole = folder_of("capped", 30), folder_of("whole", 4)
    sources = (Files(path=str(capped), **cap), Files(path=str(whole)), Files(path=str(capped), max_documents=2))
    context = stage(CollectConfig(sources=sources), workers=workers)
    collect.run(context)
    expected = []
    for source in sources:
        found = (document for one in list_partitions(source) for document in read_partition(source, one, Tally()))
        expected += [(document.domain, document.path) for document in Cap(source).through(found, Tally())]
    assert taken(context) == expected
    report = storage.read_json(context.output / "report.json")
    assert [one["dropped"].get("over_cap", 0) for one in report["sources"]] == [
        30 - report["sources"][0]["documents"],
        0,
        28,
    ]


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_what_is_taken_down_fills_no_cap_whichever_source_names_it(folder_of, stage, prose, workers):
    same = f"The same text in two folders. {prose}"
    capped, named = folder_of("capped", 20, texts={2: same}), folder_of("named", 20, texts={3: same})
    sources = (Files(path=str(capped), max_documents=4), Files(path=str(named), max_documents=3))
    # The text of `capped/02.txt` is named in the other source: without it four more of `capped` are needed, not three.
    config = CollectConfig(sources=sources, taken_down=("00.txt", "03.txt"))
    context = stage(config, workers=workers)
    collect.run(context)
    assert taken(context) == [
        *(("capped", f"{number:02}.txt") for number in (1, 4, 5, 6)),
        *(("named", f"{number:02}.txt") for number in (1, 2, 4)),
    ]


def test_an_entry_that_lies_behind_a_cap_is_told(folder_of, stage, capsys):
    source = Files(path=str(folder_of("many", 40)), max_documents=5)
    collect.run(stage(CollectConfig(sources=(source,), taken_down=("39.txt",))))
    assert "names `39.txt`, and no document was met by that name" in capsys.readouterr().err


def test_a_partition_that_fails_first_does_not_end_a_source_with_a_cap(folder_of, stage, monkeypatch):
    original = collect.collect_partition

    def fails_at_first(payload, path):
        if payload.partition.label == "00.txt":
            raise ValueError("always")
        original(payload, path)

    monkeypatch.setattr(collect, "collect_partition", fails_at_first)
    context = stage(CollectConfig(sources=(Files(path=str(folder_of("many", 9)), max_documents=3),)))
    summary = collect.run(context)
    assert [path for _, path in taken(context)] == ["01.txt", "02.txt", "03.txt"]
    assert summary["dropped"] == {"over_cap": 5, "partition_failed": 1}


def test_a_cap_is_filled_without_looking_into_the_files_behind_it(tmp_path, stage, monkeypatch):
    monkeypatch.setattr(limits, "PARTITION_BYTES", 1)
    (tmp_path / "tables").mkdir()
    for number in range(9):
        path = tmp_path / "tables" / f"{number}.parquet"
        pq.write_table(pa.table({"text": [f"{number}.{row}" for row in range(4)]}), path, row_group_size=2)
    footers, original = [], files.row_groups

    def noted(file, **settings):
        footers.append(file)
        return original(file, **settings)

    monkeypatch.setattr(files, "row_groups", noted)
    context = stage(CollectConfig(sources=(Files(path=str(tmp_path / "tables"), max_documents=3),)))
    collect.run(context)
    assert [document.text for document in iter_documents(context.output)] == ["0.0", "0.1", "0.2"]
    assert len(footers) <= 2
    report = storage.read_json(context.output / "report.json")
    assert report["dropped"]["over_cap"]["count"] == 1 + 8  # the row of the group, and files that were not read


def test_lines_behind_a_cap_are_not_counted_through(tmp_path, stage, monkeypatch):
    monkeypatch.setattr(limits, "PARTITION_BYTES", 100)
    monkeypatch.setattr(limits, "MIB", 100)  # what is read at once
    lines = "".join(json.dumps({"text": f"line {number:04}"}) + "\n" for number in range(1000))
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "a.jsonl").write_text(lines)
    pieces, original = [], files.lines_in_pieces

    def noted(file, **settings):
        for piece in original(file, **settings):
            pieces.append(piece)
            yield piece

    monkeypatch.setattr(files, "lines_in_pieces", noted)
    context = stage(CollectConfig(sources=(Files(path=str(tmp_path / "lines"), max_documents=9),)))
    collect.run(context)
    assert [document.text for document in iter_documents(context.output)] == [f"line {n:04}" for n in range(9)]
    assert len(pieces) < 12
    over = storage.read_json(context.output / "report.json")["dropped"]["over_cap"]
    assert over["examples"][0] == {
        "id": "",
        "path": "a.jsonl",
        "detail": "a cap of the source is reached; it was not read, or not to its end",
    }
