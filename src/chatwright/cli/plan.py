"""`chatwright plan`: parse, call, render. The measuring and choosing is in `recipe/plan/`."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from chatwright.foundation import storage
from chatwright.foundation.console import say
from chatwright.foundation.errors import UsageError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan")(plan)


def plan(  # noqa: PLR0917 - the library calls it by keyword
    budget: Annotated[str | None, typer.Option(help="time for pretraining: 90s, 10m, 2h, 1d")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="tokens to train on, instead of a time")] = None,
    documents: Annotated[Path | None, typer.Option(help="a folder of documents")] = None,
    run: Annotated[Path | None, typer.Option(help="a run whose tokens are counted already")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    write: Annotated[Path | None, typer.Option(help="write the recipe here instead of printing it")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the plan for machines")] = False,
) -> None:
    """Measure this machine and propose a recipe: what to train in this time on these documents."""
    from chatwright.recipe import plan as planning

    spent = _budget(budget, tokens)
    if (documents is None) == (run is None):
        raise UsageError("name the text to train on: `--documents DIR`, or `--run RUN` for one that has its tokens")
    counted = None if run is None else planning.size_of_run(run)
    say("measuring this machine")
    machine = planning.measure_machine(device=device)
    corpus = counted or planning.size_of_documents(
        documents or Path(), vocabulary_size=planning.vocabulary_for(machine, spent)
    )
    made = planning.choose(machine, corpus, spent, timer=planning.step_timer(machine))
    _show(planning.as_json(made), write=write, as_json=as_json)


def _show(result: dict[str, Any], *, write: Path | None, as_json: bool) -> None:
    if write is not None:
        if write.exists():
            raise UsageError(f"`{write}` is there already", kept="everything in it", hint="name another file")
        with storage.publish_file(write) as scratch:
            scratch.write_text(result["recipe"], encoding="utf-8")
        say(f"`{write}`: look through it, then `chatwright run {write}`")
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    elif write is None:
        typer.echo(result["recipe"], nl=False)


def _budget(text: str | None, tokens: int | None) -> Any:
    from chatwright.recipe.plan import Budget

    if text is not None and tokens is not None:
        raise UsageError("a plan has one limit: `--budget` or `--tokens`")
    if tokens is not None:
        return Budget(tokens=tokens)
    return Budget(seconds=seconds_of(text or "10m"))


def seconds_of(text: str) -> float:
    """Seconds of `90s`, `10m`, `2h`, `1.5h`, `1d`.

    Raises:
        UsageError: not such a time, or none at all.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])", text.strip())
    if found is None or float(found[1]) <= 0:
        raise UsageError(f"not a time: `{text}`", hint="write a number and a unit: 90s, 10m, 2h, 1d")
    return float(found[1]) * _UNITS[found[2]]
