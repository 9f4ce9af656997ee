"""Which partitions of sources with caps are read: as few as fill the cap, from the first on.

They are read in waves, each at most as long as all before it. What a wave read beyond what was needed is left out, so
that the result depends neither on the length of waves nor on the number of workers. Sources without caps are read
whole. Not for the cap on documents: `Cap.through` is exact, and looks at the same order.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from chatwright.data.document import open_part
from chatwright.data.engine import Job, Results, Work, read_notes, run_jobs
from chatwright.data.sources.limited import Cap
from chatwright.data.sources.partition import Listing
from chatwright.foundation.config import Config
from chatwright.foundation.stage import StageContext


class Queue:
    """The partitions of one source, listed as far as they were asked for."""

    def __init__(self, source: Config, jobs: Iterator[Job], listing: Listing):
        self.source = source
        self.asked: list[Job] = []
        self._jobs = jobs
        self._listing = listing

    @property
    def is_capped(self) -> bool:
        """Whether it may be filled before its last partition."""
        return Cap(self.source).is_set

    def ask(self, number: int | None) -> list[Job]:
        """The next so many jobs, or all that are left; fewer at the end."""
        jobs = list(itertools.islice(self._jobs, number))
        self.asked += jobs
        return jobs

    def behind(self, number: int) -> list[Job]:
        """All jobs behind the first so many, by the names of their inputs alone: none of them is done."""
        self._listing.names_suffice = True
        self.asked += self._jobs
        return self.asked[number:]


class Read(NamedTuple):
    """What was read of a source, as far as it was needed."""

    paths: list[Path]  # work files in the order of their partitions
    failed: dict[str, str]  # label of each partition that was set aside, with its last failure
    unread: list[Job]  # what the cap made needless; its inputs are named, perhaps in other pieces than they are read in


def read_in_waves(work: Work, queues: Sequence[Queue], *, context: StageContext, label: str) -> list[Read]:
    """Do the jobs of each queue, of one with a cap as few as fill it.

    Args:
        work: function at module level that writes the documents of a payload to a path; its notes name texts that no
            source may give (`raw_sha256`), and which fill no cap.
        queues: of the sources in their order.
        context: of the stage.
        label: of the progress line.

    Raises:
        DataError: not one partition could be done.
        StoppedError: a stop was asked for; finished partitions are kept.
    """
    files = _WorkFiles()

    def more(results: Results) -> list[Job]:
        done = {path.stem: path for path in results.paths}
        wanted = []
        for queue, need in zip(queues, _needed(queues, done, files), strict=True):
            if not need.cap.is_reached:
                wanted += queue.ask(_wave(queue, need.cap, context.workers))
        return wanted

    first = [job for queue in queues for job in queue.ask(context.workers if queue.is_capped else None)]
    results = run_jobs(work, first, context=context, label=label, more=more)
    done = {path.stem: path for path in results.paths}
    return [
        _read(queue, need.partitions, done, results.failed)
        for queue, need in zip(queues, _needed(queues, done, files), strict=True)
    ]


class _Need(NamedTuple):
    partitions: int  # from the first on, of those that were asked for
    cap: Cap  # as they fill it


def _needed(queues: Sequence[Queue], done: dict[str, Path], files: "_WorkFiles") -> list[_Need]:
    """How many partitions of each source fill its cap, or all that were asked for.

    A text that was taken down fills no cap, and only partitions that are needed say which those are: so the numbers
    grow from none until nothing changes, which has one outcome, whatever was read beside.
    """
    needs = [_Need(0 if queue.is_capped else len(queue.asked), Cap(queue.source)) for queue in queues]
    while True:
        taken_down = frozenset(
            digest
            for queue, need in zip(queues, needs, strict=True)
            for path in _paths(queue.asked[: need.partitions], done)
            for digest in files.taken_down(path)
        )
        grown = [_need(queue, done, files, taken_down) for queue in queues]
        if [need.partitions for need in grown] == [need.partitions for need in needs]:
            return grown
        needs = grown


def _need(queue: Queue, done: dict[str, Path], files: "_WorkFiles", taken_down: frozenset[str]) -> _Need:
    cap = Cap(queue.source)
    if not queue.is_capped:
        return _Need(len(queue.asked), cap)
    for number, job in enumerate(queue.asked):
        if cap.is_reached:
            return _Need(number, cap)
        for path in _paths([job], done):
            cap.add(*files.amount(path, taken_down))
    return _Need(len(queue.asked), cap)


def _wave(queue: Queue, cap: Cap, workers: int) -> int:
    """As many partitions as fill the cap if they give what those before gave; at most as many as those."""
    before, filled = len(queue.asked), cap.filled
    enough = math.ceil(before * (1.0 - filled) / filled) if filled else before
    return max(workers, min(before, enough))


def _read(queue: Queue, needed: int, done: dict[str, Path], failed: dict[str, str]) -> Read:
    own = queue.asked[:needed]
    labels = {job.label for job in own}
    return Read(
        _paths(own, done),
        {label: failure for label, failure in failed.items() if label in labels},
        queue.behind(needed),
    )


def _paths(jobs: Sequence[Job], done: dict[str, Path]) -> list[Path]:
    return [done[job.key] for job in jobs if job.key in done]


class _Amount(NamedTuple):
    documents: int
    bytes: int  # of text, UTF-8


class _WorkFiles:
    """What work files say that decides how many are needed, each read once for each set of texts taken down."""

    def __init__(self) -> None:
        self._taken_down: dict[Path, frozenset[str]] = {}
        self._amounts: dict[tuple[Path, frozenset[str]], _Amount] = {}

    def taken_down(self, path: Path) -> frozenset[str]:
        """Digests of texts that its notes name."""
        if path not in self._taken_down:
            self._taken_down[path] = frozenset(note["raw_sha256"] for note in read_notes(path))
        return self._taken_down[path]

    def amount(self, path: Path, without: frozenset[str]) -> _Amount:
        """Documents but for those texts, and their bytes."""
        if (path, without) not in self._amounts:
            self._amounts[path, without] = _amount(path, without)
        return self._amounts[path, without]


def _amount(path: Path, without: frozenset[str]) -> _Amount:
    documents = size = 0
    with open_part(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["text", "raw_sha256"])
            if without:
                gone = pc.is_in(table["raw_sha256"], value_set=pa.array(sorted(without), pa.string()))
                table = table.filter(pc.invert(gone))
            documents += table.num_rows
            size += pc.sum(pc.binary_length(table["text"])).as_py() or 0
    return _Amount(documents, size)
