"""The data card of a run: its documents and the conversations that it learned from, as far as its stages told.

It follows the summary of training content that the EU's AI Office asks of model makers (Regulation 2024/1689,
article 53(1)(d)): sources, kinds, sizes, languages, licences, period of collection. No text of a document is shown.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chatwright.data.document import PART_PATTERN, UNKNOWN_LANGUAGE, UNKNOWN_LICENCE
from chatwright.feedback.conversations import read_conversations
from chatwright.foundation import storage
from chatwright.recipe import cards_hub
from chatwright.recipe.cards_text import head, joined, plain, table
from chatwright.recipe.report.facts import RunFacts, StageFacts
from chatwright.recipe.report.markup import count, size

# Files that a stage learns from or tests with, by their keys in its section.
_FILES = {
    "finetune": ("data", "test"),
    "reward": ("data", "test"),
    "align": ("data", "test"),
    "distill": ("data",),
}
_USES = {"data": "learned from", "test": "tested with, never learned"}
_OF_CONVERSATIONS = ("finetune", "distill")  # the others' files hold preferences
_SHOWN_DIGITS = 12
_DAY = len("2026-01-31")


class Group(NamedTuple):
    """Documents that share a language or a licence."""

    label: str
    documents: int
    num_bytes: int


class Material(NamedTuple):
    """A file that a stage of the run was given."""

    stage: str
    use: str
    name: str
    digest: str | None
    conversations: int | None  # None where the file is gone or is another one now
    turns: int | None
    num_bytes: int | None


class Data(NamedTuple):
    """What the documents and the conversations of a run are, read once for all its cards."""

    languages: list[Group]
    licences: list[Group]
    fetched: tuple[str, ...]  # first and last day on which pages were fetched; empty where none was
    num_fetched: int
    material: list[Material]

    @property
    def conversations(self) -> int:
        """That were learned from, as far as they could be counted."""
        learned = [one for one in self.material if one.use == _USES["data"]]
        return sum(one.conversations or 0 for one in learned)


def read_data(run: RunFacts) -> Data:
    """Everything that cards tell of a run's data."""
    material = [
        _material(run, stage, key)
        for name, keys in _FILES.items()
        if (stage := run.stages.get(name)) is not None
        for key in keys
        if stage.config.get(key)
    ]
    if "corpus" not in run.stages:
        return Data([], [], (), 0, material)
    return _Reading().over(run.stages["corpus"].directory)._replace(material=material)


def _material(run: RunFacts, stage: StageFacts, key: str) -> Material:
    told = (stage.facts.get("outside") or {}).get(key) or {}
    path, digest = run.directory / str(told.get("path") or stage.config[key]), told.get("digest")
    unread = Material(stage.name, _USES[key], path.name, digest, None, None, None)
    is_known = stage.name in _OF_CONVERSATIONS and digest is not None and path.is_file()
    if not is_known or storage.digest_file(path) != digest:
        return unread
    found = read_conversations(path)
    texts = [message.content for conversation in found for message in conversation.messages]
    return unread._replace(
        conversations=len(found), turns=len(texts), num_bytes=sum(len(text.encode()) for text in texts)
    )


class _Reading:
    """One pass over a corpus; counts of its columns."""

    def __init__(self) -> None:
        self._totals: dict[str, dict[str, list[int]]] = {"language": {}, "licence": {}}
        self._days: list[str] = []
        self._num_fetched = 0

    def over(self, corpus: Path) -> Data:
        wanted = {*self._totals, "fetched", "text"}
        for path in sorted(corpus.glob(PART_PATTERN)):
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=[n for n in file.schema_arrow.names if n in wanted]):
                    self._add(batch)
        ends = (min(self._days), max(self._days)) if self._days else ()
        groups = [self._groups(column) for column in ("language", "licence")]
        return Data(groups[0], groups[1], ends, self._num_fetched, [])

    def _add(self, batch: Any) -> None:
        names = batch.schema.names
        lengths = pc.binary_length(batch["text"].cast(pa.binary())) if "text" in names else pa.array([0] * len(batch))
        for column in self._totals.keys() & set(names):
            found = pa.table({"label": batch[column], "bytes": lengths}).group_by("label")
            for row in found.aggregate([("bytes", "sum"), ("label", "count")]).to_pylist():
                entry = self._totals[column].setdefault(str(row["label"]), [0, 0])
                entry[0] += row["label_count"]
                entry[1] += row["bytes_sum"] or 0
        if "fetched" in names:
            times = [when for when in batch["fetched"].to_pylist() if when]
            self._num_fetched += len(times)
            self._days += [min(times)[:_DAY], max(times)[:_DAY]] if times else []

    def _groups(self, column: str) -> list[Group]:
        found = [Group(label, *entry) for label, entry in self._totals[column].items()]
        return sorted(found, key=lambda group: (-group.documents, group.label))


