"""The stage `documents`: raw documents of all sources as Parquet parts, with a report of what gave none.

Nothing is judged here but whether a text could be read; that is `clean_stage`'s work.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.data.document import DOCUMENTS_SCHEMA, Document, overlong, sealed
from chatwright.data.engine import Job, count_failed, read_notes, read_tally, to_try_again, work_file
from chatwright.data.parts import kept_documents, write_parts
from chatwright.data.report import Tally, Totals, describe_drops
from chatwright.data.sources import Listing, Partition, Source, iter_partitions, prepare, read_partition
from chatwright.data.sources import fingerprint as source_fingerprint
from chatwright.data.sources.limited import OVER_CAP, Cap
from chatwright.data.sources.partition import Input
from chatwright.data.sources.website import Website, may_give_more, store_of
from chatwright.data.waves import Queue, Read, read_in_waves
from chatwright.foundation import storage
from chatwright.foundation.config import Config
from chatwright.foundation.console import say
from chatwright.foundation.errors import DataError
from chatwright.foundation.stage import StageContext
from chatwright.foundation.stopping import StopFlag

REPORT = "report.json"
TAKEN_DOWN = "taken_down"
TAKEN_DOWN_COPY = "taken_down_copy"

# Raise it when the same inputs give other documents than before: work of an older version is then not taken.
_VERSION = 5


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
    return storage.digest_json([_VERSION, _takes_down(config), *map(source_fingerprint, config.sources)])


def _takes_down(config: CollectConfig) -> list[str]:
    """The entries, as digests have them: work that was made before copies went, too, is not taken."""
    return ["with copies", *sorted(config.taken_down)] if config.taken_down else []


def run(context: StageContext) -> dict[str, Any]:
    """Collect all sources into `part-*.parquet` and `report.json`.

    Raises:
        DataError: a source is missing or gives no text.
        StoppedError: a stop was asked for; finished partitions are kept.
    """
    config: CollectConfig = context.config
    for source in config.sources:
        prepare(source, stop=context.stop)
    queues = [_queue(config, number, context.stop) for number in range(len(config.sources))]
    reads = read_in_waves(collect_partition, queues, context=context, label="collect")
    gains = [_Gain(source, read) for source, read in zip(config.sources, reads, strict=True)]
    totals, by_source, removed = Totals(), Totals(), _Removed([path for read in reads for path in read.paths])
    documents = _passing(gains, removed, totals, by_source, context.stop)
    written = write_parts(documents, context.output, DOCUMENTS_SCHEMA)
    tally = Tally()
    for gain in gains:
        tally.merge(gain.tally)
    count_failed({label: failure for read in reads for label, failure in read.failed.items()}, tally)
    for line in (*describe_drops(tally, of="inputs"), *_unmet(config, removed)):
        say(line)
    _require_text(written, tally, config)
    storage.write_json(context.output / REPORT, _report(gains, tally, totals, by_source))
    say(f"  {written:,} documents, {totals['bytes'] / 1e6:.1f} MB of text or HTML")
    if len(gains) > 1:
        for gain in gains:
            say(f"    {gain.label}: {gain.cap.documents:,} documents, {gain.cap.bytes / 1e6:.1f} MB")
    crawls = sum(may_give_more(source) for source in config.sources if isinstance(source, Website))
    summary = {"documents": written, "bytes": totals["bytes"], "dropped": _counts(tally)}
    return summary | to_try_again(tally, crawls=crawls)


def collect_partition(payload: _Payload, path: Path) -> None:
    """Read one partition into a work file, whose notes name what was taken down. Runs in any process."""
    tally = Tally()
    cap = Cap(payload.source)
    notes: list[dict[str, Any]] = []
    with work_file(path, DOCUMENTS_SCHEMA, tally, notes=notes) as writer:
        for found in read_partition(payload.source, payload.partition, tally):
            document = sealed(found)
            if cap.is_reached:
                detail = f"a cap of the source is reached; the rest of `{payload.partition.label}` was not read"
                tally.drop(OVER_CAP, path=document.path, detail=detail)
                break
            tally.seen(len(document.text))
            if named := payload.taken_down.intersection((document.id, document.path, document.url)):
                notes.append({"named": sorted(named), "path": document.path, "raw_sha256": document.raw_sha256})
                detail = f"`{min(named)}` is in `collect.taken_down`"
                tally.drop(TAKEN_DOWN, path=document.path, detail=detail, id=document.id)
                continue
            if cut := overlong(found):
                tally.change("metadata_cut", len(cut))
            cap.count(document)
            writer.add(document)


class _Gain:
    """What one source gives."""

    def __init__(self, source: Source, read: Read):
        self.source = source
        self.paths = read.paths
        self.cap = Cap(source)
        self.tally = Tally()
        for path in read.paths:
            self.tally.merge(read_tally(path))
        unread = [_name(entry) for job in read.unread for entry in job.payload.partition.inputs]
        for name in dict.fromkeys(unread):
            detail = "a cap of the source is reached; it was not read, or not to its end"
            self.tally.drop(OVER_CAP, path=name, detail=detail)

    @property
    def label(self) -> str:
        """The source as a person knows it."""
        place = getattr(self.source, "path", None) or getattr(self.source, "dataset", None)
        return f"{self.source.kind} {place}" if place else self.source.kind


class _Removed:
    """What was taken down: the entries that were met, and the texts, of which no copy passes from any source."""

    def __init__(self, paths: Sequence[Path]):
        notes = [note for path in paths for note in read_notes(path)]
        self.named = {name for note in notes for name in note["named"]}
        self._path_of = {note["raw_sha256"]: note["path"] for note in reversed(notes)}

    def without_copies(self, documents: Iterator[Document], tally: Tally) -> Iterator[Document]:
        """Documents but for those whose text, as collected, is one that was taken down."""
        for document in documents:
            of = self._path_of.get(document.raw_sha256)
            if of is None:
                yield document
            else:
                detail = f"the same text as `{of}`, which `collect.taken_down` names"
                size = len(document.text)
                tally.drop(TAKEN_DOWN_COPY, path=document.path, detail=detail, id=document.id, characters=size)


def _passing(
    gains: Sequence[_Gain], removed: _Removed, totals: Totals, by_source: Totals, stop: StopFlag
) -> Iterator[Document]:
    """Documents of all sources in order, as far as each source's cap: it looks at the order alone, not at workers."""
    for gain in gains:
        found = kept_documents(gain.paths, totals=Totals(), by_source=Totals(), stop=stop)
        documents = removed.without_copies(found, gain.tally)
        for document in gain.cap.through(documents, gain.tally):
            totals.add(document.domain, document)
            by_source.add(document.source, document)
            yield document


