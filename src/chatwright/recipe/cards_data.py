"""The data card of a run: its documents and the conversations that it learned from, as far as its stages told.

It follows the summary of training content that the EU's AI Office asks of model makers (Regulation 2024/1689,
article 53(1)(d)): sources, kinds, sizes, languages, licences, period of collection, the largest domain names, text
that models wrote. No text of a document is shown, and no place of the machine that it was read from.
"""

import math
import time
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from chatwright.data.document import UNKNOWN_LANGUAGE, UNKNOWN_LICENCE
from chatwright.recipe import cards_hub
from chatwright.recipe.cards_corpus import Documents, Group, read_documents
from chatwright.recipe.cards_material import LEARNED_FROM, Material, material_sections, read_material
from chatwright.recipe.cards_text import head, joined, plain, table
from chatwright.recipe.report.facts import RunFacts, StageFacts
from chatwright.recipe.report.markup import count, size

_PRIVATE = ("kind", "store", "contact", "allow_private")  # settings that are told elsewhere or nobody's business
_LOCAL = ("path", "prefix")  # settings that may name a place of this machine, with names of people and clients in it
_LEAST_HOSTS, _MOST_HOSTS = 10, 1_000


class Data(NamedTuple):
    """What the documents and the conversations of a run are, read once for all its cards."""

    documents: Documents
    material: list[Material]

    @property
    def conversations(self) -> int:
        """That were learned from, as far as they could be counted."""
        learned = [one for one in self.material if one.use == LEARNED_FROM]
        return sum(one.conversations or 0 for one in learned)


def read_data(run: RunFacts) -> Data:
    """Everything that cards tell of a run's data."""
    corpus = run.stages.get("corpus")
    return Data(Documents() if corpus is None else read_documents(corpus.directory), read_material(run))


def data_card(run: RunFacts, data: Data) -> str:
    """The card of the corpus and the conversations: sources, sizes, domains, languages, licences, drops and why."""
    has_documents = "corpus" in run.stages
    what = "corpus" if has_documents else "conversations"
    number = run.read("corpus", "report.json").get("documents_out") or 0
    values = {
        "pretty_name": f"{run.name} {what}",
        "language": cards_hub.languages(group.label for group in data.documents.languages),
        "license": cards_hub.licences_of_data([group.label for group in data.documents.licences]),
        "size_categories": cards_hub.size_categories(number + data.conversations),
        "tags": ["chatwright"],
        "task_categories": ["text-generation"],
    }
    named = "documents" if has_documents else "conversations"
    parts = [head(values), f"# {plain(run.name)}: the {named}"]
    parts += _documents(run, data) if has_documents else ["This run read no documents."]
    return joined([*parts, *material_sections(run, data.material), "## What is not known\n\n" + _unknown(data)])


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
        f"{told} {_tokens(run)}{_period(documents, data.documents, report.get('documents_out'))}",
        "## Sources",
        table(("kind", "settings"), _sources(documents)),
        *_versions(data.documents.versions),
        "## Domains",
        table(("domain", "documents", "text", "of them held out"), domains),
        *_group_section("Language", data.documents.languages),
        *_group_section("Licence", data.documents.licences),
        *_hosts(data.documents.hosts),
        "## Dropped" if drops else "",
        table(("stage", "reason", "documents"), drops),
    ]


def _group_section(title: str, found: Sequence[Group]) -> tuple[str, str]:
    """A heading and a table of documents by language or licence."""
    rows = [(one.label, count(one.documents), size(one.num_bytes)) for one in found]
    return f"## {title}s", table((title.lower(), "documents", "text"), rows)


def _tokens(run: RunFacts) -> str:
    """Their size in tokens, as far as they were encoded; ends with a space."""
    splits = run.summary("tokens")
    train, held = ((splits.get(name) or {}).get("tokens") for name in ("train", "heldout"))
    return "" if train is None else f"{count(train)} tokens to learn from and {count(held or 0)} held out. "


def _versions(found: Sequence[Group]) -> list[str]:
    """The commits at which data sets of the hub were read: a branch's name alone would say nothing of them."""
    rows = [(*one.label.rsplit("@", 1), count(one.documents), size(one.num_bytes)) for one in found]
    return ["## Versions of data sets", table(("data set", "commit", "documents", "text"), rows)] if rows else []


def _hosts(found: Sequence[Group]) -> list[str]:
    """The tenth of the domain names with the most text, some even of few, and how much the others are."""
    if not found:
        return []
    shown = min(_MOST_HOSTS, max(_LEAST_HOSTS, math.ceil(len(found) / 10)))
    rows = [(one.label, count(one.documents), size(one.num_bytes)) for one in found[:shown]]
    others = found[shown:]
    left = f"{count(len(others))} more with {count(sum(one.documents for one in others))} documents and "
    left += f"{size(sum(one.num_bytes for one in others))} of text."
    told = f"Of {count(len(found))} domain names of web pages, those with the most text."
    return [
        "## Internet domain names",
        f"{told} {left}" if others else "Of all web pages.",
        table(("domain name", "documents", "text"), rows),
    ]


def _period(stage: StageFacts | None, data: Documents, number: int | None) -> str:
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
                f"{key} = {_short(_public(key, value))}"
                for key, value in source.items()
                if key not in _PRIVATE and value is not None
            ),
        )
        for source in listed or []
    ]


def _public(key: str, value: Any) -> Any:
    """A local place by its last name; `config` has taken passwords out of addresses."""
    if key not in _LOCAL or not isinstance(value, str) or "://" in value:
        return value
    return PurePath(value).name or value


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _unknown(data: Data) -> str:
    unknown = (
        ("Language", UNKNOWN_LANGUAGE, data.documents.languages),
        ("Licence", UNKNOWN_LICENCE, data.documents.licences),
    )
    lines = [
        f"- {title} of {count(group.documents)} documents."
        for title, label, found in unknown
        for group in found
        if group.label == label
    ]
    if data.material:
        lines.append("- Language and licence of the conversations and preferences, and who wrote them when.")
    return "\n".join([*lines, "- Personal data was not searched for unless the recipe's cleaning says so."])
