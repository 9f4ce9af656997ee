"""`chatwright plan`: parse, call, render. The measuring and choosing is in `recipe/plan/`."""

import json
import math
import re
import shlex
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from chatwright.foundation import storage
from chatwright.foundation.config import path_of
from chatwright.foundation.console import duration, say
from chatwright.foundation.errors import UsageError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan")(plan)


def plan(  # noqa: PLR0917 - the library calls it by keyword
    budget: Annotated[str | None, typer.Option(help="time for pretraining: 90s, 10m, 2h, 1d; default 10m")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="tokens to train on, instead of a time")] = None,
    spend: Annotated[float | None, typer.Option(min=0.01, max=1e12, help="money instead, with `--price`")] = None,
    target: Annotated[float | None, typer.Option(min=0.1, max=8, help="bits per byte to reach, instead")] = None,
    documents: Annotated[Path | None, typer.Option(help="a folder of documents")] = None,
    run: Annotated[Path | None, typer.Option(help="a run whose tokens are counted already")] = None,
    fit: Annotated[bool, typer.Option("--fit", help="first train a ladder of small models on the run")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    write: Annotated[Path | None, typer.Option(help="write the recipe here instead of printing it")] = None,
    on: Annotated[str | None, typer.Option(help="plan for machines you do not have: h100x8, a100, l4x2")] = None,
    price: Annotated[float | None, typer.Option(min=0, max=1e6, help="of one device an hour, in any currency")] = None,
    scripts: Annotated[Path | None, typer.Option(help="with --on and --write: a folder for job scripts")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the plan for machines")] = False,
) -> None:
    """Measure this machine and propose a recipe: what to train in this time on these documents."""
    from chatwright.recipe import plan as planning

    _require_one_goal(target, budget, tokens=tokens, spend=spend, fit=fit)
    fleet = None if on is None else planning.fleet_of(on)
    _require_sense(documents, run, fleet=fleet, device=device, fit=fit, scripts=scripts, write=write)
    spent = _budget(budget, tokens, money=spend, price=price, devices=_devices(fleet))
    counted = None if run is None else _counted(run, fit=fit)
    if documents is not None:
        planning.require_files(documents)
    if fleet is None:
        say("measuring this machine by training steps of small models, for up to a minute")
        machine = planning.measure_machine(device=device)
    else:
        machine = planning.machine_of(fleet)
    corpus = counted or planning.size_of_documents(
        documents or Path(), vocabulary_size=planning.vocabulary_for(machine, spent)
    )
    if fleet is not None and fleet.nodes == 1 and scripts is not None and write is not None:
        corpus = _sent_along(corpus, write)
    rungs = _climbed(run, machine, corpus, spent) if fit and run is not None else ()
    law: planning.Law = planning.fit(rungs, corpus_tokens=corpus.tokens) if rungs else planning.PUBLISHED
    timer = planning.step_timer(machine) if fleet is None else None
    if target is None:
        made = planning.choose(machine, corpus, spent, law=law, timer=timer)
    else:
        made = planning.plan_for(target, machine, corpus, law=law, timer=timer)
    result = _told(made, fleet, price, rungs)
    _show(result, write=write, as_json=as_json)
    if fleet is not None and scripts is not None and write is not None:
        _write_scripts(scripts, fleet, write, result)


def _devices(fleet: Any) -> int:
    return 1 if fleet is None else int(fleet.num_devices)


def _told(made: Any, fleet: Any, price: float | None, rungs: tuple[Any, ...]) -> dict[str, Any]:
    """The plan as JSON, with its cost, the ladder that its law was fitted to and what it means for a fleet."""
    from chatwright.recipe.plan import as_json

    result: dict[str, Any] = as_json(made)
    result["cost"] = _cost(result, price, _devices(fleet))
    if rungs:
        result["ladder"] = [rung.to_json() for rung in rungs]
    if fleet is not None:
        result["fleet"] = _fleet(fleet, result, made)
    return result


def _require_sense(
    documents: Path | None,
    run: Path | None,
    *,
    fleet: Any,
    device: str,
    fit: bool,
    scripts: Path | None,
    write: Path | None,
) -> None:
    """Options that cannot go together are told before anything is measured."""
    if (documents is None) == (run is None):
        raise UsageError("name the text to train on: `--documents DIR`, or `--run RUN` for one that has its tokens")
    if documents is not None and not path_of(str(documents)).is_dir():
        raise UsageError(f"there is no folder `{documents}`", hint="name the folder that your documents lie in")
    if fit and run is None:
        raise UsageError("`--fit` trains on counted tokens: name a run", hint="`chatwright tokenize RECIPE` makes them")
    if fit and fleet is not None:
        raise UsageError("`--fit` trains on this machine and cannot go with `--on`", hint="leave one of the two out")
    if fleet is None and scripts is not None:
        raise UsageError("`--scripts` has no effect without `--on`", hint="add the machines, such as `--on h100x8`")
    if scripts is not None and write is None:
        raise UsageError("`--scripts` call a recipe: name its file by `--write FILE`")
    if fleet is not None and device != "auto":
        raise UsageError("`--device` is of this machine and has no effect with `--on`", hint="leave one of the two out")
    if write is not None:
        _require_new(write)
        _require_place(write.parent)
    if scripts is not None:
        _require_place(scripts)


def _require_place(folder: Path) -> None:
    """What stands at the place of a folder, or of one above it, is none."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir():
        raise UsageError(f"`{there}` is a file", kept="everything in it", hint="name another place")


def _require_new(write: Path) -> None:
    """Told before hours of measuring, and again when it is written."""
    if write.exists():
        raise UsageError(f"`{write}` is there already", kept="everything in it", hint="name another file")


def _require_one_goal(
    target: float | None, budget: str | None, *, tokens: int | None, spend: float | None, fit: bool
) -> None:
    """A target looks for its own budget; beside it, a time is the ladder's or nobody's. A ladder needs a time."""
    if target is None:
        if fit and tokens is not None:
            raise UsageError(
                "`--fit` needs a time, of which its ladder is a share: `--tokens` gives none",
                hint="give `--budget`, or `--spend` with `--price`, or leave `--fit` out",
            )
        return
    limits = [name for name, given in (("--tokens", tokens), ("--spend", spend)) if given is not None]
    if limits:
        raise UsageError(
            f"`--target` looks for its budget itself: `{limits[0]}` has no effect beside it",
            hint="leave one of the two out",
        )
    if budget is not None and not fit:
        raise UsageError(
            "`--target` looks for its budget itself; beside it `--budget` is the time of `--fit`'s ladder alone",
            hint="leave `--budget` out, or add `--fit` and name a run",
        )


def _counted(run: Path, *, fit: bool) -> Any:
    """The tokens of a run, and with a ladder of them something that its models are measured on."""
    from chatwright.recipe.plan import size_of_run

    counted = size_of_run(run)
    if fit and not counted.heldout_tokens:
        raise UsageError(f"`{run}` has no held-out documents", hint="set `clean.heldout_share` above 0")
    return counted


def _climbed(run: Path, machine: Any, corpus: Any, budget: Any) -> tuple[Any, ...]:
    """A ladder of small trainings on this corpus, less those of it that were done before."""
    from chatwright.recipe import plan as planning
    from chatwright.recipe.plan.room import fitted

    say(f"training a ladder of small models, for about {duration(planning.ladder_seconds(budget.seconds))} at most")
    found = planning.affordable(machine, corpus, budget)
    place = {"precision": machine.precision, "device": machine.kind}
    train = planning.trainer_on(run, threads=machine.threads, **place)
    kept = planning.kept_rungs(run, **place)
    return planning.climb(found, budget.seconds, train, kept=kept, hold=partial(fitted, machine=machine))


def _cost(result: dict[str, Any], price: float | None, devices: int) -> float | None:
    """Of the planned pretraining; None where no price was given."""
    if price is None:
        return None
    cost = float(result["predicted"]["seconds"]) / 3600 * devices * price
    say(f"about {cost:,.2f} for the pretraining, at {price:g} a device and hour")
    return round(cost, 4)


def _fleet(fleet: Any, result: dict[str, Any], made: Any) -> dict[str, Any]:
    """Hours and memory, said too: they are the question that `--on` asks."""
    from chatwright.recipe import plan as planning
    from chatwright.recipe.plan import cost, sharded

    hours = result["predicted"]["seconds"] / 3600
    device_hours = hours * fleet.num_devices
    chosen = made.chosen
    whole = cost.memory(chosen.shape, micro_rows=chosen.micro_rows, precision=made.machine.precision)
    shared = sharded.advise(fleet, chosen.shape, whole)
    watts = planning.ACCELERATORS[fleet.name].watts * fleet.num_devices
    say(
        f"{fleet.name} x {fleet.num_devices}: {hours:.3g} hours, {device_hours:.3g} device hours, at most "
        f"{watts * hours / 1000:.3g} kWh of the devices; {shared.replicated_bytes / 1e9:.3g} GB on each device, "
        f"{shared.sharded_bytes / 1e9:.3g} GB in shards; shards: {shared.advice}"
    )
    return {
        "device": fleet.name,
        "count": fleet.num_devices,
        "nodes": fleet.nodes,
        "hours": round(hours, 4),
        "device_hours": round(device_hours, 4),
        "most_kwh": round(watts * hours / 1000, 4),
        "sharding": shared._asdict(),
    }


def _sent_along(corpus: Any, recipe: Path) -> Any:
    """The corpus with its places as a lent machine finds them, to which the folder of this call is sent."""
    from chatwright.recipe.plan import corpus as corpora

    found = corpora.portable(corpus.sections, recipe=recipe, root=Path())
    outside = [*found.outside, *([] if _is_here(recipe) else [str(recipe.resolve())])]
    if outside:
        places = f"`{'`, `'.join(outside)}` {'is' if len(outside) == 1 else 'are'}"
        say(
            f"warning: {places} not in this folder, the only one that `sky.yaml` sends: move it here and plan again, "
            "or add `file_mounts` to the task"
        )
    if not Path("pyproject.toml").is_file():
        say(
            "warning: this folder is no clone of chatwright, from which `sky.yaml` installs it on the machine: plan in "
            "one, or change `setup` in the task"
        )
    return corpus._replace(sections=found.sections)


def _is_here(place: Path) -> bool:
    return place.resolve().is_relative_to(Path().resolve())


def _write_scripts(folder: Path, fleet: Any, recipe: Path, result: dict[str, Any]) -> None:
    from chatwright.recipe.plan import sky_task, slurm_script, torchrun_script

    called = shlex.quote(str(recipe.resolve()))
    hours = max(1, math.ceil(1.5 * result["fleet"]["hours"]))  # half as much again: start-up, data, evaluation
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"torchrun.sh": torchrun_script(fleet, called), "slurm.sbatch": slurm_script(fleet, called, hours=hours)}
    if fleet.nodes == 1:
        sent = recipe.resolve().relative_to(Path().resolve()) if _is_here(recipe) else recipe.resolve()
        texts["sky.yaml"] = sky_task(fleet, shlex.quote(sent.as_posix()))
    else:
        say("no task for SkyPilot: machines that a cloud lends share no folder `runs`, which several machines need")
    for name, text in texts.items():
        with storage.publish_file(folder / name) as scratch:
            scratch.write_text(text, encoding="utf-8")
        say(f"`{folder / name}`")


def _show(result: dict[str, Any], *, write: Path | None, as_json: bool) -> None:
    if write is not None:
        _require_new(write)
        with storage.publish_file(write) as scratch:
            scratch.write_text(result["recipe"], encoding="utf-8")
        _tell_choice(result)
        say(f"`{write}`: its comments say why; look through it, then `chatwright run {write}`")
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    elif write is None:
        typer.echo(result["recipe"], nl=False)


def _tell_choice(result: dict[str, Any]) -> None:
    """The chosen model and what it takes, in a line, and what warns of it."""
    chosen, predicted = result["chosen"], result["predicted"]
    low, high = predicted["seconds_interval"]
    size = f"{chosen['parameters']:,} parameters, {chosen['tokens']:,} tokens"
    memory = predicted["memory_bytes"]["total"] / 1e9
    say(f"chosen: {size}; {duration(low)} to {duration(high)} and about {memory:.1f} GB where nothing else runs")
    for warning in result["warnings"]:
        say(f"warning: {warning}")


def _budget(text: str | None, tokens: int | None, *, money: float | None, price: float | None, devices: int) -> Any:
    from chatwright.recipe.plan import Budget

    if sum(given is not None for given in (text, tokens, money)) > 1:
        raise UsageError("a plan has one limit: `--budget`, `--tokens` or `--spend`", hint="leave the others out")
    if money is not None and not price:
        raise UsageError("`--spend` needs a price", hint="add `--price`: what one device costs an hour")
    if tokens is not None:
        return Budget(tokens=tokens)
    if money is not None and price:
        return Budget(seconds=money / (price * devices) * 3600)
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
