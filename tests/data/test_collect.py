import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time

import fsspec
import pytest

from chatwright.data import collect, limits
from chatwright.data.collect import CollectConfig
from chatwright.data.document import iter_documents
from chatwright.data.sources import Files, Hub, PythonDocs, hub, list_partitions
from chatwright.foundation import storage
from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError, DataError, StoppedError

COMMIT = "c0ffee" + "0" * 34


@pytest.fixture
def folder(tmp_path, monkeypatch, prose):
    """Six texts, each in a partition of its own."""
    monkeypatch.setattr(limits, "PARTITION_INPUTS", 1)
    path = tmp_path / "texts"
    path.mkdir()
    for number in range(6):
        (path / f"{number}.txt").write_text(f"{prose} Number {number}.")
    return path


def config_of(*folders):
    return CollectConfig(sources=tuple(Files(path=str(folder)) for folder in folders))


def files_in(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_documents_and_a_report_are_written_and_nothing_else(folder, stage):
    (folder / "broken.parquet").write_bytes(b"no")
    context = stage(config_of(folder))
    summary = collect.run(context)
    assert set(files_in(context.output)) == {"part-00000.parquet", "report.json"}
    assert [d.path for d in iter_documents(context.output)] == [f"{n}.txt" for n in range(6)]
    report = storage.read_json(context.output / "report.json")
    assert report["documents"] == summary["documents"] == 6
    assert report["dropped"]["damaged_parquet"]["examples"][0]["path"] == "broken.parquet"
    assert report["by_domain"]["texts"]["documents"] == 6
    json.dumps(summary)


def test_a_dropped_file_is_said_to_the_person(folder, stage, capsys):
    (folder / "broken.parquet").write_bytes(b"no")
    collect.run(stage(config_of(folder)))
    assert "broken.parquet" in capsys.readouterr().err


@pytest.mark.slow
def test_the_number_of_workers_changes_no_byte(folder, stage):
    outputs = []
    for workers in (1, 2):
        context = stage(config_of(folder), name=f"w{workers}", workers=workers)
        collect.run(context)
        outputs.append(files_in(context.output))
    assert outputs[0] == outputs[1]


def test_finished_partitions_are_not_read_again(folder, stage, monkeypatch):
    context = stage(config_of(folder))
    context.stop.requested = False
    read = []
    original = collect.collect_partition

    def stop_after_two(payload, path):
        original(payload, path)
        read.append(payload.partition.label)
        context.stop.requested = len(read) == 2

    monkeypatch.setattr(collect, "collect_partition", stop_after_two)
    with pytest.raises(StoppedError):
        collect.run(context)
    context.stop.requested = False
    collect.run(context)
    assert read == [f"{n}.txt" for n in range(6)]


def test_a_torn_work_file_is_not_trusted(folder, stage):
    context = stage(config_of(folder))
    context.work.mkdir()
    (context.work / ".deadbeef.parquet.partial").write_bytes(b"torn")
    collect.run(context)
    assert set(files_in(context.output)) == {"part-00000.parquet", "report.json"}


KILLED = """
import sys
from pathlib import Path
from chatwright.data import collect, limits
from chatwright.data.sources import Files
from chatwright.foundation.stage import StageContext

limits.PARTITION_INPUTS = 1
original = collect.collect_partition
done = []
def slow(payload, path):
    original(payload, path)
    if len(done) == 3:
        print("three", flush=True)
        sys.stdin.read()
    done.append(1)
collect.collect_partition = slow
config = collect.CollectConfig(sources=(Files(path=sys.argv[1]),))
collect.run(StageContext(config=config, inputs={}, output=Path(sys.argv[2]), seed=0))
"""


@pytest.mark.slow
def test_after_a_kill_the_result_is_that_of_an_unbroken_run(folder, stage):
    whole, killed = stage(config_of(folder), name="whole"), stage(config_of(folder), name="killed")
    collect.run(whole)
    command = [sys.executable, "-c", KILLED, str(folder), str(killed.output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"three\n"
        os.kill(process.pid, signal.SIGKILL)
    finished = {path: path.stat().st_mtime_ns for path in killed.work.glob("[!.]*.parquet")}
    assert len(finished) == 3
    collect.run(killed)
    assert files_in(killed.output) == files_in(whole.output)


@pytest.mark.parametrize("kind", ["files", "hub"])
def test_a_lone_surrogate_beside_the_text_costs_no_other_document(tmp_path, monkeypatch, kind):
    rows = [{"text": f"text {n}", "title": "\ud83d" if n == 3 else "", "licence": "\ud83d"} for n in range(10)]
    folder = tmp_path / "datasets" / "someone" / f"books@{COMMIT}"
    folder.mkdir(parents=True)
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    system = fsspec.filesystem("dir", path=str(tmp_path), fs=fsspec.filesystem("file"))
    monkeypatch.setattr(hub, "_file_system", lambda: system)  # the same interface, no network
    source = (
        Files(path=str(folder)) if kind == "files" else Hub(dataset="someone/books", files="*.jsonl", revision=COMMIT)
    )
    (partition,) = list_partitions(source)
    collect.collect_partition(collect._Payload(source, partition, frozenset()), tmp_path / "part-00000.parquet")
    documents = list(iter_documents(tmp_path))
    assert [d.text for d in documents] == [f"text {n}" for n in range(10)]
    assert documents[3].title == "\N{REPLACEMENT CHARACTER}"


def test_sources_of_several_kinds_stand_in_one_recipe():
    data = {"sources": [{"kind": "python-docs", "packages": ["*"]}, {"kind": "hub", "dataset": "a/b"}]}
    config = validate(CollectConfig, data, where="x")
    assert [type(source) for source in config.sources] == [PythonDocs, Hub]


def test_mistakes_in_sources_are_named_with_their_place():
    data = {"sources": [{"kind": "files", "path": "x", "pth": 1}, {"kind": "web"}]}
    with pytest.raises(ConfigError) as caught:
        validate(CollectConfig, data, where="x")
    assert len(caught.value.problems) == 2
    assert all("sources." in problem for problem in caught.value.problems)


def websites(*settings):
    fixed = {"kind": "website", "contact": "me@example.org"}
    return {"sources": [{**fixed, "start": ["https://a.example/docs/"], **one} for one in settings]}


def test_two_websites_that_crawl_otherwise_share_no_store():
    news = {"start": ["https://a.example/news/"]}
    with pytest.raises(ConfigError) as caught:
        validate(CollectConfig, websites({}, news, {"store": "./crawls/a.example", "max_depth": 1}), where="x")
    (problem,) = caught.value.problems
    assert "two sources `website` share the store `" in problem
    assert "/crawls/a.example`: " in problem
    assert "give each its own `store`" in problem


@pytest.mark.parametrize(
    "second", [{"start": ["https://a.example/news/"], "store": "crawls/news"}, {"domain": "other", "noindex": "keep"}]
)
def test_websites_with_a_store_of_their_own_or_the_same_crawl_are_accepted(second):
    assert len(validate(CollectConfig, websites({}, second), where="x").sources) == 2


def test_a_website_without_a_sound_start_is_named_once():
    with pytest.raises(ConfigError) as caught:
        validate(CollectConfig, websites({"start": []}, {"start": ["nowhere"]}), where="x")
    assert len(caught.value.problems) == 2


def test_no_source_is_a_mistake():
    with pytest.raises(ConfigError):
        validate(CollectConfig, {"sources": []}, where="x")


def test_sources_without_text_stop_with_the_place_and_the_reasons(tmp_path, stage):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.bin").write_bytes(b"\0")
    with pytest.raises(DataError, match="no text") as caught:
        collect.run(stage(config_of(tmp_path / "texts")))
    assert "unsupported_format: 1" in caught.value.cause
    assert "texts" in caught.value.what


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_an_empty_or_missing_folder_stops_with_its_name(tmp_path, stage, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=name):
        collect.run(stage(config_of(tmp_path / name)))


def test_the_fingerprint_changes_with_any_source(folder):
    before = collect.fingerprint(config_of(folder))
    (folder / "new.txt").write_text("x")
    assert collect.fingerprint(config_of(folder)) != before


def test_the_fingerprint_of_all_packages_takes_a_moment_for_each():
    packages = len(list(importlib.metadata.distributions()))
    began = time.process_time()
    collect.fingerprint(CollectConfig(sources=(PythonDocs(packages=("*",)),)))
    assert time.process_time() - began < 0.5 + 0.01 * packages


def test_workers_do_not_import_torch():
    code = "import sys, chatwright.data.collect, chatwright.data.clean_stage; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
