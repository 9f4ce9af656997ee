"""The part of the page with what the models say: samples chosen by a fixed rule, and where they are weak."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from chatwright.recipe.report import markup as html
from chatwright.recipe.report.facts import MODEL_NAMES, RunFacts
from chatwright.recipe.report.heatmap import spans_part

_EVEN, _WRONG = 12, 8  # questions shown: spread over all, and of those answered wrongly
_MAX_WEAK = 12


class Verdict(NamedTuple):
    """A test question with its answer and whether it is right."""

    number: int  # position in the test file, from 1
    item: dict[str, Any]
    is_right: bool


def samples_section(run: RunFacts) -> html.Section | None:
    """Continuations of the base model, and questions with the answers they got."""
    shown = run.read("evaluate", "samples.json")
    continuations = [item for model in shown.values() for item in model.get("continuations", [])]
    name, verdicts = _judged(run)
    parts: list[html.Child] = []
    if continuations:
        parts += [html.element("h3", "Continuations by the base model"), *map(_continuation, continuations)]
        parts.append(
            html.note("The prompt in bold. Drawn at random with a fixed seed, temperature 0.7, top-p 0.9; not chosen.")
        )
    if verdicts:
        chosen = choose(verdicts)
        right = sum(verdict.is_right for verdict in verdicts)
        parts.append(html.element("h3", f"Test questions to the {MODEL_NAMES[name]}"))
        parts.append(
            html.note(
                f"{len(chosen)} of {len(verdicts)} questions ({right} right, {len(verdicts) - right} wrong), by a "
                f"fixed rule: {_EVEN} at even distances in the file, then up to {_WRONG} more at even distances "
                "among those answered wrongly. Greedy answers. So wrong ones are shown more often than they occur."
            )
        )
        parts += [_question(verdict) for verdict in chosen]
    return html.Section("samples", "Samples", html.join(parts)) if parts else None


def _judged(run: RunFacts) -> tuple[str, list[Verdict]]:
    """The answers of the last model of the run that answers, judged as the scores were."""
    shown = run.read("evaluate", "samples.json")
    answers = {name: model["answers"] for name, model in shown.items() if model.get("answers")}
    name = run.chat_model(answers)
    if name is None:
        return "", []
    return name, [Verdict(index, item, run.is_right(name, item)) for index, item in enumerate(answers[name], 1)]


def choose(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Questions to show: some at even distances over all, more at even distances over the wrong ones; in file order."""
    chosen = _evenly(verdicts, _EVEN)
    taken = {verdict.number for verdict in chosen}
    wrong = [verdict for verdict in verdicts if not verdict.is_right and verdict.number not in taken]
    return sorted([*chosen, *_evenly(wrong, _WRONG)], key=lambda verdict: verdict.number)


