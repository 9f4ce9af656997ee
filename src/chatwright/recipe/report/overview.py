"""The first part of the page: what was made, how good it is, and what became of the documents."""

from collections import Counter
from typing import Any

import pyarrow.parquet as pq

from chatwright.foundation.console import duration
from chatwright.recipe.report import markup as html
from chatwright.recipe.report.facts import RunFacts, key_figures

MODEL_NAMES = {"pretrain": "base model", "finetune": "fine-tuned model"}
_MAX_LICENCES = 15


def summary_section(run: RunFacts) -> html.Section:
    """What was made, from what, and the three numbers that matter most."""
    cards = html.element("ul", *_cards(run)[:3], class_="cards")
    seconds = sum(stage.seconds for stage in run.stages.values())
    peak = max(stage.peak_memory_bytes for stage in run.stages.values())
    cost = f"All stages together took {duration(seconds)}" + (
        f" and at most {html.size(peak)} of memory." if peak else "."
    )
    return html.Section(
        "summary", "Summary", html.join([html.element("p", _made(run), class_="lead"), cards, html.paragraph(cost)])
    )


def _made(run: RunFacts) -> str:
    """One or two sentences: what was made and from what."""
    figures, pretrain, finetune = key_figures(run), run.summary("pretrain"), run.summary("finetune")
    sentences = []
    if "documents" in figures:
        amount = f" of {html.size(figures['corpus_bytes'])}" if figures.get("corpus_bytes") else ""
        sentences.append(f"From {html.count(figures['documents'])} documents{amount}")
    if pretrain:
        begin = f"{sentences.pop()}, a" if sentences else "A"
        kind = str((run.stages["pretrain"].config.get("model") or {}).get("family", "usual")).capitalize()
        tokens = html.short_count(pretrain.get("target_tokens", 0))
        passes = f" ({pretrain['epochs']:.3g} passes over the corpus)" if pretrain.get("epochs") else ""
        size_of = html.short_count(pretrain.get("parameters", 0))
        sentences.append(
            f"{begin} model of {size_of} parameters in the {kind} shape learned from {tokens} tokens{passes}"
        )
    if finetune:
        share = f"{html.percent(finetune.get('share'))} of its parameters trained"
        how = f"by low-rank updates, {share}" if finetune.get("method") == "lora" else share
        whose = "it" if pretrain else f"a base model of {html.short_count(finetune.get('total', 0))} parameters"
        tokens = html.short_count(finetune.get("target_tokens", 0))
        sentences.append(f"Then {whose} was fine-tuned on conversations: {tokens} target tokens, {how}")
    return "".join(f"{sentence}. " for sentence in sentences).strip() or "Nothing but the first stages is done."


def _answer_card(answers: dict[str, Any], best: str) -> list[html.Html]:
    """Right answers where labels tell which one was meant, else answers that are the reference letter by letter."""
    name = next((name for name in ("right", "exact") if name in answers[best]), None)
    if name is None:
        return []
    base = answers.get("pretrain", {}).get(name)
    beside = f"; base model {html.percent(base)}" if best == "finetune" and base is not None else ""
    has_bleu = name == "exact" and "bleu" in answers[best]
    bleu = f"; BLEU {html.decimal(answers[best]['bleu'], digits=1)}" if has_bleu else ""
    meaning = f"of {html.count(answers[best]['questions'])} test questions{beside}{bleu}"
    return [_card(f"{name.capitalize()} answers", html.percent(answers[best][name]), meaning)]


def _cards(run: RunFacts) -> list[html.Html]:
    """Cards in the order of their weight; a run shows the first that it has."""
    figures = key_figures(run)
    answers, bits = figures.get("answers", {}), figures.get("heldout_bits_per_byte", {})
    best = next((name for name in ("finetune", "pretrain") if name in answers), None)
    cards = []
    if best is not None:
        cards += _answer_card(answers, best)
    if bits:
        name = next(iter(bits))
        cards.append(
            _card("Bits per byte", html.decimal(bits[name]), _bits_meaning(run, name, figures.get("baselines") or {}))
        )
    if "forgotten_bits_per_byte" in figures:
        meaning = "bits per byte on the base's held-out documents, after fine-tuning against before; lower is better"
        cards.append(_card("Forgotten", html.decimal(figures["forgotten_bits_per_byte"], signed=True), meaning))
    if "trained_tokens" in figures:
        cards.append(_card("Trained on", html.short_count(figures["trained_tokens"]), "tokens in pretraining"))
    if "documents" in figures:
        cards.append(_card("Documents", html.count(figures["documents"]), "kept after cleaning"))
    return cards


