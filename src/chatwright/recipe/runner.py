"""Runs a recipe: only the stages whose inputs changed, each resumed after a kill, each published whole.

A stage's key is the digest of its configuration without habits, its version, seed, inputs and what lies outside the
run. A published directory whose manifest carries the key is done; a scratch directory named by it is one that was
interrupted.
"""

import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

import chatwright
from chatwright.foundation import storage
from chatwright.foundation.config import without_habits
from chatwright.foundation.console import duration, say
from chatwright.foundation.devices import pick_device, usable_threads
from chatwright.foundation.errors import ConfigError, DamagedError, RefusedError, UsageError
from chatwright.foundation.masking import without_secrets
from chatwright.foundation.stage import TRY_AGAIN, StageContext
from chatwright.foundation.stopping import StopFlag, stop_requested
from chatwright.recipe import interrupted
from chatwright.recipe.contents import content_of, former_content_of
from chatwright.recipe.recipe import Recipe, to_toml, write_toml
from chatwright.recipe.report.facts import TRAININGS, WORK
from chatwright.recipe.stages import Outside, Stage, stages_of
from chatwright.train.ranks import BETWEEN_STAGES_S, Ranks

_FILES = (
    ("finetune", ("data", "test")),
    ("reward", ("data", "test")),
    ("align", ("data", "test")),
    ("distill", ("data",)),
    ("evaluate", ("answers", "references")),
)


class StageOutcome(NamedTuple):
    """What became of one stage."""

    stage: str
    state: str  # "done" or "unchanged"
    seconds: float
    summary: dict[str, Any]


class _Plan(NamedTuple):
    """A stage with its key and where everything is."""

    stage: Stage
    key: str
    inputs: dict[str, Path]
    contents: dict[str, str]
    final: Path
    outside: dict[str, dict[str, str]]  # path and digest of what it reads beside its inputs


def run_recipe(
    recipe: Recipe,
    *,
    until: str | None = None,
    report: Callable[[Path], object] | None = None,
    again: bool = False,
) -> list[StageOutcome]:
    """Do every stage that is not done yet, up to the stages of command `until` if that is given.

    Args:
        recipe: what to build.
        until: a stage command such as "pretrain"; later stages are left as they are.
        report: called with the run's directory when all stages are done.
        again: also begin again the stages of which something was left that another try may do.

    Raises:
        ConfigError: files that the recipe names for later stages are missing, all of them listed.
        BusyError: another process works on the same run.
        StoppedError: a stop was asked for; the same call goes on from there.
    """
    run_dir, ranks = recipe.run_dir, Ranks()
    stages = _until(stages_of(recipe), until)
    _require_what_is_named(recipe, {stage.name for stage in stages})
    device = pick_device("auto" if recipe.pretrain is None else recipe.pretrain.device)
    ranks.join(device, timeout_s=BETWEEN_STAGES_S)
    with stop_requested() as stop:
        if not ranks.is_first:
            return _follow(recipe, stages, stop, ranks)
        with storage.exclusive(run_dir):
            storage.recover(run_dir)
            with storage.publish_file(run_dir / "recipe.toml") as path:
                write_toml(path, to_toml(recipe))
            outcomes = []
            for stage in stages:
                outcomes.append(_do(stage, recipe, run_dir, stop, again=again))
                ranks.wait_for_stage()
            if report is not None and until is None:
                report(run_dir)
            return outcomes


def _until(stages: list[Stage], until: str | None) -> list[Stage]:
    if until is None:
        return stages
    last = max((index for index, stage in enumerate(stages) if stage.command == until), default=None)
    if last is None:
        raise UsageError(f"this recipe has no stage `{until}`", hint="add its section to the recipe")
    return stages[: last + 1]


def _require_what_is_named(recipe: Recipe, stages: set[str]) -> None:
    """What a late stage would miss is told before the early ones have worked for hours."""
    problems = [*device_problems(recipe, stages), *missing_problems(recipe, stages)]
    if problems:
        raise ConfigError(f"recipe `{recipe.name}`", problems)


def missing_problems(recipe: Recipe, stages: set[str]) -> Iterator[str]:
    """Files and models that these stages read and that are not here, a sentence each; the run's own are yet to come."""
    for section, keys in _FILES:
        for key in keys if section in stages else ():
            path = getattr(getattr(recipe, section), key)
            if path and not Path(path).is_file():
                yield f"`{section}.{key}`: there is no file `{path}`"
    store = recipe.align.store if recipe.align is not None and "align" in stages else None
    if store and "://" not in store and not Path(store).is_file():
        yield f"`align.store`: there is no feedback database `{store}`"
    for name, model in _models_of(recipe, stages):
        is_own = model and Path(model).resolve().is_relative_to(recipe.run_dir.resolve())
        if model and not is_own and not Path(model).is_dir():
            yield f"`{name}`: there is no model directory `{model}`"


