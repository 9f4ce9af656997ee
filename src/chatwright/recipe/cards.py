"""Model card and data card: Markdown with a YAML head, as the Hugging Face hub reads it, from what a run published.

Nothing is measured here, and nothing is claimed that no stage wrote down: what is not known is said to be unknown.
The data card follows the summary of training content that the EU's AI Office asks of model makers (Regulation
2024/1689, article 53(1)(d)): sources, kinds, sizes, languages, licences, period of collection.
"""

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chatwright.data.document import PART_PATTERN, UNKNOWN_LANGUAGE, UNKNOWN_LICENCE
from chatwright.foundation import storage
from chatwright.recipe.report.facts import RunFacts, StageFacts, read_run
from chatwright.recipe.report.markup import count, decimal, percent, size

MODEL_CARD = "model-card.md"
DATA_CARD = "data-card.md"
_TITLES = {"pretrain": "base model", "finetune": "fine-tuned model"}


class _Group(NamedTuple):
    """Documents that share a language or a licence."""

    label: str
    documents: int
    num_bytes: int


def write_cards(run_dir: Path) -> list[Path]:
    """Write the cards of a run beside its stages: one for each model, and the data's where documents were read.

    Returns:
        The files, models first.

    Raises:
        UsageError: not a run.
        RefusedError: a manifest or a report is damaged.
    """
    run = read_run(run_dir)
    cards = {f"{name}-{MODEL_CARD}": model_card(run, name) for name in _TITLES if name in run.stages}
    if "corpus" in run.stages:
        cards[DATA_CARD] = data_card(run)
    for name, text in cards.items():
        with storage.publish_file(run_dir / name) as scratch:
            scratch.write_text(text, encoding="utf-8")
    return [run_dir / name for name in cards]


