"""Partitions are done once, tried again where they fail, set aside where they go on failing, wherever they run."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine_work import write_one

from chatwright.data import pool
from chatwright.data.document import DOCUMENTS_SCHEMA, Document, PartWriter
from chatwright.data.engine import Job, count_failed, read_tally, run_jobs
from chatwright.data.pool import MAX_ATTEMPTS, READ_ATTEMPTS
from chatwright.data.report import Tally
from chatwright.foundation.errors import DataError, RefusedError, StoppedError, UnreachableError
from chatwright.foundation.stage import StageContext


@pytest.fixture
def run(tmp_path):
    """Runs partitions of the kinds given; gives the results and how often each was tried."""

    def make(kinds, *, workers=1, engine="local"):
        marks = [tmp_path / f"{number}.mark" for number in range(len(kinds))]
        jobs = [Job(f"{n:04}", f"partition {n}", (kind, str(marks[n]))) for n, kind in enumerate(kinds)]
        output = tmp_path / "output"
        output.mkdir(exist_ok=True)
        context = StageContext(config=None, inputs={}, output=output, seed=0, workers=workers, engine=engine)
        results = run_jobs(write_one, jobs, context=context, label="test")
        return results, [len(mark.read_text()) if mark.exists() else 0 for mark in marks]

    return make


def test_what_fails_once_is_done_again_and_what_goes_on_failing_is_set_aside(run):
    results, attempts = run(["good", "fails once", "fails", "good"])
    assert attempts == [1, 2, MAX_ATTEMPTS, 1]
    assert [path.stem for path in results.paths] == ["0000", "0001", "0003"]
    assert results.failed == {"partition 2": f"ValueError: attempt {MAX_ATTEMPTS}"}
    tally = Tally()
    count_failed(results.failed, tally)
    assert tally.dropped["partition_failed"]["examples"][0]["detail"] == f"ValueError: attempt {MAX_ATTEMPTS}"


def test_what_is_done_is_not_done_again_and_what_failed_is_tried(run):
    run(["good", "fails once", "fails"])
    results, attempts = run(["good", "good", "good"])
    assert attempts == [1, 2, MAX_ATTEMPTS + 1]
    assert not results.failed
    assert sum(read_tally(path).documents for path in results.paths) == 3


def test_if_nothing_can_be_done_the_work_fails_with_the_cause(run):
    with pytest.raises(DataError, match="none of 2 partitions.*`partition 0`: ValueError"):
        run(["fails", "fails"])


def test_an_error_of_the_whole_work_is_not_tried_again(run):
    with pytest.raises(RefusedError, match="damaged input"):
        run(["refused", "good"])


def test_what_a_server_does_not_give_is_asked_for_again_and_then_ends_the_work(run, monkeypatch):
    monkeypatch.setattr(pool, "_PAUSE_S", 0.0)
    results, attempts = run(["good", "unreachable once", "good"])
    assert (attempts, results.failed) == ([1, 2, 1], {})
    with pytest.raises(UnreachableError, match=f"attempt {READ_ATTEMPTS} of {READ_ATTEMPTS}"):
        run(["good", "good", "good", "unreachable", "good"])
    results, attempts = run(["good"] * 5)
    assert attempts == [1, 2, 1, READ_ATTEMPTS + 1, 1]


def test_a_pause_grows_and_a_stop_ends_it(monkeypatch):
    paused = []

    def pause(seconds):
        paused.append(seconds)
        return len(paused) == 2

    def never(_):
        raise UnreachableError("no answer")

    with pytest.raises(UnreachableError):
        pool.try_call(never, None, pause=pause)
    assert pool._PAUSE_S <= paused[0] <= 2 * pool._PAUSE_S < paused[1]
    assert len(paused) == 2


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_during_a_pause_ends_the_work(tmp_path, workers):
    context = StageContext(config=None, inputs={}, output=tmp_path / "output", seed=0, workers=workers)
    marks = [tmp_path / f"{number}.mark" for number in range(2)]
    jobs = [Job(f"{n}", f"partition {n}", ("unreachable", str(mark))) for n, mark in enumerate(marks)]

    class StopOnceTried:
        def check(self, kept):
            if marks[0].exists():
                raise StoppedError(kept)

    with pytest.raises(StoppedError):
        run_jobs(write_one, jobs, context=dataclasses.replace(context, stop=StopOnceTried()), label="test")
    assert all(len(mark.read_text()) == 1 for mark in marks if mark.exists())


@pytest.mark.slow
def test_a_process_that_dies_takes_nothing_with_it(run):
    results, attempts = run(["good", "dies", "good", "dies once", "good", "good"], workers=2)
    assert [path.stem for path in results.paths] == ["0000", "0002", "0003", "0004", "0005"]
    assert list(results.failed) == ["partition 1"]
    assert "its process died" in results.failed["partition 1"]
    assert attempts[3] >= 2


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_files(run, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{here.parents[1] / 'src'}:{here}")
    try:
        results, _ = run(["good", "fails once", "fails", "good"], workers=2, engine="ray")
    finally:
        ray.shutdown()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert list(results.failed) == ["partition 2"]
    files = [path.read_bytes() for path in results.paths]
    for path in results.paths:
        path.unlink()
    again, _ = run(["good", "good", "fails", "good"])
    assert [path.read_bytes() for path in again.paths] == files


_STAGE = """
import sys
from pathlib import Path
from chatwright.data import clean_stage, limits
from chatwright.data.clean import CleanConfig
from chatwright.data.duplicates.passages import ParagraphsConfig, SiteLinesConfig
from chatwright.foundation.stage import StageContext
limits.PARTITION_BYTES = 1
config = CleanConfig(site_lines=SiteLinesConfig(remove=True), paragraphs=ParagraphsConfig(remove_repeats=True))
output = Path(sys.argv[2])
output.mkdir(exist_ok=True)
clean_stage.run(StageContext(config=config, inputs={"documents": Path(sys.argv[1])}, output=output, seed=0,
                             workers=int(sys.argv[3]), engine=sys.argv[4]))
