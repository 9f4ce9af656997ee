"""Partitions over processes or a cluster: each result one published work file under the partition's key, in order.

A work file that stands is done: a run that was killed goes on behind it. Nothing depends on who finishes first.
Not a cluster scheduler.
"""

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from chatwright.data.cluster import map_on_ray
from chatwright.data.document import PartWriter
from chatwright.data.pool import Outcome, map_in_processes, map_in_this_process
from chatwright.data.report import Tally
from chatwright.foundation import storage
from chatwright.foundation.console import ProgressLine
from chatwright.foundation.errors import DataError
from chatwright.foundation.stage import TRY_AGAIN, StageContext

_WORK = "work"  # within the output: where earlier versions kept what is not published
TALLY = "chatwright.tally"
NOTES = "chatwright.notes"
_FAILED = "partition_failed"


class Job(NamedTuple):
    """One partition of a stage's work."""

    key: str  # digest of all that the result depends on
    label: str  # for a person
    payload: Any  # what the work function is handed; crosses to another process


Work = Callable[[Any, Path], None]


class Results(NamedTuple):
    """What came of the jobs."""

    paths: list[Path]  # work files of what was done, in the order of the jobs
    failed: dict[str, str]  # label of each partition that was set aside, with its last failure


def run_jobs(
    work: Work,
    jobs: Sequence[Job],
    *,
    context: StageContext,
    label: str,
    more: Callable[[Results], Sequence[Job]] | None = None,
) -> Results:
    """Do every job that is not done yet. One that fails again and again is set aside, and the rest goes on.

    Args:
        work: function at module level that writes the result of a payload to a path.
        jobs: with keys of their own.
        context: its `workers`, `engine`, `stop` and `output` are used.
        label: of the progress line.
        more: called with the results of all jobs so far; gives further ones, none at the end.

    Raises:
        DataError: not one job could be done.
        StoppedError: a stop was asked for; what is finished is kept.
    """
    directory, progress = work_directory(context), _Progress(label)
    label_of: dict[Path, str] = {}  # of all jobs, in their order
    failed: dict[Path, str] = {}
    wave, results = jobs, Results([], {})
    while wave:
        paths = [directory / f"{job.key}.parquet" for job in wave]
        label_of |= {path: job.label for job, path in zip(wave, paths, strict=True)}
        todo = [_Task(work, job.payload, path) for job, path in zip(wave, paths, strict=True) if not path.exists()]
        progress.expect(len(wave), are_done=len(wave) - len(todo))
        for number, failure in _outcomes(todo, context):
            path = todo[number].path
            if failure is not None:
                failed[path] = failure
            progress.done(label_of[path], None if path in failed else path)
        results = Results(
            [path for path in label_of if path not in failed],
            {label_of[path]: failure for path, failure in failed.items()},
        )
        wave = more(results) if more is not None else ()
    progress.close()
    if failed and not results.paths:
        path = next(path for path in label_of if path in failed)
        raise DataError(
            f"none of {len(label_of)} partitions could be done, such as `{label_of[path]}`: {failed[path]}",
            hint="see what that partition holds; what failed is tried again by the same command",
        )
    return results


def _outcomes(todo: "list[_Task]", context: StageContext) -> Iterator[Outcome]:
    def check() -> None:
        context.stop.check("the partitions finished so far")

    workers = min(context.workers, len(todo))
    if context.engine == "ray" and todo:
        return map_on_ray(_publish_result, todo, check, workers=workers)
    if workers > 1:
        return map_in_processes(_publish_result, todo, check, workers=workers)
    return map_in_this_process(_publish_result, todo, check)


class _Task(NamedTuple):
    work: Work
    payload: Any
    path: Path


class _Progress:
    """Partitions done, documents a second so far, time left."""

    def __init__(self, label: str):
        self._label = label
        self._line: ProgressLine | None = None
        self._total = self._done = self._documents = 0
        self._began = time.monotonic()

    def expect(self, number: int, *, are_done: int) -> None:
        """Count partitions that are to be done, or were done before."""
        self._total += number
        self._done += are_done
        self._line = self._line or ProgressLine(self._label, self._total, start=self._done)

    def done(self, label: str, path: Path | None) -> None:
        """Count a partition that was done, or (without a path) set aside."""
        self._done += 1
        self._documents += read_tally(path).documents if path else 0
        seconds = max(1e-3, time.monotonic() - self._began)
        state = f"{self._documents / seconds:,.0f} documents/s | {label}" if path else f"set aside: {label}"
        if self._line is not None:
            self._line.update(self._done, state, total=self._total)

    def close(self) -> None:
        """End the line."""
        if self._line is not None:
            self._line.close()


def work_directory(context: StageContext) -> Path:
    """Where a stage keeps what is not published; what an earlier version left half done is moved there.

    The whole path: whoever works on a partition, perhaps on another machine, may stand in another folder.
    """
    before, work = context.output / _WORK, context.work.absolute()
    if before.is_dir():
        shutil.rmtree(work, ignore_errors=True)
        before.rename(work)
    work.mkdir(parents=True, exist_ok=True)
    return work


@contextlib.contextmanager
def work_file(
    path: Path, schema: pa.Schema, tally: Tally, *, notes: list[dict[str, Any]] | None = None
) -> Iterator[PartWriter]:
    """Write a work file that carries its tally and its notes in its footer: all of it exists, or nothing."""
    with PartWriter(path, schema) as writer:
        yield writer
        said = {TALLY: dataclasses.asdict(tally), NOTES: notes or []}
        writer.close({name: json.dumps(value, ensure_ascii=True) for name, value in said.items()})


def read_tally(path: Path) -> Tally:
    """The tally in a work file's footer."""
    return Tally(**json.loads(pq.read_metadata(path).metadata[TALLY.encode()]))


def read_notes(path: Path) -> list[dict[str, Any]]:
    """The notes in a work file's footer; none in one of an earlier version."""
    notes: list[dict[str, Any]] = json.loads(pq.read_metadata(path).metadata.get(NOTES.encode(), b"[]"))
    return notes


def count_failed(failed: dict[str, str], tally: Tally) -> None:
    """Count the partitions that were set aside, each with its last failure."""
    for label, failure in sorted(failed.items()):
        tally.drop(_FAILED, path=label, detail=failure)


def to_try_again(tally: Tally, **others: int) -> dict[str, Any]:
    """What a stage's summary says of partitions that were set aside, and of `others`; nothing where all was done."""
    counts = {"partitions": tally.dropped.get(_FAILED, {"count": 0})["count"], **others}
    left = {name: count for name, count in counts.items() if count}
    return {TRY_AGAIN: left} if left else {}


def _publish_result(task: _Task) -> None:
    with storage.publish_file(task.path) as scratch:
        task.work(task.payload, scratch)
