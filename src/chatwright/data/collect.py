"""The stage `documents`: raw documents of all sources as Parquet parts, with a report of what gave none.

Nothing is judged here but whether a text could be read; that is `clean_stage`'s work.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.data.document import DOCUMENTS_SCHEMA, Document, sealed
from chatwright.data.engine import Job, count_failed, discard_work, read_tally, run_jobs, work_file
from chatwright.data.parts import kept_documents, write_parts
from chatwright.data.report import Tally, Totals, describe_drops
from chatwright.data.sources import Partition, Source, list_partitions, prepare, read_partition
from chatwright.data.sources import fingerprint as source_fingerprint
from chatwright.data.sources.limited import OVER_CAP, Cap
from chatwright.data.sources.website import Website, store_of
from chatwright.foundation import storage
from chatwright.foundation.config import Config
from chatwright.foundation.console import say
from chatwright.foundation.errors import DataError
from chatwright.foundation.stage import StageContext

REPORT = "report.json"
TAKEN_DOWN = "taken_down"

# Raise it when the same inputs give other documents than before: work of an older version is then not taken.
_VERSION = 3


class CollectConfig(Config):
    """Where documents come from, and which of them must not be taken."""

    sources: tuple[Source, ...]
    taken_down: tuple[str, ...] = ()  # ids, paths or URLs of documents, as `chatwright lineage --document` names them

    def problems(self) -> Iterator[str]:
        """At least one source, and no store of a crawl that two sources would take from each other."""
        if not self.sources:
            yield '`sources` is empty; `kind = "files"` with a `path` takes your own documents'
        if "" in self.taken_down:
            yield "`taken_down` lists ids, paths or URLs of documents; one of them is empty"
        # One with problems of its own may have no host to name a store by; they are told with its place.
        websites = [one for one in self.sources if isinstance(one, Website) and not any(one.problems())]
        crawls: dict[Path, set[str]] = {}
        for one in websites:
            crawls.setdefault(store_of(one).absolute(), set()).add(one.traversal)
        for store in (store for store, traversals in crawls.items() if len(traversals) > 1):
            yield f"two sources `website` share the store `{store}`: give each its own `store`"


class _Payload(NamedTuple):
    source: Source
    partition: Partition
    taken_down: frozenset[str]


def fingerprint(config: CollectConfig) -> str:
    """A digest that changes when collecting would give other documents.

    Raises:
        DataError: a source is missing.
    """
    return storage.digest_json([_VERSION, sorted(config.taken_down), *map(source_fingerprint, config.sources)])


def run(context: StageContext) -> dict[str, Any]:
    """Collect all sources into `part-*.parquet` and `report.json`.

    Raises:
        DataError: a source is missing or gives no text.
        StoppedError: a stop was asked for; finished partitions are kept.
    """
    config: CollectConfig = context.config
    for source in config.sources:
        prepare(source, stop=context.stop)
    jobs = [_jobs(config, number) for number in range(len(config.sources))]
    paths, failed = run_jobs(collect_partition, list(itertools.chain(*jobs)), context=context, label="collect")
    done = {path.stem: path for path in paths}
    gains = [
        _Gain(source, [done[job.key] for job in own if job.key in done])
        for source, own in zip(config.sources, jobs, strict=True)
    ]
    totals, by_source = Totals(), Totals()
    written = write_parts(_passing(gains, totals, by_source), context.output, DOCUMENTS_SCHEMA)
    tally = Tally()
    for gain in gains:
        tally.merge(gain.tally)
    count_failed(failed, tally)
    for line in (*describe_drops(tally, of="inputs"), *_unmet(config, tally)):
        say(line)
    _require_text(written, tally, config)
    storage.write_json(context.output / REPORT, _report(gains, tally, totals, by_source))
    discard_work(context)
    say(f"  {written:,} documents, {totals['bytes'] / 1e6:.1f} MB of text or HTML")
    if len(gains) > 1:
        for gain in gains:
            say(f"    {gain.label}: {gain.cap.documents:,} documents, {gain.cap.bytes / 1e6:.1f} MB")
    return {"documents": written, "bytes": totals["bytes"], "dropped": _counts(tally)}


def collect_partition(payload: _Payload, path: Path) -> None:
    """Read one partition into a work file. Runs in any process."""
    tally = Tally()
    cap = Cap(payload.source)
    with work_file(path, DOCUMENTS_SCHEMA, tally) as writer:
        for document in map(sealed, read_partition(payload.source, payload.partition, tally)):
            if cap.is_reached:
                detail = f"a cap of the source is reached; the rest of `{payload.partition.label}` was not read"
                tally.drop(OVER_CAP, path=document.path, detail=detail)
                break
            tally.seen(len(document.text))
            if named := payload.taken_down.intersection((document.id, document.path, document.url)):
                detail = f"`{min(named)}` is in `collect.taken_down`"
                tally.drop(TAKEN_DOWN, path=document.path, detail=detail, id=document.id)
                continue
            cap.count(document)
            writer.add(document)


class _Gain:
    """What one source gives."""

    def __init__(self, source: Source, paths: Sequence[Path]):
        self.source = source
        self.paths = paths
        self.cap = Cap(source)
        self.tally = Tally()
        for path in paths:
            self.tally.merge(read_tally(path))

    @property
    def label(self) -> str:
        """The source as a person knows it."""
        place = getattr(self.source, "path", None) or getattr(self.source, "dataset", None)
        return f"{self.source.kind} {place}" if place else self.source.kind


def _passing(gains: Sequence[_Gain], totals: Totals, by_source: Totals) -> Iterator[Document]:
    """Documents of all sources in order, as far as each source's cap: it looks at the order alone, not at workers."""
    for gain in gains:
        documents = kept_documents(gain.paths, totals=Totals(), by_source=Totals())
        for document in gain.cap.through(documents, gain.tally):
            totals.add(document.domain, document)
            by_source.add(document.source, document)
            yield document