def _unmet(config: CollectConfig, removed: _Removed) -> list[str]:
    """A note for each entry of `taken_down` that named no document."""
    unmet = dict.fromkeys(entry for entry in config.taken_down if entry not in removed.named)
    return [f"  note: `collect.taken_down` names `{entry}`, and no document was met by that name" for entry in unmet]


def _queue(config: CollectConfig, number: int, stop: StopFlag) -> Queue:
    source = config.sources[number]
    listing = Listing("" if Cap(source).is_set else f"list {source.kind}", stop=stop)
    return Queue(source, _jobs(config, number, listing), listing)


def _jobs(config: CollectConfig, number: int, listing: Listing) -> Iterator[Job]:
    source = config.sources[number]
    settings = [number, source.model_dump(mode="json"), _takes_down(config)]
    taken_down, read_there = frozenset(config.taken_down), _with_whole_store(source)
    for one in iter_partitions(source, listing):
        yield Job(one.key(_VERSION, settings), one.label, _Payload(read_there, one, taken_down))


def _name(entry: Input) -> str:
    return str(entry.get("path") or entry.get("url"))


def _with_whole_store(source: Source) -> Source:
    """The source with the whole path of its crawl: whoever reads it may stand in another folder."""
    if not isinstance(source, Website):
        return source
    return source.model_copy(update={"store": str(store_of(source).absolute())})


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
