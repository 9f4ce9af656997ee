"""The part of the page with the rounds of improvement: what each learned from, how it was tested, what became of it."""

from pathlib import Path
from typing import Any

from chatwright.foundation import storage
from chatwright.recipe.report import markup as html
from chatwright.recipe.report.facts import RunFacts, round_manifests


def rounds_section(run: RunFacts) -> html.Section | None:
    """Each round of `chatwright improve`, newest first; nothing where there was none."""
    rounds = [_facts(path.parent) for path in reversed(round_manifests(run.directory))]
    if not rounds:
        return None
    rows: list[list[html.Child]] = [
        [f"round {facts.get('round', '')}", str(facts.get("verdict", "")), _feedback(facts), _checks(facts)]
        for facts in rounds
    ]
    table = html.table(["round", "verdict", "learned from", "tested"], rows, caption="Rounds", words=(1, 2, 3))
    how = (
        "A round learns from feedback that no round before it used; its model takes the place of the one in service "
        "only if every check passes, on questions that are held out in all rounds. A refused model is not kept."
    )
    return html.Section("rounds", "Rounds of improvement", html.join([table, html.note(how)]))


def _facts(directory: Path) -> dict[str, Any]:
    summary: dict[str, Any] = storage.read_manifest(directory).facts.get("summary") or {}
    return summary


def _feedback(facts: dict[str, Any]) -> str:
    numbers = [(name, value) for name, value in (facts.get("feedback") or {}).items() if isinstance(value, int)]
    return ", ".join(f"{html.count(value)} {name.replace('_', ' ')}" for name, value in numbers if value)


def _checks(facts: dict[str, Any]) -> html.Html:
    items = [
        html.element(
            "li",
            html.element("b", "passed" if check.get("passed") else "failed"),
            f": {check['name']}, {check['told']}",
        )
        for check in facts.get("checks") or []
    ]
    return html.element("ul", *items)
