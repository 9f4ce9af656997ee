"""The part of the page about the documents: what came in, what each rule dropped, what is left and of what kind."""

from collections import Counter
from typing import Any

import pyarrow.parquet as pq

from chatwright.recipe.report import markup as html
from chatwright.recipe.report.corpus_pictures import copies_part, fate_figure, mix_figures, personal_figure, sites_part
from chatwright.recipe.report.facts import RunFacts

_MAX_LICENCES = 15


def data_section(run: RunFacts) -> html.Section | None:
    """From what was found to what was learned from: counts, reasons, domains, licences."""
    if "documents" not in run.stages:
        return None
    collected, cleaned = run.read("documents", "report.json"), run.read("corpus", "report.json")
    parts = (
        fate_figure(run, collected, cleaned),
        _funnel(run, collected, cleaned),
        _sources(collected),
        _drops("Not taken when collecting", collected, of="inputs"),
        _drops("Dropped in cleaning", cleaned, of="documents"),
        copies_part(cleaned),
        sites_part(cleaned),
        personal_figure(cleaned),
        _changes(collected, cleaned),
        mix_figures(run, collected, cleaned),
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
    if not rows:
        return None
    shown = html.table(["change", "documents", "places"], rows, caption="Changed on the way")
    examples = [
        _examples(name, entry)
        for report in reports
        for name, entry in (report.get("changed") or {}).items()
        if entry.get("examples")
    ]
    return html.join([shown, html.details("What was taken out, for example", *examples)]) if examples else shown


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
