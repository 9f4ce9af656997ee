"""The stage `corpus`: raw documents cleaned, judged, freed of copies and split, every drop with its reason.

The steps themselves are `extract`'s, `clean`'s and `duplicates`'.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from chatwright.data.clean import HELDOUT, TRAIN, CleanConfig, as_in_corpus, larger_share, text_hash
from chatwright.data.clean_phases import Evaluation, clean_partitions, without_repeated_paragraphs
from chatwright.data.collect import REPORT
from chatwright.data.document import CORPUS_SCHEMA, iter_documents
from chatwright.data.duplicates.corpus import Resolution, resolve
from chatwright.data.duplicates.decontaminate import collect_runs
from chatwright.data.duplicates.removals import RemovedCopy, write_removals
from chatwright.data.engine import to_try_again, work_directory
from chatwright.data.parts import kept_documents, write_parts
from chatwright.data.report import Tally, Totals, describe_drops
from chatwright.data.stretch import Stretch
from chatwright.foundation import storage
from chatwright.foundation.console import say
from chatwright.foundation.errors import DataError
from chatwright.foundation.stage import StageContext
from chatwright.foundation.stopping import StopFlag


def run(context: StageContext) -> dict[str, Any]:
    """Clean `inputs["documents"]` into `part-*.parquet` and `report.json`; `copies.parquet` names the copies that went.

    Raises:
        DataError: no document is left.
        StoppedError: a stop was asked for; finished partitions are kept.
    """
    config: CleanConfig = context.config
    evaluation = _prepare_evaluation(context)
    cleaned = clean_partitions(context, evaluation)
    tally = cleaned.tally
    copies = resolve(cleaned.paths, config.duplicates, scratch=work_directory(context), stop=context.stop)
    write_removals(_count_copies(cleaned.paths, copies, tally, context.stop), context.output)
    rest = without_repeated_paragraphs(context, cleaned.paths, copies.removed)
    tally.merge(rest.tally)
    totals, by_source = Totals(), Totals()
    documents = kept_documents(
        rest.paths,
        totals=totals,
        by_source=by_source,
        without=rest.removed,
        clusters=copies.marked,
        stop=context.stop,
    )
    counted = _Counted()
    written = write_parts(counted.through(documents), context.output, CORPUS_SCHEMA)
    for line in describe_drops(tally, of="documents"):
        say(line)
    _require_text(written, tally, context.inputs["documents"])
    heldout = totals["heldout_documents"]
    _require_training(written, heldout, config)
    report = _report(tally, totals, documents_out=written, characters_out=counted.characters)
    if evaluation is not None:
        report["decontamination"] = evaluation.counts._asdict()
    report["by_language"] = counted.languages.to_json()
    report |= cleaned.facts | rest.facts
    report["near_duplicates"] = config.duplicates.model_dump(mode="json") | copies.counts()
    storage.write_json(context.output / REPORT, report)
    size, beside = totals["bytes"] / 1e6, totals["heldout_bytes"] / 1e6
    kept = f"{written:,} of {tally.documents:,} documents kept, {size:.1f} MB"
    say(f"  {kept}; {heldout:,} of them held out, {beside:.1f} MB")
    if not heldout and config.heldout_share:
        say(_without_heldout(context.output, config))
    summary = {key: report[key] for key in ("documents_in", "documents_out", "bytes_out")}
    dropped = {reason: entry["count"] for reason, entry in report["dropped"].items()}
    return summary | {"dropped": dropped} | to_try_again(tally)


def _prepare_evaluation(context: StageContext) -> Evaluation | None:
    config: CleanConfig = context.config
    if not config.decontaminate.sets:
        return None
    runs, counts = collect_runs(config.decontaminate, lambda text: as_in_corpus(text, config))
    directory = work_directory(context) / "evaluation"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    runs.save(directory)
    digest = storage.digest_json([storage.digest_file(path) for path in sorted(directory.iterdir())])
    return Evaluation(directory, counts, digest)


def _count_copies(paths: list[Path], resolution: Resolution, tally: Tally, stop: StopFlag) -> Iterator[RemovedCopy]:
    """Each copy with the document that stays instead, counted on the way; a stop is heard between any two."""
    removed = resolution.removed
    if not removed:
        return
    wanted = set(removed) | {removal.of for removal in removed.values()}
    found: dict[int, tuple[str, str, int]] = {}
    position = 0
    for path in Stretch("find removed copies", stop=stop).through(paths, total=len(paths)):
        table = pq.read_table(path, columns=["id", "path", "characters"])
        for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if position in wanted:
                found[position] = row
            position += 1
    ordered = Stretch("write removed copies", stop=stop).through(sorted(removed.items()), total=len(removed))
    for where, removal in ordered:
        id_, shown, characters = found[where]
        how = "the same as" if removal.similarity == 1 else f"{removal.similarity:.2f} alike:"
        tally.drop(removal.reason, path=shown, detail=f"{how} {found[removal.of][1]}", id=id_, characters=characters)
        yield RemovedCopy(id_, found[removal.of][0], removal.reason, removal.similarity)


class _Counted:
    """Counts characters and languages of documents on their way to the parts."""

    def __init__(self) -> None:
        self.characters = 0
        self.languages = Totals()

    def through(self, documents: Any) -> Any:
        """The same documents."""
        for document in documents:
            self.characters += len(document.text)
            self.languages.add(document.language, document)
            yield document


def _require_text(written: int, tally: Tally, documents: Path) -> None:
    if written:
        return
    reasons = ", ".join(f"{reason}: {entry['count']}" for reason, entry in tally.drops_by_count().items())
    raise DataError(
        f"no text: cleaning left none of {tally.documents} documents in `{documents}`",
        cause=f"dropped: {reasons}" if reasons else "there were none",
        hint="lower the thresholds under `clean.rules`, or collect more documents",
    )


def _require_training(written: int, heldout: int, config: CleanConfig) -> None:
    if heldout < written:
        return
    raise DataError(
        f"nothing is left to train on: the split `{TRAIN}` is empty, for the hash of each of the {written:,} documents "
        f"puts it into `{HELDOUT}`",
        cause=f"`clean.heldout_share` is {config.heldout_share:g}",
        hint="add documents, or hold out a smaller share of them",
    )


def _without_heldout(corpus: Path, config: CleanConfig) -> str:
    """What a person is told where no document's hash lies within the share; the texts are read again: they are few."""
    share = config.heldout_share
    larger = larger_share((text_hash(document.text) for document in iter_documents(corpus)), heldout_share=share)
    remedy = f"raise it, such as `clean.heldout_share = {larger}`, or add documents" if larger else "add documents"
    return (
        f"  note: `clean.heldout_share = {share:g}` holds none of so few documents out, and without one no model "
        f"can be measured on text that it has not seen: {remedy}"
    )


def _report(tally: Tally, totals: Totals, *, documents_out: int, characters_out: int) -> dict[str, Any]:
    return {
        "documents_in": tally.documents,
        "documents_out": documents_out,
        "characters_in": tally.characters,
        "characters_out": characters_out,
        "bytes_out": totals["bytes"],
        HELDOUT: {"documents": totals["heldout_documents"], "bytes": totals["heldout_bytes"]},
        "dropped": tally.drops_by_count(),
        "changed": dict(sorted(tally.changed.items())),
        "by_domain": totals.to_json(),
    }
