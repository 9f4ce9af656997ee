"""The rounds over all partitions that cleaning takes: one, and two more for each thing that has to be counted first.

Lines of sites: sound texts are written, their lines counted, and then they are judged. Paragraphs: once copies of
whole documents are known, the rest is counted and written anew. Each round's partitions resume by themselves.
"""

from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from chatwright.data import limits
from chatwright.data.clean import CleanConfig
from chatwright.data.clean_partition import (
    Payload,
    SoundPayload,
    clean_partition,
    judge_partition,
    sound_partition,
)
from chatwright.data.document import open_part, part_files
from chatwright.data.duplicates.decontaminate import EvaluationCounts
from chatwright.data.duplicates.passages import Repeats, SiteLines
from chatwright.data.engine import Job, Results, count_failed, read_tally, run_jobs, work_directory
from chatwright.data.passage_partition import (
    LinesPayload,
    ParagraphsPayload,
    count_lines,
    count_paragraphs,
    without_repeats,
)
from chatwright.data.report import Tally
from chatwright.foundation import storage
from chatwright.foundation.stage import StageContext

# Raise it when the same documents and settings give another corpus than before.
_VERSION = 6


class Evaluation(NamedTuple):
    """The evaluation sets' runs as files, and what they were made of."""

    directory: Path
    counts: EvaluationCounts
    digest: str


class Cleaned(NamedTuple):
    """Work files of judged documents in the order of their partitions, and what was counted on the way."""

    paths: list[Path]
    tally: Tally
    facts: dict[str, Any]  # for the report


class Remaining(NamedTuple):
    """Work files of what goes into the corpus, but for the positions over all of them that are left out."""

    paths: list[Path]
    removed: Container[int]
    tally: Tally  # of what went since
    facts: dict[str, Any]


def clean_partitions(context: StageContext, evaluation: Evaluation | None) -> Cleaned:
    """Every step that does not look for copies.

    Raises:
        DataError: not one partition could be done.
        StoppedError: a stop was asked for; finished partitions are kept.
    """
    config: CleanConfig = context.config
    jobs = _jobs(config, context.inputs["documents"], evaluation)
    if not config.site_lines.remove:
        done = run_jobs(clean_partition, jobs, context=context, label="clean")
        return Cleaned(done.paths, _tally_of([done]), {})
    sound = run_jobs(sound_partition, jobs, context=context, label="read")
    least = config.site_lines.min_words
    counting = [_after(path, ["lines", least], LinesPayload(str(path), least)) for path in sound.paths]
    counted = run_jobs(count_lines, counting, context=context, label="count lines")
    directory = work_directory(context) / "site-lines"
    lines = SiteLines.decide(counted.paths, config.site_lines, directory, stop=context.stop)
    runs = evaluation and str(evaluation.directory)
    what = ["judged", *(path.stem for path in counted.paths)]
    judging = [
        _after(Path(part), what, SoundPayload(config, part, str(directory), runs))
        for part in (job.payload.part for job in _done(counting, counted))
    ]
    judged = run_jobs(judge_partition, judging, context=context, label="clean")
    tally = _tally_of([sound, Results([], counted.failed), judged])
    return Cleaned(judged.paths, tally, {"site_lines": lines.facts | {"lines": len(lines)}})


def without_repeated_paragraphs(context: StageContext, paths: Sequence[Path], removed: Container[int]) -> Remaining:
    """The documents that are no copies, without the paragraphs that stood before, if the recipe wants that.

    Args:
        context: of the stage.
        paths: work files of judged documents.
        removed: positions over all of them that went as copies.

    Raises:
        DataError: not one partition could be done.
        StoppedError: a stop was asked for; finished partitions are kept.
    """
    config: CleanConfig = context.config
    if not config.paragraphs.remove_repeats:
        return Remaining(list(paths), removed, Tally(), {})
    counting, start = [], 0
    for number, path in enumerate(paths):
        rows = pq.read_metadata(path).num_rows
        gone = tuple(row for row in range(rows) if start + row in removed)
        counting.append(_after(path, ["paragraphs", number, gone], ParagraphsPayload(config, str(path), number, gone)))
        start += rows
    counted = run_jobs(count_paragraphs, counting, context=context, label="count paragraphs")
    directory = work_directory(context) / "repeats"
    repeats = Repeats.decide(counted.paths, directory, stop=context.stop)
    what = ["rest", *(path.stem for path in counted.paths)]
    writing = [
        _after(Path(job.payload.part), what, job.payload._replace(repeats=str(directory)))
        for job in _done(counting, counted)
    ]
    written = run_jobs(without_repeats, writing, context=context, label="drop repeats")
    tally = _tally_of([Results([], counted.failed), written])
    return Remaining(written.paths, (), tally, {"repeated_paragraphs": repeats.facts | {"repeated": len(repeats)}})


def _after(path: Path, what: list[Any], payload: Any) -> Job:
    """A job over the work file of another: its key is that one's with what is done beside it."""
    return Job(storage.digest_json([path.stem, *what])[:32], f"partition {path.stem[:8]}", payload)


def _done(jobs: Sequence[Job], results: Results) -> list[Job]:
    """The jobs that were not set aside."""
    stems = {path.stem for path in results.paths}
    return [job for job in jobs if job.key in stems]


def _tally_of(rounds: Sequence[Results]) -> Tally:
    """What became of the documents of the first round, what later ones add to it, and the partitions set aside."""
    whole = Tally()
    for number, results in enumerate(rounds):
        for path in results.paths:
            tally = read_tally(path)
            if number:
                tally.documents = tally.characters = 0  # the same documents again
            whole.merge(tally)
        count_failed(results.failed, whole)
    return whole


def _jobs(config: CleanConfig, documents: Path, evaluation: Evaluation | None) -> list[Job]:
    """Row groups of each part in order, a bounded number of bytes together."""
    settings = config.model_dump(mode="json")
    jobs = []
    for part in part_files(documents.absolute()):  # they are read by others, who may stand in another folder
        with open_part(part) as file:
            sizes = [file.metadata.row_group(index).total_byte_size for index in range(file.num_row_groups)]
        for groups in _grouped(sizes):
            identity = [_VERSION, settings, part.name, part.stat().st_size, groups, evaluation and evaluation.digest]
            payload = Payload(config, str(part), tuple(groups), evaluation and str(evaluation.directory))
            label = f"{part.name} from row group {groups[0]}"
            jobs.append(Job(storage.digest_json(identity)[:32], label, payload))
    return jobs


def _grouped(sizes: list[int]) -> list[list[int]]:
    groups: list[list[int]] = []
    filled = limits.PARTITION_BYTES
    for index, size in enumerate(sizes):
        if filled + size > limits.PARTITION_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(index)
        filled += size
    return groups
