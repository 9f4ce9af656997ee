"""Partitions over processes: each result published as one work file under the partition's key, in a fixed order.

A work file that stands is done: a run that was killed goes on behind it. Nothing depends on who finishes first.
Not a cluster scheduler.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from chatwright.data.document import PartWriter
from chatwright.data.report import Tally
from chatwright.foundation import storage
from chatwright.foundation.console import ProgressLine
from chatwright.foundation.errors import DataError
from chatwright.foundation.stage import StageContext

_WORK = "work"
_TALLY = "chatwright.tally"
_QUEUED_PER_WORKER = 2


class Job(NamedTuple):
    """One partition of a stage's work."""

    key: str  # digest of all that the result depends on
    label: str  # for a person
    payload: Any  # what the work function is handed; crosses to another process


Work = Callable[[Any, Path], None]


def run_jobs(work: Work, jobs: Sequence[Job], *, context: StageContext, label: str) -> list[Path]:
    """Do every job that is not done yet; returns the work files in the order of `jobs`.

    Args:
        work: function at module level that writes the result of a payload to a path.
        jobs: with keys of their own.
        context: its `workers`, `stop` and `output` are used.
        label: of the progress line.

    Raises:
        DataError: a worker process died.
        StoppedError: a stop was asked for; what is finished is kept.
    """
    directory = work_directory(context)
    paths = [directory / f"{job.key}.parquet" for job in jobs]
    todo = [(job, path) for job, path in zip(jobs, paths, strict=True) if not path.exists()]
    progress = ProgressLine(label, len(jobs), start=len(jobs) - len(todo))
    run = _in_processes if context.workers > 1 and len(todo) > 1 else _in_this_process
    for done, finished in enumerate(run(work, todo, context), start=len(jobs) - len(todo) + 1):
        progress.update(done, finished.label)
    progress.close()
    return paths


def work_directory(context: StageContext) -> Path:
    """Where a stage keeps what is not published."""
    directory = context.output / _WORK
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def discard_work(context: StageContext) -> None:
    """Remove all work files: the stage's directory is about to be published."""
    shutil.rmtree(context.output / _WORK, ignore_errors=True)


@contextlib.contextmanager
def work_file(path: Path, schema: pa.Schema, tally: Tally) -> Iterator[PartWriter]:
    """Write a work file that carries its tally in its footer: both exist, or neither."""
    with PartWriter(path, schema) as writer:
        yield writer
        writer.close({_TALLY: json.dumps(dataclasses.asdict(tally), ensure_ascii=True)})


def read_tally(path: Path) -> Tally:
    """The tally in a work file's footer."""
    return Tally(**json.loads(pq.read_metadata(path).metadata[_TALLY.encode()]))


def _in_this_process(work: Work, todo: list[tuple[Job, Path]], context: StageContext) -> Iterator[Job]:
    for job, path in todo:
        context.stop.check("the partitions finished so far")
        _publish_result(work, job.payload, path)
        yield job


def _in_processes(work: Work, todo: list[tuple[Job, Path]], context: StageContext) -> Iterator[Job]:
    spawn = multiprocessing.get_context("spawn")  # forking a process with threads can deadlock
    workers = min(context.workers, len(todo))
    waiting = iter(todo)
    running: dict[concurrent.futures.Future[None], Job] = {}
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start_worker) as pool:
        try:
            while True:
                context.stop.check("the partitions finished so far")
                for job, path in _take(waiting, workers * _QUEUED_PER_WORKER - len(running)):
                    running[pool.submit(_publish_result, work, job.payload, path)] = job
                if not running:
                    return
                finished, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in finished:
                    job = running.pop(future)
                    _raise_failure(future, job)
                    yield job
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _take(jobs: Iterator[tuple[Job, Path]], count: int) -> list[tuple[Job, Path]]:
    return [job for _, job in zip(range(count), jobs, strict=False)]


def _raise_failure(future: "concurrent.futures.Future[None]", job: Job) -> None:
    try:
        future.result()
    except BrokenProcessPool as error:
        raise DataError(
            f"a worker process died, probably while it worked on `{job.label}`",
            cause="it was killed, or the machine ran out of memory",
            kept="the partitions finished so far",
            hint="run the same command again: it goes on there; with fewer workers it needs less memory",
        ) from error


def _publish_result(work: Work, payload: Any, path: Path) -> None:
    with storage.publish_file(path) as scratch:
        work(payload, scratch)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and never outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()


def _die_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