"""


@pytest.fixture
def many_documents(tmp_path, prose):
    """Raw documents in four parts: some near copies, all with a line of their site, some with a paragraph."""
    directory = tmp_path / "documents"
    directory.mkdir()
    generator = random.Random(3)
    words = prose.split()
    known = [" ".join(generator.choices(words, k=12)) for _ in range(20)]
    for part in range(4):
        with PartWriter(directory / f"part-{part:05d}.parquet", DOCUMENTS_SCHEMA) as writer:
            for number in range(30):
                text = " ".join(generator.choices(words, k=200)) if number % 3 else f"{prose} {part} {number}"
                text = f"The pages of this site\n\n{text}" + (f"\n\n{generator.choice(known)}" if number % 4 else "")
                where = {"path": f"{part}/{number}", "url": f"https://site{part % 2}.org/{part}/{number}"}
                writer.add(Document(id=f"{part}-{number}", text=text, source="s", domain="d", **where))
    return directory


def stage(documents, output, *, workers=1, engine="local"):
    command = [sys.executable, "-c", _STAGE, str(documents), str(output), str(workers), engine]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def files_in(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.mark.slow
def test_twenty_kills_and_a_resume_give_the_same_corpus(tmp_path, many_documents):
    whole = tmp_path / "whole"
    began = time.monotonic()
    assert stage(many_documents, whole).wait() == 0
    life = time.monotonic() - began
    killed = tmp_path / "killed"
    generator = random.Random(7)
    kills = 0
    while kills < 20:
        process = stage(many_documents, killed)
        try:
            assert process.wait(timeout=generator.uniform(0.4, 1.0) * life) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            kills += process.wait() == -signal.SIGKILL
            life *= 1.02
        else:  # it came to its end: the next one begins anew
            assert files_in(killed) == files_in(whole)
            for place in tmp_path.glob("killed*"):  # and what lies beside it for the next call
                shutil.rmtree(place)
            life *= 0.9
    assert stage(many_documents, killed).wait() == 0
    assert files_in(killed) == files_in(whole)
    report = json.loads((whole / "report.json").read_bytes())
    assert report["changed"]["site_lines"]["documents"] > 100
    assert report["changed"]["repeated_paragraphs"]["documents"] > 40


@pytest.mark.slow
def test_processes_and_ray_give_the_same_corpus(tmp_path, many_documents):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    assert stage(many_documents, tmp_path / "one").wait() == 0
    assert stage(many_documents, tmp_path / "two", workers=2).wait() == 0
    assert stage(many_documents, tmp_path / "ray", workers=2, engine="ray").wait() == 0
    assert files_in(tmp_path / "one") == files_in(tmp_path / "two") == files_in(tmp_path / "ray")
