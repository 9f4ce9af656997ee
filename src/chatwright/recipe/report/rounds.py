"""The part of the page with the rounds of improvement: what each learned from, how its test came out, what is served.

Reads what rounds published; nothing is measured here.
"""

import time
from pathlib import Path
from typing import Any

from chatwright.foundation import storage
from chatwright.recipe.report import markup as html
from chatwright.recipe.report.facts import RunFacts

SERVICE = "service.json"
_REPORT = "report.json"


def round_paths(run_dir: Path) -> list[Path]:
    """The files that this part depends on."""
    manifests = [path / storage.MANIFEST for path in sorted(run_dir.glob("round-[0-9]*"))]
    return [path for path in (*manifests, run_dir / SERVICE) if path.is_file()]


def rounds_section(run: RunFacts) -> html.Section | None:
    """A row for each round, and its conditions below."""
    places = [path.parent for path in round_paths(run.directory) if path.name == storage.MANIFEST]
    if not places:
        return None
    reports = [storage.read_json(place / _REPORT) for place in places]
    path = run.directory / SERVICE
    service: dict[str, Any] = storage.read_json(path) if path.is_file() else {}
    in_service = {entry["round"] for entry in (*service.get("before", ()), service.get("now", {"round": 0}))}
    head = [
        "round",
        "came out",
        "learned from",
        "held-out feedback won",
        "tasks right",
        "bits per byte",
        "going",
        "took",
    ]
    rows = [_row(report, in_service) for report in reports]
    now = service.get("now")
    parts: list[html.Child] = [
        html.paragraph("In service: ", html.code(now["model"]), " ", html.code(str(now["digest"])[:12]))
        if now
        else None,
        html.table(head, rows, caption="Rounds of improvement", words=(1, 2)),
        html.note(
            "Held-out feedback: share of comparisons that the new model won against the one in service, with its 95 % "
            "interval by bootstrap over questions; going: nats an answer away from the model it began as."
        ),
        *(_conditions(report) for report in reports),
        _log(service),
    ]
    return html.Section("rounds", "Rounds of improvement", html.join([part for part in parts if part is not None]))


def _row(report: dict[str, Any], in_service: set[int]) -> list[html.Child]:
    measured, learning, train = report["measured"], report["learning"], report["feedback"]["train"]
    share, new, old = measured["heldout"], measured["new"], measured["old"]
    verdict = report["verdict"]
    if verdict == "promoted" and report["round"] not in in_service:
        verdict = "promoted, then rolled back"
    won = (
        f"{html.percent(share['share'])} ({html.percent(share['low'])} to {html.percent(share['high'])})"
        if share
        else "too little"
    )
    right = "" if new["right"] is None else f"{html.percent(old['right'])} to {html.percent(new['right'])}"
    bits = f"{html.decimal(old['bits']['all'])} to {html.decimal(new['bits']['all'])}" if new["bits"] else ""
    return [
        html.count(report["round"]),
        verdict,
        f"{html.count(train['pairs'])} pairs, {html.count(train['thumbs'])} thumbs by {learning['objective']}",
        won,
        right,
        bits,
        html.decimal(learning.get("divergence_nats")),
        f"{report['seconds']:.0f} s",
    ]


def _conditions(report: dict[str, Any]) -> html.Html:
    rows: list[list[html.Child]] = [
        [check["name"], "passed" if check["passed"] else "failed", check["told"]] for check in report["checks"]
    ]
    weak = report["feedback"].get("weak_topics", ())
    told = [html.note(f"A weak topic: {item['down']} of {item['thumbs']} thumbs were down.") for item in weak]
    shown = html.table(["condition", "", "figures"], rows, caption=f"Round {report['round']}", words=(0, 2))
    return html.details(f"Round {report['round']}: the test", html.join([shown, *told]))


def _log(service: dict[str, Any]) -> html.Html | None:
    if not service.get("log"):
        return None
    items = [
        html.element("li", f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime(entry['when']))} UTC: {_happened(entry)}")
        for entry in service["log"]
    ]
    return html.details("What was put into service", html.element("ol", *items))


def _happened(entry: dict[str, Any]) -> str:
    return f"round {entry['round']} {'was taken out of service' if entry['what'] == 'rolled back' else entry['what']}"
