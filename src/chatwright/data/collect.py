"""The stage `documents`: raw documents of all sources as Parquet parts, with a report of what gave none.

Nothing is judged here but whether a text could be read; that is `clean_stage`'s work.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.data.document import DOCUMENTS_SCHEMA, sealed
from chatwright.data.engine import Job, count_failed, discard_work, read_tally, run_jobs, work_file
from chatwright.data.parts import kept_documents, write_parts
from chatwright.data.report import Tally, Totals, describe_drops
from chatwright.data.sources import Partition, Source, list_partitions, read_partition
from chatwright.data.sources import fingerprint as source_fingerprint
from chatwright.foundation import storage
from chatwright.foundation.config import Config
from chatwright.foundation.console import say
from chatwright.foundation.errors import DataError
from chatwright.foundation.stage import StageContext

REPORT = "report.json"

# Raise it when the same inputs give other documents than before: work of an older version is then not taken.
_VERSION = 2


class CollectConfig(Config):
    """Where documents come from."""

    sources: tuple[Source, ...]

    def problems(self) -> Iterator[str]:
        """At least one source."""
        if not self.sources:
            yield '`sources` is empty; `kind = "files"` with a `path` takes your own documents'


class _Payload(NamedTuple):
    source: Source
    partition: Partition


def fingerprint(config: CollectConfig) -> str:
    """A digest that changes when collecting would give other documents.

    Raises:
        DataError: a source is missing.
    """
    return storage.digest_json([_VERSION, *map(source_fingerprint, config.sources)])


def run(context: StageContext) -> dict[str, Any]:
    """Collect all sources into `part-*.parquet` and `report.json`.

    Raises:
        DataError: a source is missing or gives no text.
        StoppedError: a stop was asked for; finished partitions are kept.
    """
    config: CollectConfig = context.config
    jobs = [job for number, source in enumerate(config.sources) for job in _jobs(number, source)]
    paths, failed = run_jobs(collect_partition, jobs, context=context, label="collect")
    tally = Tally()
    for path in paths:
        tally.merge(read_tally(path))
    count_failed(failed, tally)
    totals = Totals()
    by_source = Totals()
    documents = kept_documents(paths, totals=totals, by_source=by_source)
    written = write_parts(documents, context.output, DOCUMENTS_SCHEMA)
    for line in describe_drops(tally, of="inputs"):
        say(line)
    _require_text(written, tally, config)
    storage.write_json(context.output / REPORT, _report(tally, totals, by_source))
    discard_work(context)
    say(f"  {written:,} documents, {totals['bytes'] / 1e6:.1f} MB of text or HTML")
    return {"documents": written, "bytes": totals["bytes"], "dropped": _counts(tally)}


def collect_partition(payload: _Payload, path: Path) -> None:
    """Read one partition into a work file. Runs in any process."""
    tally = Tally()
    with work_file(path, DOCUMENTS_SCHEMA, tally) as writer:
        for document in read_partition(payload.source, payload.partition, tally):
            tally.seen(len(document.text))
            writer.add(sealed(document))


def _jobs(number: int, source: Source) -> list[Job]:
    settings = [number, source.model_dump(mode="json")]
    partitions = list_partitions(source)
    return [Job(one.key(_VERSION, settings), one.label, _Payload(source, one)) for one in partitions]


def _require_text(written: int, tally: Tally, config: CollectConfig) -> None:
    if written:
        return
    places = ", ".join(f"`{getattr(source, 'path', source.kind)}`" for source in config.sources)
    reasons = ", ".join(f"{reason}: {entry['count']}" for reason, entry in tally.drops_by_count().items())
    raise DataError(
        f"no text: the sources gave no document: {places}",
        cause=f"dropped: {reasons}" if reasons else "they hold nothing that can be read",
        hint="add documents (txt, md, rst, html, epub, pdf, jsonl, parquet), or another source under `collect.sources`",
    )


def _report(tally: Tally, totals: Totals, by_source: Totals) -> dict[str, Any]:
    return {
        "documents": tally.documents,
        "characters": tally.characters,
        "bytes": totals["bytes"],
        "dropped": tally.drops_by_count(),
        "changed": dict(sorted(tally.changed.items())),
        "by_source": by_source.to_json(with_heldout=False),
        "by_domain": totals.to_json(with_heldout=False),
    }


def _counts(tally: Tally) -> dict[str, int]:
    return {reason: entry["count"] for reason, entry in tally.drops_by_count().items()}
