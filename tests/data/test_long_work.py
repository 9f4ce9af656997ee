"""What takes long can be stopped, says what it waits for, and does not depend on the folder that somebody stands in."""

import dataclasses
import io
import os
import sys
from pathlib import Path

import pytest
from engine_work import write_one

from chatwright.data import clean_phases, collect, stretch
from chatwright.data.clean import CleanConfig
from chatwright.data.document import DOCUMENTS_SCHEMA, PartWriter
from chatwright.data.engine import Job, run_jobs
from chatwright.data.parts import kept_documents
from chatwright.data.report import Totals
from chatwright.data.sources import Listing, Website
from chatwright.data.stretch import Stretch
from chatwright.foundation.errors import RefusedError, StoppedError
from chatwright.foundation.stopping import StopFlag


def jobs_of(folder, *kinds):
    return [Job(f"{n:04}", f"partition {n}", (kind, str(folder / f"{n}.mark"))) for n, kind in enumerate(kinds)]


@pytest.mark.slow
def test_a_stop_ends_a_partition_that_is_being_worked_on_and_keeps_what_is_finished(tmp_path, stage):
    class StopOnceItHangs:
        def check(self, kept):
            if (tmp_path / "1.mark.hangs").exists() and any(context.work.glob("0000.parquet")):
                raise StoppedError(kept)

    context = dataclasses.replace(stage(None, workers=2), stop=StopOnceItHangs())
    with pytest.raises(StoppedError):
        run_jobs(write_one, jobs_of(tmp_path, "good", "hangs", "good"), context=context, label="test")
    assert not (tmp_path / "1.mark.ended").exists()
    assert (context.work / "0000.parquet").exists()
    assert not (context.work / "0001.parquet").exists()
    assert not list(context.work.glob(".*"))  # nothing half written lies about


@pytest.mark.slow
def test_where_an_error_ends_the_work_it_is_said_that_others_are_waited_for(tmp_path, stage, capsys):
    class FailOnceItHangs:
        def check(self, kept):
            if (tmp_path / "0.mark.hangs").exists():
                (tmp_path / "0.mark.go").touch()
                raise RefusedError(kept)

    context = dataclasses.replace(stage(None, workers=2), stop=FailOnceItHangs())
    with pytest.raises(RefusedError):
        run_jobs(write_one, jobs_of(tmp_path, "hangs", "good"), context=context, label="test")
    assert "waiting for partitions that are at work" in capsys.readouterr().err
    assert (context.work / "0000.parquet").exists()


def test_further_jobs_may_follow_from_what_was_done(tmp_path, stage):
    jobs = jobs_of(tmp_path, *["good"] * 5)
    seen = []

    def more(results):
        seen.append([path.stem for path in results.paths])
        return jobs[len(results.paths) : len(results.paths) + 2]

    results = run_jobs(write_one, jobs[:1], context=stage(None), label="test", more=more)
    assert [path.stem for path in results.paths] == [job.key for job in jobs]
    assert [len(paths) for paths in seen] == [1, 3, 5]


def test_the_folder_that_a_worker_stands_in_does_not_matter(tmp_path, stage, monkeypatch):
    monkeypatch.chdir(tmp_path)
    context = dataclasses.replace(stage(None), output=Path("output"))
    results = run_jobs(write_one, jobs_of(tmp_path, "elsewhere", "elsewhere"), context=context, label="test")
    assert [path.is_relative_to(tmp_path) for path in results.paths] == [True, True]
    assert all(path.exists() for path in results.paths)


def test_what_workers_read_is_named_by_its_whole_path(tmp_path, monkeypatch, make_document):
    monkeypatch.chdir(tmp_path)
    Path("documents").mkdir()
    with PartWriter(Path("documents/part-00000.parquet"), DOCUMENTS_SCHEMA) as writer:
        writer.add(make_document())
    (job,) = clean_phases._jobs(CleanConfig(), Path("documents"), None)
    assert job.payload.part == str(tmp_path / "documents" / "part-00000.parquet")
    site = Website(start=("https://a.example/",), contact="me@example.org")
    assert collect._with_whole_store(site).store == str(tmp_path / "crawls" / "a.example")


@pytest.fixture
def work_file(tmp_path, make_document):
    with PartWriter(tmp_path / "work.parquet", DOCUMENTS_SCHEMA) as writer:
        for number in range(5):
            writer.add(make_document(number=number))
    return tmp_path / "work.parquet"


def test_writing_parts_stops_between_two_documents(work_file):
    stop = StopFlag()
    documents = kept_documents([work_file], totals=Totals(), by_source=Totals(), stop=stop)
    assert next(documents).path == "0.txt"
    stop.requested = True
    with pytest.raises(StoppedError):
        next(documents)


def test_long_work_says_how_far_it_is_and_short_work_nothing(work_file, monkeypatch, capsys):
    def write():
        list(kept_documents([work_file], totals=Totals(), by_source=Totals(), stop=StopFlag()))
        return capsys.readouterr().err

    assert write() == ""
    monkeypatch.setattr(stretch, "_QUIET_S", 0.0)
    assert "write documents 0/5 (0%)" in write()


@pytest.mark.parametrize("make", [Stretch, Listing])
def test_without_a_flag_nothing_is_said_or_asked_twice(make, monkeypatch, capsys):
    monkeypatch.setattr(stretch, "_QUIET_S", 0.0)
    one = make("label")
    assert list(one.through("abc", total=3)) == ["a", "b", "c"]
    assert one.ask(os.getpid) == os.getpid()
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    """What stands for a person's terminal."""

    def isatty(self):
        return True


def test_the_line_of_work_that_is_left_ends(monkeypatch):
    monkeypatch.setattr(stretch, "_QUIET_S", 0.0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    items = Stretch("label", stop=StopFlag()).through("abc", total=3)
    next(items)
    items.close()
    assert sys.stderr.getvalue() == "\r  label 0/3 (0%)\n"


def test_what_a_stop_leaves_is_said():
    stop = StopFlag()
    stop.requested = True
    with pytest.raises(StoppedError) as caught:
        Stretch(stop=stop, kept="three shards").check()
    assert caught.value.kept == "three shards"
