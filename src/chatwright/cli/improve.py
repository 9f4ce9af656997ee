"""`chatwright improve`: the next round of a run's loop, its plan, the way back, and the rounds so far."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chatwright.cli.options import AsJson
from chatwright.foundation.console import out
from chatwright.foundation.errors import UsageError

if TYPE_CHECKING:
    from chatwright.recipe.improve.rounds import Outcome


def register(app: typer.Typer, *, default_store: str) -> None:
    """Add the command of this file."""

    @app.command()
    def improve(  # noqa: PLR0917 - the library calls it by keyword
        run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="a run's folder")],
        store: Annotated[str, typer.Option(help="the feedback database, where the recipe names none")] = default_store,
        rollback: Annotated[bool, typer.Option("--rollback", help="serve the model before again")] = False,
        status: Annotated[bool, typer.Option("--status", help="the rounds so far and what is in service")] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="say what a round would learn from")] = False,
        overrides: Annotated[
            list[str] | None, typer.Option("--set", help="override a key: improve.a=b", metavar="KEY=VALUE")
        ] = None,
        as_json: AsJson = False,
    ) -> None:
        """The next model from new feedback, promoted only if it wins. After a kill: goes on where it stopped."""
        from chatwright.recipe.improve import rounds

        if rollback + status + dry_run > 1:
            raise UsageError("`--rollback`, `--status` and `--dry-run` exclude each other")
        if status:
            _tell_status(run_dir, as_json=as_json)
            return
        if rollback:
            outcome = rounds.back(run_dir)
        else:
            outcome = rounds.improve(run_dir, store=store, overrides=tuple(overrides or ()), only_plan=dry_run)
            _write_report(run_dir, outcome)
        _tell(outcome, as_json=as_json)


def _write_report(run_dir: Path, outcome: "Outcome") -> None:
    from chatwright.recipe.report import write_report
    from chatwright.recipe.report.facts import manifest_paths

    if outcome.state in ("promoted", "refused") and manifest_paths(run_dir):
        write_report(run_dir)


def _tell(outcome: "Outcome", *, as_json: bool) -> None:
    in_service = outcome.service.now
    if as_json:
        typer.echo(json.dumps({"state": outcome.state, "in_service": in_service._asdict(), **outcome.told}, indent=2))
        return
    out(f"{outcome.state}: in service is {in_service.model} ({in_service.digest[:12]})")
    for line in _lines(outcome):
        out(f"  {line}")


def _lines(outcome: "Outcome") -> list[str]:
    told = outcome.told
    if outcome.state == "waiting":
        return [
            f"{told['has']} new pairs and thumbs, a round needs {told['needs']}",
            *(_lacking(told) if "lacks" in told else ()),
            *(f"left out: {count}, {reason}" for reason, count in told["dropped"].items()),
        ]
    if outcome.state == "planned":
        train, held = told["train"], told["heldout"]
        return [
            f"round {told['round']} would begin with {told['begins_with']} and learn by {told['objective']}",
            f"learned: {train['pairs']} pairs ({train['edits']} of them corrected answers), {train['thumbs']} thumbs",
            f"held out: {held['pairs']} pairs, {held['thumbs']} thumbs",
            *(f"weak: {t['down']} of {t['thumbs']} thumbs are down, like: {t['like']}" for t in told["weak_topics"]),
        ]
    checks: list[dict[str, Any]] = told.get("checks", [])
    return [f"{'passed' if check['passed'] else 'failed'}: {check['name']}: {check['told']}" for check in checks]


def _lacking(told: dict[str, Any]) -> list[str]:
    """What new feedback is for, where it is enough and nothing of it can be learned."""
    train, held = told["train"], told["heldout"]
    other = "" if told["lacks"] == "kto" else "; `improve.learn.objective` = `auto` or `kto` learns from thumbs alone"
    return [
        f"none of it is for `{told['lacks']}` to learn from: {train['pairs']} pairs and {train['thumbs']} thumbs are "
        f"to be learned, {held['pairs']} and {held['thumbs']} are held out{other}"
    ]


def _tell_status(run_dir: Path, *, as_json: bool) -> None:
    from chatwright.recipe.improve.rounds import rounds_of
    from chatwright.recipe.improve.service import read_service

    service, found = read_service(run_dir), rounds_of(run_dir)
    if as_json:
        told = {
            "in_service": service.now._asdict(),
            "before": [placed._asdict() for placed in service.before],
            "log": list(service.log),
            "rounds": [one.report for one in found],
        }
        typer.echo(json.dumps(told, indent=2))
        return
    out(f"in service: {service.now.model} ({service.now.digest[:12]})")
    for one in found:
        state = one.report["verdict"]
        if one.is_promoted and one.number not in service.rounds:
            state = "promoted, then rolled back"
        share = one.report["measured"]["heldout"]
        won = f", {share['share']:.1%} of held-out feedback won" if share else ""
        out(f"  round {one.number}: {state}{won}")