def _models_of(recipe: Recipe, stages: set[str]) -> Iterator[tuple[str, str | None]]:
    if recipe.distill is not None and "distill" in stages:
        yield "distill.teacher", recipe.distill.teacher
        yield "distill.begin", recipe.distill.begin
    if recipe.align is not None and "align" in stages:
        for number, reward in enumerate(recipe.align.rewards):
            yield f"align.rewards.{number}.model", reward.model


def device_problems(recipe: Recipe, stages: set[str]) -> Iterator[str]:
    """Devices that a training of these stages asks for and that are not here, a sentence each."""
    for name in sorted(stages):
        device = getattr(getattr(recipe, name, None), "device", None)
        if device is not None:
            try:
                pick_device(device)
            except UsageError as error:
                yield f"`{name}.device`: {error.what}; {error.hint}"


def _do(stage: Stage, recipe: Recipe, run_dir: Path, stop: StopFlag, *, again: bool) -> StageOutcome:
    stop.check("the stages before")
    plan = _plan(stage, recipe, run_dir)
    work = run_dir / WORK / f"{stage.name}-{plan.key[:16]}"
    context = _context(plan, recipe, work, stop)
    done = _published(plan)
    summary = {} if done is None else done.facts.get("summary", {})
    if done is not None and not (again and TRY_AGAIN in summary):
        if TRY_AGAIN not in summary:
            _discard(work, context.work)  # what a kill after publishing left
        _tell_published(stage, plan)
        say(f"{stage.name}: unchanged{_told_habits(plan, recipe, done)}{_told_left(summary)}")
        return StageOutcome(stage.name, "unchanged", 0.0, summary)
    _move_damage_aside(plan)
    if stage.name in TRAININGS and not work.exists():
        read = {name: told["digest"] for name, told in plan.outside.items()}
        made_from = interrupted.MadeFrom(_settings(plan, recipe), plan.contents | read)
        interrupted.begin(work, made_from, tokens=plan.inputs["tokens"] if stage.name == "pretrain" else None)
    say(f"{stage.name}: goes on" if work.exists() else f"{stage.name}:")
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with storage.full_disk_named(run_dir):
        summary = stage.run(context)
    seconds = time.monotonic() - began
    storage.finish(work, plan.final, _facts(plan, recipe, summary, seconds))
    _tell_published(stage, plan)
    kept = context.work if TRY_AGAIN in summary else None
    _discard(*(stale for stale in (run_dir / WORK).glob(f"{stage.name}-*") if stale != kept))
    interrupted.forget(work)
    say(f"  done in {duration(seconds)}{_told_left(summary)}")
    return StageOutcome(stage.name, "done", seconds, summary)


def _tell_published(stage: Stage, plan: _Plan) -> None:
    """Also of a stage that was done before: a kill may have come between its publishing and what follows from it."""
    if stage.published is not None:
        stage.published(plan.final)


def _discard(*places: Path) -> None:
    for place in places:
        shutil.rmtree(place, ignore_errors=True)
        interrupted.forget(place)


def _told_left(summary: dict[str, Any]) -> str:
    """What another try may do, and how to ask for it; nothing is redone unasked, since it may fail for ever."""
    left = summary.get(TRY_AGAIN)
    counts = ", ".join(f"{name}: {count}" for name, count in left.items()) if left else ""
    return f"; not all of it could be had ({counts}): the same command with `--again` tries once more" if left else ""


def _settings(plan: _Plan, recipe: Recipe) -> dict[str, Any]:
    """What a person has set for the stage, as far as its result depends on it."""
    config = plan.stage.config(recipe)
    return {"seed": recipe.seed, **({} if config is None else without_secrets(without_habits(config)))}


def _told_habits(plan: _Plan, recipe: Recipe, done: storage.Manifest) -> str:
    """The habits that are others than when the stage was done: they change no result, and redo nothing."""
    config = plan.stage.config(recipe)
    before = done.facts.get("config")
    if config is None or not isinstance(before, dict):
        return ""
    changed = sorted(_differing(without_secrets(before), without_secrets(config.model_dump(mode="json"))))
    return f" ({', '.join(f'`{key}`' for key in changed)}: for the next training)" if changed else ""