def _evenly(verdicts: Sequence[Verdict], most: int) -> list[Verdict]:
    if len(verdicts) <= most:
        return list(verdicts)
    return [verdicts[(2 * index + 1) * len(verdicts) // (2 * most)] for index in range(most)]


def _continuation(item: dict[str, Any]) -> html.Html:
    return html.element("pre", html.element("b", item["prompt"]), item["continuation"], class_="text")


def _question(verdict: Verdict) -> html.Html:
    item = verdict.item
    rows: list[html.Child] = []
    for message in item["messages"]:
        rows += [
            html.element("dt", {"user": "asked", "assistant": "answered"}.get(message["role"], message["role"])),
            html.element("dd", message["content"]),
        ]
    word = "right" if verdict.is_right else "wrong"
    rows += [
        html.element("dt", "answer"),
        html.element("dd", html.element("span", f"{word}: ", class_="verdict"), item["answer"] or "(nothing)"),
    ]
    if not verdict.is_right:
        rows += [html.element("dt", "expected"), html.element("dd", item["reference"])]
    if item.get("expected") is not None:
        labels = f"{item['expected']}" if verdict.is_right else f"{item['expected']}; it said {_said(item)}"
        rows += [html.element("dt", "label"), html.element("dd", labels)]
    return html.element("div", html.element("dl", *rows), class_=f"asked {word}")


def _said(item: dict[str, Any]) -> str:
    return str(item.get("said") or "no known answer")


def weak_section(run: RunFacts) -> html.Section | None:
    """Where the models are worst: domains, documents, labels and what was said instead."""
    makers = (_weak_labels, _weak_domains, _weak_documents, _weak_spans)
    parts = [part for part in (make(run) for make in makers) if part is not None]
    return html.Section("weak", "Weak areas", html.join(parts)) if parts else None


def _weak_labels(run: RunFacts) -> html.Html | None:
    name, verdicts = _judged(run)
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.item.get("expected") is not None:
            groups.setdefault(str(verdict.item["expected"]), []).append(verdict)
    weak = [(label, group) for label, group in groups.items() if any(not verdict.is_right for verdict in group)]
    weak.sort(key=lambda entry: (sum(v.is_right for v in entry[1]) / len(entry[1]), -len(entry[1]), entry[0]))
    if not weak:
        return None
    rows = [_weak_row(label, group) for label, group in weak[:_MAX_WEAK]]
    head = ["asked about", "questions", "right", "said instead", "for example"]
    shown = html.table(head, rows, caption=f"Answered worst by the {MODEL_NAMES[name]}", words=(3, 4))
    more = f" {len(weak) - _MAX_WEAK} more have at least one wrong answer." if len(weak) > _MAX_WEAK else ""
    return html.join(
        [shown, html.note(f"Labels with at least one wrong answer, lowest share of right ones first.{more}")]
    )


def _weak_row(label: str, group: Sequence[Verdict]) -> list[html.Child]:
    wrong = [verdict for verdict in group if not verdict.is_right]
    said = Counter(_said(verdict.item) for verdict in wrong)
    instead = ", ".join(f"{name} ({number})" for name, number in said.most_common(3))
    question = wrong[0].item["messages"][-1]["content"]
    right = 1 - len(wrong) / len(group)
    return [label, html.count(len(group)), html.percent(right, digits=0), instead, question]


def _last_scored(run: RunFacts) -> tuple[str, dict[str, Any]] | None:
    scored = [(name, model) for name, model in run.models.items() if "heldout" in model]
    return scored[-1] if scored else None


def _weak_domains(run: RunFacts) -> html.Html | None:
    scored = _last_scored(run)
    if scored is None:
        return None
    name, model = scored
    domains = sorted(
        ((key, item) for key, item in model["heldout"].items() if key != "all"),
        key=lambda entry: -entry[1]["bits_per_byte"],
    )
    if len(domains) < 2:
        return None
    mean = model["heldout"]["all"]["bits_per_byte"]
    rows: list[list[html.Child]] = [
        [
            domain,
            html.decimal(item["bits_per_byte"]),
            html.decimal(item["bits_per_byte"] - mean, signed=True),
            html.count(item["documents"]),
        ]
        for domain, item in domains
    ]
    head = ["domain", "bits per byte", "against all", "documents"]
    return html.table(head, rows, caption=f"Domains, hardest for the {MODEL_NAMES[name]} first")


def _weak_documents(run: RunFacts) -> html.Html | None:
    scored = _last_scored(run)
    if scored is None or not scored[1].get("worst_documents"):
        return None
    name, model = scored
    rows: list[list[html.Child]] = [
        [_named(item), html.decimal(item["bits_per_byte"])] for item in model["worst_documents"]
    ]
    caption = f"Held-out documents hardest for the {MODEL_NAMES[name]}"
    shown = html.table(["document", "bits per byte"], rows, caption=caption)
    return html.join([shown, html.note("Of those with at least 500 bytes, which are long enough to judge.")])


def _weak_spans(run: RunFacts) -> html.Html | None:
    scored = _last_scored(run)
    if scored is None:
        return None
    return spans_part(run.read("evaluate", "spans.json").get(scored[0], []), whose=MODEL_NAMES[scored[0]])


def _named(item: dict[str, Any]) -> html.Html:
    """A document by its path, with what else is known of it."""
    about = ", ".join(str(item[key]) for key in ("title", "domain") if item.get(key))
    return html.join([html.code(str(item.get("path") or item.get("id") or "")), html.element("small", about)])