def _bits_meaning(run: RunFacts, name: str, baselines: dict[str, Any]) -> str:
    where = "held-out documents" if run.models else "a sample of held-out documents"
    beside = [f"{label} {html.decimal(baselines[key])}" for key, label in BASELINES.items() if key in baselines]
    return f"{MODEL_NAMES[name]} on {where}" + (f"; {', '.join(beside)}" if beside else "") + "; lower is better"


BASELINES = {"byte_trigram": "byte trigrams", "xz_9e": "xz -9e"}


def _card(label: str, value: str, meaning: str) -> html.Html:
    return html.element(
        "li", html.element("span", label), html.element("strong", value), html.element("small", meaning), class_="card"
    )


def data_section(run: RunFacts) -> html.Section | None:
    """From what was found to what was learned from: counts, reasons, domains, licences."""
    if "documents" not in run.stages:
        return None
    collected, cleaned = run.read("documents", "report.json"), run.read("corpus", "report.json")
    parts = (
        _funnel(run, collected, cleaned),
        _sources(collected),
        _drops("Not taken when collecting", collected, of="inputs"),
        _drops("Dropped in cleaning", cleaned, of="documents"),
        _changes(collected, cleaned),
        _domains(cleaned or collected),
        _licences(run),
    )
    return html.Section("data", "The data", html.join(parts))


def _funnel(run: RunFacts, collected: dict[str, Any], cleaned: dict[str, Any]) -> html.Html:
    dropped = sum(entry["count"] for entry in collected.get("dropped", {}).values())
    steps: list[tuple[str, int, float | None]] = [
        ("found", collected.get("documents", 0) + dropped, None),
        ("collected", collected.get("documents", 0), collected.get("bytes")),
    ]
    if cleaned:
        steps.append(("kept after cleaning", cleaned.get("documents_out", 0), cleaned.get("bytes_out")))
    tokens = run.summary("tokens")
    for key, label in (("train", "for training"), ("heldout", "held out")):
        if key in tokens:
            steps.append((label, tokens[key]["documents"], tokens[key]["bytes"]))
    most = max(1, steps[0][1])
    rows: list[list[html.Child]] = [
        [
            name,
            html.count(number),
            html.size(num_bytes),
            _tokens_of(tokens, name),
            html.share_bar(number / most),
        ]
        for name, number, num_bytes in steps
    ]
    shown = html.table(
        ["step", "documents", "text", "tokens", "of those found"], rows, caption="From sources to tokens"
    )
    return html.join(
        [
            shown,
            html.note(
                "Found: inputs that the sources list, such as files or modules. Text in UTF-8 bytes. Documents are "
                "held out by a hash of their own content, so the choice does not move when others are added. Tokens "
                "as the run's tokenizer counts them."
            ),
        ]
    )


def _tokens_of(tokens: dict[str, Any], step: str) -> str:
    key = {"for training": "train", "held out": "heldout"}.get(step)
    return html.count(tokens[key]["tokens"]) if key else ""


def _sources(report: dict[str, Any]) -> html.Html | None:
    """What each source gave, and how much of it was not taken."""
    sources = report.get("sources") or []
    if not sources:
        return None
    total = max(1, sum(entry["bytes"] for entry in sources))
    rows: list[list[html.Child]] = [
        [
            entry["source"],
            html.count(entry["documents"]),
            html.size(entry["bytes"]),
            html.share_bar(entry["bytes"] / total),
            html.count(sum(entry["dropped"].values())),
        ]
        for entry in sources
    ]
    return html.table(["source", "documents", "text", "share", "not taken"], rows, caption="What each source gave")


