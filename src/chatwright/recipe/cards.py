"""Model cards and the data card of a run: Markdown with a YAML head, as the Hugging Face hub reads it.

Nothing is measured here, and nothing is claimed that no stage wrote down: what is not known is said to be unknown.
"""

import dataclasses
from pathlib import Path
from typing import Any

from chatwright.data.document import UNKNOWN_LICENCE
from chatwright.evaluate.records import run_of
from chatwright.foundation import storage
from chatwright.recipe import cards_hub, cards_rounds
from chatwright.recipe.cards_data import Data, data_card, read_data
from chatwright.recipe.cards_material import read_material
from chatwright.recipe.cards_text import head, joined, plain, table
from chatwright.recipe.report.facts import MODEL_NAMES, RunFacts, StageFacts
from chatwright.recipe.report.improving import figures_of
from chatwright.recipe.report.markup import count, decimal, percent, size, with_interval
from chatwright.recipe.report.models import base_of, hub_id, name_of, shape_of
from chatwright.recipe.report.overview import NONE_HELD_OUT

MODEL_CARD = "model-card.md"
DATA_CARD = "data-card.md"
README = "README.md"


def write_cards(run_dir: Path) -> list[Path]:
    """Write the cards of a run beside its stages: one for each model, and the data's where anything was read.

    A promoted round's model has a card, too; the data's tells of all rounds.

    Returns:
        The files, models first.

    Raises:
        UsageError: not a run.
        RefusedError: a manifest or a report is damaged.
    """
    run, rounds = cards_rounds.read_run_and_rounds(run_dir)
    data = read_data(run)
    cards = {f"{name}-{MODEL_CARD}": model_card(run, name, data) for name in MODEL_NAMES if name in run.stages}
    for name in rounds:
        learned = cards_rounds.up_to(run, rounds, name)
        cards[f"{name}-{MODEL_CARD}"] = model_card(learned, name, _with_material(data, learned))
    whole = dataclasses.replace(run, stages={**run.stages, **rounds})
    data = _with_material(data, whole)
    if _has_data(whole, data):
        cards[DATA_CARD] = data_card(whole, data)
    return _write(cards, run_dir)


def cards_for(model: Path) -> dict[str, str]:
    """The files that go with a model of a run where it is published: its card as `README.md`, and its data's card.

    Empty for a model that is neither the newest one of a stage of a run nor a round's: nothing is told of it here.

    Raises:
        RefusedError: a manifest or a report of the run is damaged.
    """
    run_dir = run_of(model)
    place = () if run_dir is None else model.resolve().relative_to(run_dir).parts
    if run_dir is None or len(place) != 2 or not _makes_models(place[0]) or place[1] != "model":
        return {}
    if not all((run_dir / place[0] / name).exists() for name in (storage.MANIFEST, "model")):
        return {}
    run, rounds = cards_rounds.read_run_and_rounds(run_dir)
    run = cards_rounds.up_to(run, rounds, place[0])
    data = read_data(run)
    beside = {DATA_CARD: data_card(run, data)} if _has_data(run, data) else {}
    return {README: model_card(run, place[0], data), **beside}


def write_cards_for(cards: dict[str, str], exported: Path) -> None:
    """Put what `cards_for` gave into a model's folder; what is there under these names already is replaced."""
    _write(cards, exported)


def _write(cards: dict[str, str], directory: Path) -> list[Path]:
    for name, text in cards.items():
        with storage.publish_file(directory / name) as scratch:
            scratch.write_text(text, encoding="utf-8")
    return [directory / name for name in cards]


def _makes_models(name: str) -> bool:
    return name in MODEL_NAMES or cards_rounds.is_round(name)


def _with_material(data: Data, run: RunFacts) -> Data:
    """The same documents, and what the stages and rounds of `run` learned from beside them."""
    return data._replace(material=read_material(run))


def _has_data(run: RunFacts, data: Data) -> bool:
    return "corpus" in run.stages or bool(data.material)