def _unmet(config: CollectConfig, tally: Tally) -> list[str]:
    """A note where documents are to be taken down and none of them was met."""
    count = tally.dropped.get(TAKEN_DOWN, {"count": 0})["count"]
    if count >= len(config.taken_down):
        return []
    return [f"  note: `collect.taken_down` has {len(config.taken_down)} entries, {count} documents were met"]


def _jobs(config: CollectConfig, number: int) -> list[Job]:
    source = config.sources[number]
    settings = [number, source.model_dump(mode="json"), sorted(config.taken_down)]
    partitions = list_partitions(source)
    taken_down = frozenset(config.taken_down)
    return [Job(one.key(_VERSION, settings), one.label, _Payload(source, one, taken_down)) for one in partitions]


def _require_text(written: int, tally: Tally, config: CollectConfig) -> None:
    if written:
        return
    places = ", ".join(f"`{getattr(source, 'path', source.kind)}`" for source in config.sources)
    reasons = ", ".join(f"{reason}: {entry['count']}" for reason, entry in tally.drops_by_count().items())
    raise DataError(
        f"no text: the sources gave no document: {places}",
        cause=f"dropped: {reasons}" if reasons else "they hold nothing that can be read",
        hint="add documents (txt, md, rst, html, epub, pdf, docx, jsonl, csv, parquet, zip, tar), or another source "
        "under `collect.sources`",
    )


def _report(gains: Sequence[_Gain], tally: Tally, totals: Totals, by_source: Totals) -> dict[str, Any]:
    return {
        "documents": tally.documents,
        "characters": tally.characters,
        "bytes": totals["bytes"],
        "dropped": tally.drops_by_count(),
        "changed": dict(sorted(tally.changed.items())),
        "by_source": by_source.to_json(with_heldout=False),
        "by_domain": totals.to_json(with_heldout=False),
        "sources": [
            {
                "source": gain.label,
                "documents": gain.cap.documents,
                "bytes": gain.cap.bytes,
                "dropped": _counts(gain.tally),
            }
            for gain in gains
        ],
    }


def _counts(tally: Tally) -> dict[str, int]:
    return {reason: entry["count"] for reason, entry in tally.drops_by_count().items()}
