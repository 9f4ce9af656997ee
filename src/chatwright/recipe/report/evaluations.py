"""The part of the page with single evaluations over time, and the page of one evaluation. Reads records only."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.evaluate.records import FOLDER, history
from chatwright.recipe.report import markup as html
from chatwright.recipe.report.facts import RunFacts
from chatwright.recipe.report.figures import TimeLine, figure, over_time
from chatwright.recipe.report.heatmap import domains_part, spans_part
from chatwright.recipe.report.look import style

_MAX_ROWS = 30


class Measured(NamedTuple):
    """A figure and the ends of its 95 % interval, where it has one."""

    value: float
    ends: Sequence[float] | None = None


class _Point(NamedTuple):
    """A figure of one evaluation."""

    when: float  # seconds since 1970, UTC
    found: Measured
    model: str


def main_figures(record: dict[str, Any]) -> dict[str, Measured]:
    """The few figures of a record that make a line over time, by their names."""
    result, kind = record["result"], record["kind"]
    if kind == "texts":
        return {"bits per byte": _measured(result["domains"]["all"], "bits_per_byte")}
    if kind == "answers":
        return _answer_figures(result)
    if kind == "run":
        heldout = result.get("heldout", {}).get("all")
        is_measured = heldout is not None and heldout.get("documents") != 0  # former versions wrote figures over none
        bits = {"bits per byte": _measured(heldout, "bits_per_byte")} if is_measured else {}
        return bits | _answer_figures(result.get("answers", {}))
    if kind == "tasks":
        return {f"{name}: {item['metric']}": Measured(float(item["value"])) for name, item in result["tasks"].items()}
    return {}


def _measured(values: dict[str, Any], key: str) -> Measured:
    return Measured(float(values[key]), values.get(f"{key}_95"))


def _answer_figures(result: dict[str, Any]) -> dict[str, Measured]:
    names = ("bleu", "chrf", "ter", "rouge_l", "exact", "token_f1", "right")
    return {name: _measured(result, name) for name in names if name in result}


def evaluations_section(run: RunFacts) -> html.Section | None:
    """Every evaluation of the run's models, oldest first, as lines and as a table."""
    records = history(run.directory / FOLDER)
    if not records:
        return None
    parts: list[html.Child] = [_lines(records), _table(records)]
    latest = next((record for record in reversed(records) if record["kind"] == "texts"), None)
    if latest is not None:
        parts.append(spans_part(latest["result"]["worst_spans"], whose=str(latest["model"]["name"])))
    return html.Section("history", "Evaluations over time", html.join(part for part in parts if part))


def _lines(records: Sequence[dict[str, Any]]) -> html.Html | None:
    series: dict[str, list[_Point]] = {}
    for record in records:
        # A recipe measures all its models each time: these are lines side by side, not one that goes up and down.
        whose = record["model"]["name"] if record["kind"] == "run" else Path(str(record["data"].get("path", ""))).name
        for name, found in main_figures(record).items():
            series.setdefault(f"{whose}, {name}", []).append(_Point(record["created"], found, record["model"]["name"]))
    drawn = {name: points for name, points in series.items() if len(points) > 1}
    if not drawn:
        return None
    content = over_time([_time_line(name, points) for name, points in drawn.items()])
    told = "; ".join(
        f"{name}: {_shown(points[0].found)} at first, {_shown(points[-1].found)} last" for name, points in drawn.items()
    )
    is_sure = any(point.found.ends for points in drawn.values() for point in points)
    caption = "Scores over time" + (", the thin lines are 95% intervals" if is_sure else "")
    return figure("history", content, caption=caption, description=told)


def _time_line(name: str, points: Sequence[_Point]) -> TimeLine:
    return TimeLine(
        name,
        when=[point.when for point in points],
        values=[point.found.value for point in points],
        notes=[point.model for point in points],
        ends=[point.found.ends for point in points],
    )


def _shown(found: Measured) -> str:
    return html.with_interval(found.value, found.ends, lambda value: f"{value:.4g}")


def _table(records: Sequence[dict[str, Any]]) -> html.Html:
    shown_records = records[-_MAX_ROWS:]
    is_sure = any(found.ends for record in shown_records for found in main_figures(record).values())
    rows: list[list[html.Child]] = [
        [
            time.strftime("%Y-%m-%d %H:%M", time.gmtime(record["created"])),
            str(record["model"].get("name", "")),
            f"{record['kind']}: {Path(str(record['data'].get('path', ''))).name}",
            ", ".join(f"{name} {_shown(found)}" for name, found in main_figures(record).items()),
            html.code(str(record["model"].get("digest", ""))[:12]),
        ]
        for record in reversed(shown_records)
    ]
    shown = html.table(
        ["when (UTC)", "model", "measured on", "figures", "model's digest"],
        rows,
        caption="Evaluations, newest first",
        words=(1, 2, 3, 4),
    )
    older = f" {len(records) - _MAX_ROWS} older ones are in the folder." if len(records) > _MAX_ROWS else ""
    brackets = " In brackets: 95% intervals." if is_sure else ""
    how = f"Each is a file in `{FOLDER}/` with model, data and code by their digests.{brackets}{older}"
    return html.join([shown, html.note(how)])


def record_page(record: dict[str, Any]) -> str:
    """One evaluation of texts as a page of its own, without any script."""
    model, data = record["model"], record["data"]
    settings = record["settings"]
    about = (
        f"Windows of {settings['context']} tokens that move on by {settings['stride']}; intervals by bootstrap over "
        f"documents, {settings['resamples']:,} draws."
    )
    result = record["result"]
    worst: list[list[html.Child]] = [
        [html.code(str(item["id"])), item["domain"], html.decimal(item["bits_per_byte"])]
        for item in result["worst_documents"]
    ]
    when = time.strftime("%Y-%m-%d", time.gmtime(record["created"]))
    digests = [f"{name} {record[name]['digest'][:16]}" for name in ("model", "data", "code")]
    parts: list[html.Child] = [
        html.paragraph("Measured on ", html.code(str(data["path"])), f", {when}"),
        domains_part(result["domains"]),
        html.note(about),
    ]
    if worst:
        parts.append(
            html.table(["document", "domain", "bits per byte"], worst, caption="Hardest documents", words=(1,))
        )
    parts.append(spans_part(result["worst_spans"], whose=str(model["name"])))
    parts.append(html.note("Digests: ", html.code(", ".join(digests)), f"; chatwright {record['code']['chatwright']}."))
    return page_without_script(f"{model['name']}: loss of texts", html.join(part for part in parts if part))


def page_without_script(title: str, body: html.Html) -> str:
    """A page of its own in which nothing runs and nothing is fetched."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    head = html.element(
        "head",
        html.element("meta", charset="utf-8"),
        html.element("meta", http_equiv="Content-Security-Policy", content=policy),
        html.element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        html.element("title", title),
        html.Html(f"<style>{style()}</style>"),
    )
    page = html.element("body", html.element("header", html.element("h1", title)), html.element("main", body))
    return "<!doctype html>\n" + html.element("html", head, page, lang="en") + "\n"
