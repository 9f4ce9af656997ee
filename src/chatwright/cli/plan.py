"""`chatwright plan`: parse, call, render. The measuring and choosing is in `recipe/plan/`."""

import json
import math
import re
import shlex
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
    on: Annotated[str | None, typer.Option(help="plan for machines you do not have: h100x8, a100, l4x2")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="of one such device an hour, in any currency")] = None,
    scripts: Annotated[Path | None, typer.Option(help="with --on and --write: a folder for job scripts")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the plan for machines")] = False,
) -> None:
    """Measure this machine and propose a recipe: what to train in this time on these documents."""
    from chatwright.recipe import plan as planning

    spent = _budget(budget, tokens)
    if (documents is None) == (run is None):
        raise UsageError("name the text to train on: `--documents DIR`, or `--run RUN` for one that has its tokens")
    counted = None if run is None else planning.size_of_run(run)
    fleet = None if on is None else planning.fleet_of(on)
    if fleet is None and (price is not None or scripts is not None):
        raise UsageError("`--price` and `--scripts` have no effect without `--on`")
    if scripts is not None and write is None:
        raise UsageError("`--scripts` call a recipe: name its file by `--write FILE`")
    if fleet is None:
        say("measuring this machine")
        machine = planning.measure_machine(device=device)
    else:
        machine = planning.machine_of(fleet)
    corpus = counted or planning.size_of_documents(
        documents or Path(), vocabulary_size=planning.vocabulary_for(machine, spent)
    )
    timer = planning.step_timer(machine) if fleet is None else None
    result = planning.as_json(planning.choose(machine, corpus, spent, timer=timer))
    if fleet is not None:
        result["fleet"] = _fleet(fleet, result, price)
    _show(result, write=write, as_json=as_json)
    if fleet is not None and scripts is not None and write is not None:
        _write_scripts(scripts, fleet, write, result)


def _fleet(fleet: Any, result: dict[str, Any], price: float | None) -> dict[str, Any]:
    """Hours and cost, said too: they are the question that `--on` asks."""
    hours = result["predicted"]["seconds"] / 3600
    device_hours = hours * fleet.num_devices
    needed = result["predicted"]["memory_bytes"]["total"] / 1e9
    said = f"{fleet.name} x {fleet.num_devices}: {hours:.3g} hours, {device_hours:.3g} device hours"
    if price is not None:
        said += f", {device_hours * price:,.2f} at {price:g} an hour"
    say(f"{said}; {needed:.3g} GB on each device, the model whole on every one")
    return {
        "device": fleet.name,
        "count": fleet.num_devices,
        "nodes": fleet.nodes,
        "hours": round(hours, 4),
        "device_hours": round(device_hours, 4),
        "cost": None if price is None else round(device_hours * price, 2),
        "sharding": "none: every device holds the whole model and a share of each batch",
    }


def _write_scripts(folder: Path, fleet: Any, recipe: Path, result: dict[str, Any]) -> None:
    from chatwright.recipe.plan import slurm_script, torchrun_script

    called = shlex.quote(str(recipe.resolve()))
    hours = max(1, math.ceil(1.5 * result["fleet"]["hours"]))  # half as much again: start-up, data, evaluation
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"torchrun.sh": torchrun_script(fleet, called), "slurm.sbatch": slurm_script(fleet, called, hours=hours)}
    for name, text in texts.items():
        with storage.publish_file(folder / name) as scratch:
            scratch.write_text(text, encoding="utf-8")
        say(f"`{folder / name}`")


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