def _drops(title: str, report: dict[str, Any], *, of: str) -> html.Html | None:
    dropped = report.get("dropped") or {}
    if not dropped:
        return None
    came_in = report.get("documents_in") or report.get("documents", 0) + sum(item["count"] for item in dropped.values())
    rows = [
        [
            reason.replace("_", " "),
            html.count(entry["count"]),
            html.percent(entry["count"] / max(1, came_in), digits=2),
            html.count(entry.get("characters")),
            _first_example(entry),
        ]
        for reason, entry in dropped.items()
    ]
    head = ["reason", of, "share", "characters", "for example"]
    shown = html.table(
        head, rows, caption=f"{title}: {html.count(sum(e['count'] for e in dropped.values()))} {of}", words=(4,)
    )
    return html.join(
        [shown, html.details("More examples", *(_examples(reason, entry) for reason, entry in dropped.items()))]
    )


def _first_example(entry: dict[str, Any]) -> html.Html | None:
    return _example(entry["examples"][0]) if entry.get("examples") else None


def _example(example: dict[str, Any]) -> html.Html:
    detail = example.get("detail")
    return html.join([html.code(example.get("path", "")), f": {detail}" if detail else None])


def _examples(reason: str, entry: dict[str, Any]) -> html.Html:
    items = [html.element("li", _example(example)) for example in entry.get("examples", [])]
    return html.join([html.element("h3", reason.replace("_", " ")), html.element("ul", *items)])


def _changes(*reports: dict[str, Any]) -> html.Html | None:
    rows = [
        [name.replace("_", " "), html.count(entry["documents"]), html.count(entry["places"])]
        for report in reports
        for name, entry in (report.get("changed") or {}).items()
    ]
    return html.table(["change", "documents", "places"], rows, caption="Repaired on the way") if rows else None


def _domains(report: dict[str, Any]) -> html.Html | None:
    domains = report.get("by_domain") or {}
    if not domains:
        return None
    total = max(1, sum(entry["bytes"] for entry in domains.values()))
    rows: list[list[html.Child]] = [
        [
            name,
            html.count(entry["documents"]),
            html.size(entry["bytes"]),
            html.share_bar(entry["bytes"] / total),
            html.count(entry.get("heldout_documents")),
            html.size(entry.get("heldout_bytes")),
        ]
        for name, entry in sorted(domains.items(), key=lambda item: -item[1]["bytes"])
    ]
    head = ["domain", "documents", "text", "share", "held out", "held-out text"]
    return html.join(
        [
            html.table(head, rows, caption="Kept, by domain"),
            html.note("Share of bytes. Held out: part of the documents."),
        ]
    )


def _licences(run: RunFacts) -> html.Html | None:
    stage = run.stages.get("corpus") or run.stages.get("documents")
    if stage is None:
        return None
    found: Counter[str] = Counter()
    for part in sorted(stage.directory.glob("part-*.parquet")):
        with pq.ParquetFile(part) as file:
            if "licence" not in file.schema_arrow.names:
                continue
            for batch in file.iter_batches(columns=["licence"]):
                for item in batch.column(0).value_counts().to_pylist():
                    found[str(item["values"])] += item["counts"]
    if not found:
        return None
    rows: list[list[html.Child]] = [[name, html.count(number)] for name, number in found.most_common(_MAX_LICENCES)]
    rest = sum(found.values()) - sum(number for _, number in found.most_common(_MAX_LICENCES))
    if rest:
        rows.append(["others", html.count(rest)])
    return html.join(
        [
            html.table(["licence", "documents"], rows, caption="Kept, by licence"),
            html.note("As the sources state it; nothing was checked. `unknown`: the source says nothing."),
        ]
    )


def heldout_note(run: RunFacts) -> str:
    """How held-out figures were measured, for the notes below them."""
    if not run.models:
        return "Measured on a sample of held-out documents during training."
    share = (
        ((run.stages["evaluate"].config.get("evaluate") or {}).get("stride_share"))
        if "evaluate" in run.stages
        else None
    )
    step = f", windows that move on by {html.percent(share, digits=0)} of the context" if share else ""
    return f"All held-out documents, each from its own beginning, every token counted once{step}."