def model_card(run: RunFacts, stage: str, data: Data) -> str:
    """The card of the model that a stage made, to become `README.md` where the model is published."""
    facts, scores = run.stages[stage], run.models.get(stage, {})
    base = base_of(run, stage)
    licences = [group.label for group in data.documents.licences]
    licence = cards_hub.licence_of_model([*licences, *([cards_hub.licence_of_base(base)] if base else [])])
    values = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "language": cards_hub.languages(group.label for group in data.documents.languages),
        **licence,
        "base_model": hub_id(base) if base else None,  # one of the hub: any other name leads nowhere there
        "datasets": cards_hub.datasets(run),
        "tags": ["chatwright", *(["conversational"] if _is_chat(facts) else [])],
    }
    rows = _score_rows(scores) or _figure_rows(facts)
    unmeasured = NONE_HELD_OUT if run.has_nothing_held_out else ""
    return joined(
        [
            head(values),
            f"# {plain(run.name)}: {_title(stage)}",
            f"Made by {_maker(facts)}. Figures are those of the run; what it did not measure is left out.",
            "## The model",
            table(("what", "value"), _model_rows(run, facts)),
            "## Use\n\n" + _use(facts),
            "## Scores" if rows or unmeasured else "",
            table(("measure", "value"), rows),
            _brackets(facts, scores),
            unmeasured,
            "## Training data\n\n" + _data_sentence(run, data),
            "## Licence\n\n" + _licence_sentence(licences, licence["license"]),
            "## Limits\n\n" + _limits(run, stage),
            "## Lineage\n\n" + _lineage(run, stage),
        ]
    )


_BRACKETS = "In brackets: 95% intervals, over documents and questions by bootstrap, of shares after Wilson."


def _title(stage: str) -> str:
    return MODEL_NAMES.get(stage) or f"model of improvement round {int(stage.rsplit('-', 1)[-1])}"


def _maker(facts: StageFacts) -> str:
    version = (facts.facts.get("versions") or {}).get("chatwright")  # rounds note none
    return f"chatwright {plain(version)}" if version else "chatwright"


def _figure_rows(facts: StageFacts) -> list[tuple[str, str]]:
    if cards_rounds.is_round(facts.name):
        return cards_rounds.score_rows(facts)
    return [(f"{one.name}: {one.meaning}", one.value) for one in figures_of(facts)]


def _brackets(facts: StageFacts, scores: dict[str, Any]) -> str:
    if cards_rounds.is_round(facts.name):
        return cards_rounds.brackets(facts)
    return _BRACKETS if any(_has_intervals(values) for values in _measured(scores)) else ""


def _measured(scores: dict[str, Any]) -> list[dict[str, Any]]:
    return [*(scores.get("heldout") or {}).values(), scores.get("answers") or {}]


def _has_intervals(values: dict[str, Any]) -> bool:
    return any(key.endswith("_95") for key in values)


def _is_chat(facts: StageFacts) -> bool:
    return facts.is_chat or cards_rounds.is_round(facts.name)