def _differing(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """Keys that both have, with other values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() & now.keys():
            yield from _differing(before[key], now[key], f"{place}.{key}" if place else key)
    elif before != now:
        yield place


def _follow(recipe: Recipe, stages: list[Stage], stop: StopFlag, ranks: Ranks) -> list[StageOutcome]:
    """A rank that only trains: it waits while the first rank does the rest, and joins every training."""
    for stage in stages:
        if stage.name in TRAININGS:
            plan = _plan(stage, recipe, recipe.run_dir)
            if _published(plan) is None:
                work = recipe.run_dir / WORK / f"{stage.name}-{plan.key[:16]}"
                stage.run(_context(plan, recipe, work, stop))  # the first rank makes the directory, once it may begin
        ranks.wait_for_stage()
    return []


def _context(plan: _Plan, recipe: Recipe, work: Path, stop: StopFlag) -> StageContext:
    return StageContext(
        config=plan.stage.config(recipe),
        inputs=plan.inputs,
        output=work,
        seed=recipe.seed,
        lineage={
            "stage": plan.stage.name,
            "run": recipe.name,
            "inputs": _ancestry(plan),
            "outside": plan.outside,
        },
        workers=recipe.workers or usable_threads(),
        engine=recipe.engine,
        stop=stop,
    )


def _plan(stage: Stage, recipe: Recipe, run_dir: Path) -> _Plan:
    inputs = {name: _input_path(place, recipe, run_dir) for name, place in stage.inputs(recipe).items()}
    contents = {name: content_of(path, run_dir) for name, path in inputs.items()}
    outside = stage.outside(recipe)
    key = _key(stage, recipe, contents, outside)
    if not _is_known(stage, key, run_dir):  # what was done or begun under a key of earlier versions is not done again
        before = {name: former_content_of(path, run_dir) for name, path in inputs.items()}
        former_key = _key(stage, recipe, before, outside)
        if _is_known(stage, former_key, run_dir):
            key, contents = former_key, before
    read = {name: {**told, "path": _shown_place(told["path"], run_dir)} for name, told in outside.read.items()}
    return _Plan(stage, key, inputs, contents, run_dir / stage.name, read)


def _key(stage: Stage, recipe: Recipe, contents: dict[str, str], outside: Outside) -> str:
    config = stage.config(recipe)
    return storage.digest_json(
        {
            "stage": stage.name,
            "version": stage.version,
            "config": None if config is None else without_secrets(without_habits(config)),
            "inputs": contents,
            "outside": outside.key,
            "seed": recipe.seed,
        }
    )


def _is_known(stage: Stage, key: str, run_dir: Path) -> bool:
    """Whether the stage stands there under this key, done or half done."""
    if (run_dir / WORK / f"{stage.name}-{key[:16]}").exists():
        return True
    try:
        return storage.read_manifest(run_dir / stage.name).facts.get("key") == key
    except RefusedError:
        return False


def _input_path(place: str, recipe: Recipe, run_dir: Path) -> Path:
    if place == "base" and recipe.base is not None:
        path = Path(recipe.base.model)
        if not path.is_dir():
            raise UsageError(f"there is no base model `{path}`", hint="set `base.model` to a Hugging Face directory")
        return path
    return run_dir / place


def _published(plan: _Plan) -> storage.Manifest | None:
    """The manifest of a stage that is done with this very key and whose files are all there in their size."""
    if not (plan.final / storage.MANIFEST).is_file():
        return None
    try:
        manifest = storage.read_manifest(plan.final)
    except DamagedError as error:
        say(f"{plan.stage.name}: {error.what}; the stage is done again")
        return None
    if manifest.facts.get("key") != plan.key:
        return None
    for name, entry in manifest.files.items():
        path = plan.final / name
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            say(f"{plan.stage.name}: `{name}` is missing or cut, the stage is done again")
            return None
    return manifest


def _move_damage_aside(plan: _Plan) -> None:
    """A directory whose manifest nobody can read is kept for the person; what replaces it is made from its inputs."""
    try:
        if (plan.final / storage.MANIFEST).is_file():
            storage.read_manifest(plan.final)
    except DamagedError:
        say(f"  the damaged directory stands in `{storage.set_aside(plan.final)}` now")


def _facts(plan: _Plan, recipe: Recipe, summary: dict[str, Any], seconds: float) -> Mapping[str, Any]:
    config = plan.stage.config(recipe)
    return {
        "stage": plan.stage.name,
        "version": plan.stage.version,
        "key": plan.key,
        "run": recipe.name,
        "inputs": _ancestry(plan),
        "config": None if config is None else without_secrets(config.model_dump(mode="json")),
        "seed": recipe.seed,
        "versions": {
            "chatwright": chatwright.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
        },
        "outside": plan.outside,
        "finished": round(time.time(), 3),  # seconds since 1970
        "seconds": round(seconds, 3),
        "peak_memory_bytes": peak_memory_bytes(),
        "summary": summary,
    }


def _ancestry(plan: _Plan) -> dict[str, Any]:
    run_dir = plan.final.parent
    return {
        name: {"content": content, "path": _shown(plan.inputs[name], run_dir)}
        for name, content in plan.contents.items()
    }


def _shown(path: Path, run_dir: Path) -> str:
    """Inside the run, the stage; outside, the whole path."""
    return path.relative_to(run_dir).as_posix() if path.is_relative_to(run_dir) else str(path.resolve())


def _shown_place(place: str, run_dir: Path) -> str:
    """The same of what a recipe names, which may be a database's address."""
    return place if "://" in place else _shown(Path(place), run_dir)


def peak_memory_bytes() -> int:
    """The largest resident size so far of this process or of any child that has ended."""
    unit = 1 if sys.platform == "darwin" else 1024
    usages = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(usages) * unit