def data_card(run: RunFacts, data: Data) -> str:
    """The card of the corpus and the conversations: sources, sizes, domains, languages, licences, drops and why."""
    has_documents = "corpus" in run.stages
    what = "corpus" if has_documents else "conversations"
    number = run.read("corpus", "report.json").get("documents_out") or 0
    values = {
        "pretty_name": f"{run.name} {what}",
        "language": cards_hub.languages(group.label for group in data.languages),
        "license": cards_hub.licences_of_data([group.label for group in data.licences]),
        "size_categories": cards_hub.size_categories(number + data.conversations),
        "tags": ["chatwright"],
        "task_categories": ["text-generation"],
    }
    named = "documents" if has_documents else "conversations"
    parts = [head(values), f"# {plain(run.name)}: the {named}"]
    parts += _documents(run, data) if has_documents else ["This run read no documents."]
    return joined([*parts, *_conversations(data.material), "## What is not known\n\n" + _unknown(data)])


def _documents(run: RunFacts, data: Data) -> list[str]:
    corpus, documents = run.stages["corpus"], run.stages.get("documents")
    report = corpus.read("report.json")
    domains = [
        (name, count(entry.get("documents")), size(entry.get("bytes")), count(entry.get("heldout_documents")))
        for name, entry in (report.get("by_domain") or {}).items()
    ]
    drops = [
        (stage.name, reason, count(entry.get("count")))
        for stage in (documents, corpus)
        if stage is not None
        for reason, entry in (stage.read("report.json").get("dropped") or {}).items()
    ]
    told = f"{count(report.get('documents_out'))} documents, {size(report.get('bytes_out'))} of text after cleaning."
    return [
        f"{told} {_period(documents, data, report.get('documents_out'))}",
        "## Sources",
        table(("kind", "settings"), _sources(documents)),
        "## Domains",
        table(("domain", "documents", "text", "of them held out"), domains),
        *_group_section("Language", data.languages),
        *_group_section("Licence", data.licences),
        "## Dropped" if drops else "",
        table(("stage", "reason", "documents"), drops),
    ]


def _group_section(title: str, found: Sequence[Group]) -> tuple[str, str]:
    """A heading and a table of documents by language or licence."""
    rows = [(one.label, count(one.documents), size(one.num_bytes)) for one in found]
    return f"## {title}s", table((title.lower(), "documents", "text"), rows)


def _period(stage: StageFacts | None, data: Data, number: int | None) -> str:
    """When pages were fetched, as they say themselves, and when the other documents were read, as the manifest says."""
    told = []
    if data.fetched:
        first, last = data.fetched
        when = f"on {first}" if first == last else f"from {first} to {last}"
        told.append(f"{count(data.num_fetched)} pages were fetched {when}.")
    if number is None or data.num_fetched < number:
        finished = stage.facts.get("finished") if stage is not None else None
        read = "at a time that was not noted" if finished is None else f"on {_day(finished)}"
        told.append(f"{'The others' if told else 'They'} were read {read}; when they were written is not known.")
    return " ".join(told)


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(float(seconds)))


def _sources(stage: StageFacts | None) -> list[tuple[str, str]]:
    listed = stage.config.get("sources") if stage is not None else None
    return [
        (
            str(source.get("kind")),
            "; ".join(
                f"{key} = {_short(value)}" for key, value in source.items() if key != "kind" and value is not None
            ),
        )
        for source in listed or []
    ]


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _conversations(material: Sequence[Material]) -> list[str]:
    """Files of conversations and preferences, by their names and digests."""
    rows = [
        (
            one.stage,
            one.use,
            one.name,
            count(one.conversations),
            count(one.turns),
            size(one.num_bytes),
            "not noted" if one.digest is None else one.digest[:_SHOWN_DIGITS],
        )
        for one in material
    ]
    if not rows:
        return []
    names = ("stage", "use", "file", "conversations", "turns", "text", "SHA-256")
    uncounted = any(one.conversations is None for one in material)
    how = "Not counted: preferences, and files that are gone or have changed since." if uncounted else ""
    return ["## Conversations and preferences", table(names, rows), how]


def _unknown(data: Data) -> str:
    unknown = (("Language", UNKNOWN_LANGUAGE, data.languages), ("Licence", UNKNOWN_LICENCE, data.licences))
    lines = [
        f"- {title} of {count(group.documents)} documents."
        for title, label, found in unknown
        for group in found
        if group.label == label
    ]
    if data.material:
        lines.append("- Language and licence of the conversations, and who wrote them when.")
    return "\n".join([*lines, "- Personal data was not searched for unless the recipe's cleaning says so."])