def _model_rows(run: RunFacts, facts: StageFacts) -> list[tuple[str, str]]:
    summary, shape, base = facts.summary, shape_of(facts), base_of(run, facts.name)
    teacher = facts.config.get("teacher") if facts.name == "distill" else None
    size_of = summary.get("parameters") or summary.get("total") or (shape.num_parameters() if shape else None)
    rows = [
        ("begun from", f"`{base.name}`" if base else None),
        ("taught by", f"`{name_of(str(teacher))}`" if teacher else None),
        ("family", shape.family if shape else None),
        ("parameters", _counted(size_of)),
        ("context", _counted(shape.context_length, "tokens") if shape else None),
        ("vocabulary", _counted(shape.vocabulary_size if shape else run.summary("tokenizer").get("vocabulary_size"))),
        ("pretraining", _counted(run.summary("pretrain").get("target_tokens"), "tokens")),
        ("method", summary.get("objective") or summary.get("by") or summary.get("method")),
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
    rows = []
    for name, entry in (scores.get("heldout") or {}).items():
        bits = with_interval(entry.get("bits_per_byte"), entry.get("bits_per_byte_95"), decimal)
        rows.append((f"bits per byte, held out, {name}", bits))
    answers = scores.get("answers") or {}
    asked = f"of {count(answers.get('questions'))} test questions"
    for key in ("right", "exact"):
        if key in answers:
            rows.append((f"{key} answers, {asked}", with_interval(answers[key], answers.get(f"{key}_95"), percent)))
    for key in ("bleu", "chrf"):
        if key in answers:
            shown = with_interval(answers[key], answers.get(f"{key}_95"), lambda value: decimal(value, digits=1))
            rows.append((f"{key} (`{answers.get(f'{key}_signature', 'no signature')}`)", shown))
    return rows


def _use(facts: StageFacts) -> str:
    command, tail = ("chat", "") if _is_chat(facts) else ("generate", ' "The"')
    return (
        f"    chatwright {command} MODEL{tail}\n\n"
        "The folder opens in transformers too: `AutoModelForCausalLM.from_pretrained(MODEL)`."
    )


def _data_sentence(run: RunFacts, data: Data) -> str:
    if "corpus" in run.stages:
        report = run.read("corpus", "report.json")
        told = f"{count(report.get('documents_out'))} documents, {size(report.get('bytes_out'))} of text, by domain, "
        told += f"language and licence in `{DATA_CARD}`."
    else:
        told = "This run read no documents; its base model's own card tells of its data."
    if data.material:
        number = f"{count(data.conversations)} " if data.conversations else ""
        told += f" The {number}conversations and preferences that the run learned from stand in `{DATA_CARD}`, too."
    return told


def _licence_sentence(licences: list[str], chosen: str) -> str:
    """What is known of the documents' licences, and why the head says what it says."""
    known = [name for name in licences if name != UNKNOWN_LICENCE]
    listed = ", ".join(plain(name) for name in known) or "none that is known"
    told = f"Not stated by the run. Licences of the documents: {listed}." if licences else "Not stated by the run."
    if len(known) < len(licences):
        told += " Some documents have no known licence: clear that before publishing."
    return (
        f"{told} The head says `{chosen}`, from what is known of the documents and the base: whoever publishes the "
        "model has to choose one that they allow."
    )


def _limits(run: RunFacts, stage: str) -> str:
    lines = ["- It continues patterns of its training text; what it says may be false, and nobody has checked it."]
    forgotten = (run.summary(stage).get("forgetting") or {}).get("all")
    if forgotten is not None:
        taught = "Fine-tuning" if stage == "finetune" else "Alignment"
        lines.append(f"- {taught} made it forget {decimal(forgotten, signed=True)} bits per byte of the base's text.")
    lines += _hardest(run.models.get(stage, {}))
    lines.append("- Bias and safety were not measured.")
    return "\n".join(lines)


def _hardest(scores: dict[str, Any]) -> list[str]:
    """The domain with the highest loss, and the worst document, which may be of another one."""
    lines = []
    domains = {name: values["bits_per_byte"] for name, values in (scores.get("heldout") or {}).items() if name != "all"}
    if len(domains) > 1:
        name = max(domains, key=lambda domain: float(domains[domain]))
        lines.append(f"- Weakest on `{plain(name)}`: {decimal(domains[name])} bits per byte, held out.")
    worst = next(iter(scores.get("worst_documents") or []), None)
    if worst is not None:
        bits = decimal(worst.get("bits_per_byte"))
        lines.append(f"- The hardest held-out document, of `{plain(worst.get('domain'))}`: {bits} bits per byte.")
    return lines


def _lineage(run: RunFacts, stage: str) -> str:
    base = base_of(run, stage)
    lines = [f"- base `{plain(base.name)}`, from elsewhere"] if base else []
    lines += [f"- {one.name} `{one.content[:12]}`" for one in run.stages.values()]
    return "\n".join(lines) + "\n\n`chatwright lineage MODEL` walks it with digests compared."