def model_card(run: RunFacts, stage: str) -> str:
    """The card of the model that a stage made, to become `README.md` where the model is published."""
    facts, scores = run.stages[stage], run.models.get(stage, {})
    licences = _licences(run)
    head = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["chatwright", *(["conversational"] if stage == "finetune" else [])],
        **({"language": languages} if (languages := _languages(run)) else {}),
    }
    parts = [
        _head(head),
        f"# {_plain(run.name)}: {_TITLES[stage]}",
        f"Made by chatwright {_plain(facts.facts.get('versions', {}).get('chatwright'))}. "
        "Figures are those of the run; what it did not measure is left out.",
        "## The model",
        _table(("what", "value"), _model_rows(run, facts)),
        "## Use\n\n" + _use(stage),
        "## Scores" if scores else "",
        _table(("measure", "value"), _score_rows(scores)),
        "## Training data\n\n" + _data_sentence(run),
        "## Licence\n\n" + _licence_sentence(licences),
        "## Limits\n\n" + _limits(run, stage),
        "## Lineage\n\n" + _lineage(run),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def data_card(run: RunFacts) -> str:
    """The card of the corpus: sources, sizes, domains, languages, licences, what was dropped and why."""
    corpus, documents = run.stages["corpus"], run.stages.get("documents")
    report = corpus.read("report.json")
    collected = _period(documents)
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
    groups = [
        (title, _groups(corpus.directory, column))
        for title, column in (("Language", "language"), ("Licence", "licence"))
    ]
    told_groups = [part for title, found in groups for part in _group_section(title, found)]
    parts = [
        _head({"pretty_name": f"{run.name} corpus", "tags": ["chatwright"], "task_categories": ["text-generation"]}),
        f"# {_plain(run.name)}: the documents",
        f"{count(report.get('documents_out'))} documents, {size(report.get('bytes_out'))} of text after cleaning. "
        f"Collected: {collected}.",
        "## Sources",
        _table(("kind", "settings"), _sources(documents)),
        "## Domains",
        _table(("domain", "documents", "text", "of them held out"), domains),
        *told_groups,
        "## Dropped" if drops else "",
        _table(("stage", "reason", "documents"), drops),
        "## What is not known\n\n" + _unknown(groups),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _group_section(title: str, found: Sequence[_Group]) -> tuple[str, str]:
    """A heading and a table of documents by language or licence."""
    rows = [(one.label, count(one.documents), size(one.num_bytes)) for one in found]
    return f"## {title}s", _table((title.lower(), "documents", "text"), rows)


def _model_rows(run: RunFacts, facts: StageFacts) -> list[tuple[str, str]]:
    summary, base = facts.summary, run.summary("pretrain")
    shape = facts.config.get("model") or (
        run.stages["pretrain"].config.get("model") if "pretrain" in run.stages else None
    )
    rows = [
        ("family", (shape or {}).get("family")),
        ("parameters", _counted(summary.get("parameters") or summary.get("total"))),
        ("context", _counted((shape or {}).get("context_length"), "tokens")),
        ("vocabulary", _counted(run.summary("tokenizer").get("vocabulary_size"))),
        ("pretraining", _counted(base.get("target_tokens"), "tokens")),
        ("fine-tuning", summary.get("method")),
        ("target tokens of this stage", _counted(summary.get("target_tokens"))),
        ("device", summary.get("device")),
        ("precision", summary.get("precision")),
        ("time of this stage", f"{facts.seconds:,.0f} s" if facts.seconds else None),
        ("digest", f"`{summary['model_digest']}`" if summary.get("model_digest") else None),
    ]
    return [(name, str(value)) for name, value in rows if value is not None]


def _counted(value: Any, unit: str = "") -> str | None:
    return None if value is None else f"{count(value)} {unit}".rstrip()


def _score_rows(scores: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (f"bits per byte, held out, {name}", decimal(entry.get("bits_per_byte")))
        for name, entry in (scores.get("heldout") or {}).items()
    ]
    answers = scores.get("answers") or {}
    asked = f"of {count(answers.get('questions'))} test questions"
    rows += [(f"{key} answers, {asked}", percent(answers[key])) for key in ("right", "exact") if key in answers]
    for key in ("bleu", "chrf"):
        if key in answers:
            rows.append(
                (f"{key} (`{answers.get(f'{key}_signature', 'no signature')}`)", decimal(answers[key], digits=1))
            )
    return rows


def _use(stage: str) -> str:
    command = "chat" if stage == "finetune" else "generate"
    tail = "" if stage == "finetune" else ' "The"'
    return (
        f"    chatwright {command} MODEL{tail}\n\n"
        "The folder opens in transformers too: `AutoModelForCausalLM.from_pretrained(MODEL)`."
    )


def _data_sentence(run: RunFacts) -> str:
    if "corpus" not in run.stages:
        return "This run read no documents; its base model's own card tells of its data."
    report = run.read("corpus", "report.json")
    return (
        f"{count(report.get('documents_out'))} documents, {size(report.get('bytes_out'))} of text, by domain, language "
        f"and licence in `{DATA_CARD}`."
    )


def _licence_sentence(licences: Sequence[str]) -> str:
    known = [name for name in licences if name != UNKNOWN_LICENCE]
    if not licences:
        return "Not stated by the run: whoever publishes the model has to choose one that its data and base allow."
    listed = ", ".join(_plain(name) for name in known) or "none that is known"
    rest = " Some documents have no known licence: clear that before publishing." if len(known) < len(licences) else ""
    return f"Not stated by the run. Licences of the documents: {listed}.{rest}"


def _limits(run: RunFacts, stage: str) -> str:
    lines = ["- It continues patterns of its training text; what it says may be false, and nobody has checked it."]
    forgotten = (run.summary("finetune").get("forgetting") or {}).get("all")
    if stage == "finetune" and forgotten is not None:
        lines.append(
            f"- Fine-tuning made it forget {decimal(forgotten, signed=True)} bits per byte of the base's text."
        )
    lines += _hardest(run.models.get(stage, {}))
    lines.append("- Bias and safety were not measured.")
    return "\n".join(lines)


def _hardest(scores: dict[str, Any]) -> list[str]:
    """The domain with the highest loss, and the worst document, which may be of another one."""
    lines = []
    domains = {name: values["bits_per_byte"] for name, values in (scores.get("heldout") or {}).items() if name != "all"}
    if len(domains) > 1:
        name = max(domains, key=lambda domain: float(domains[domain]))
        lines.append(f"- Weakest on `{_plain(name)}`: {decimal(domains[name])} bits per byte, held out.")
    worst = next(iter(scores.get("worst_documents") or []), None)
    if worst is not None:
        bits = decimal(worst.get("bits_per_byte"))
        lines.append(f"- The hardest held-out document, of `{_plain(worst.get('domain'))}`: {bits} bits per byte.")
    return lines


def _lineage(run: RunFacts) -> str:
    lines = [f"- {stage.name} `{stage.content[:12]}`" for stage in run.stages.values()]
    return "\n".join(lines) + "\n\n`chatwright lineage MODEL` walks it with digests compared."


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


def _period(stage: StageFacts | None) -> str:
    """The day on which the documents were read; how old they are is not known from that."""
    if stage is None:
        return "unknown"
    made = (stage.directory / storage.MANIFEST).stat().st_mtime
    return f"{time.strftime('%Y-%m-%d', time.gmtime(made))} (read on that day; when they were written is not known)"


def _groups(corpus: Path, column: str) -> list[_Group]:
    """Documents and bytes by a column of the corpus, largest first."""
    totals: dict[str, list[int]] = {}
    for path in sorted(corpus.glob(PART_PATTERN)):
        file = pq.ParquetFile(path)
        names = [name for name in (column, "text") if name in file.schema_arrow.names]
        for batch in file.iter_batches(columns=names) if column in names else ():
            lengths = pc.binary_length(batch["text"].cast(pa.binary())) if "text" in names else [0] * len(batch)
            for label, length in zip(batch[column].to_pylist(), list(lengths), strict=True):
                entry = totals.setdefault(str(label), [0, 0])
                entry[0] += 1
                entry[1] += int(length if isinstance(length, int) else length.as_py() or 0)
    found = [_Group(label, documents, num_bytes) for label, (documents, num_bytes) in totals.items()]
    return sorted(found, key=lambda group: (-group.documents, group.label))


def _licences(run: RunFacts) -> list[str]:
    return (
        [group.label for group in _groups(run.stages["corpus"].directory, "licence")] if "corpus" in run.stages else []
    )


def _languages(run: RunFacts) -> list[str]:
    groups = _groups(run.stages["corpus"].directory, "language") if "corpus" in run.stages else []
    return [group.label for group in groups if group.label != UNKNOWN_LANGUAGE]


def _unknown(groups: Iterable[tuple[str, list[_Group]]]) -> str:
    unknown = {"Language": UNKNOWN_LANGUAGE, "Licence": UNKNOWN_LICENCE}
    lines = [
        f"- {title} of {count(group.documents)} documents."
        for title, found in groups
        for group in found
        if group.label == unknown[title]
    ]
    return "\n".join([*lines, "- Personal data was not searched for unless the recipe's cleaning says so."])


def _head(values: dict[str, Any]) -> str:
    """YAML between dashes. JSON's strings and lists are YAML's too, so that no name can break out of its line."""
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_plain(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    """Text that cannot become a table's edge, a tag or a new line."""
    text = " ".join(str(value).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
