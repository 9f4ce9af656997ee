"""Which model of a run is in service: one small file, replaced whole, with the models that were there before.

A model is named by its place in the run and its digest. Whoever serves a run watches this file.
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.model.directory import LINEAGE, digest_of
from chatwright.recipe.recipe import Recipe, load_recipe

SERVICE = "service.json"
RECIPE = "recipe.toml"
_FORMAT = "chatwright.service"
_VERSION = 1
_FIRST = ("align", "finetune", "pretrain")  # of the stages that make a model, which one the loop begins with


class Placed(NamedTuple):
    """A model that is or was in service."""

    model: str  # from the run's folder, or a whole path
    digest: str
    round: int  # that made it; 0: the recipe


class Service(NamedTuple):
    """What is in service, what was there before it, and every round that was ever there."""

    now: Placed
    before: tuple[Placed, ...]  # oldest first; what a rollback goes back to is the last
    log: tuple[dict[str, Any], ...]

    def path(self, run_dir: Path) -> Path:
        """Where the model stands."""
        return run_dir / self.now.model

    @property
    def rounds(self) -> frozenset[int]:
        """The rounds whose models are part of the one in service, which learned from all of them in turn."""
        return frozenset(placed.round for placed in (*self.before, self.now) if placed.round)

    @property
    def ever(self) -> frozenset[int]:
        """The rounds that were promoted at some time."""
        return frozenset(int(entry["round"]) for entry in self.log if entry["what"] == "promoted")


def is_run(path: Path) -> bool:
    """Whether a path is a run's folder, and no model directory."""
    return (path / RECIPE).is_file() and not (path / "config.json").is_file()


def read_service(run_dir: Path) -> Service:
    """What is in service; before the first round, the newest model of the recipe.

    Raises:
        UsageError: the run has no model.
        RefusedError: the file is damaged, or its model is gone.
    """
    path = run_dir / SERVICE
    if not path.is_file():
        return Service(_first(run_dir), (), ())
    value = storage.read_json(path)
    if not isinstance(value, dict) or value.get("format") != _FORMAT or value.get("version") != _VERSION:
        raise RefusedError(f"`{path}` is not what this version writes", hint="upgrade chatwright, or delete it")
    try:
        told = value["now"], value["before"], value["log"], value["seal"]
        if told[3] != storage.digest_json(told[:3]):
            raise RefusedError(f"`{path}` is damaged: its digest does not fit what it says", hint="restore it")
        found = Service(Placed(**told[0]), tuple(Placed(**entry) for entry in told[1]), tuple(told[2]))
    except (KeyError, TypeError) as error:
        raise RefusedError(f"`{path}` is damaged: {error!r}", hint="restore it from a copy") from error
    _require_as_it_was(found.path(run_dir), found.now)
    return found


def _require_as_it_was(path: Path, placed: Placed) -> None:
    """The model is there, and where it says what it is, it is the one that was put into service."""
    if not (path / "config.json").is_file():
        raise RefusedError(f"the model in service is gone: `{path}`", hint="copy it back from where it was kept")
    if (path / LINEAGE).is_file() and digest_of(path) != placed.digest:
        raise RefusedError(
            f"`{path}` is another model than the one that was put into service",
            cause="its stage was done again since",
            hint=f"delete `{SERVICE}` in the run's folder to begin with it",
        )


def _first(run_dir: Path) -> Placed:
    recipe = _recipe_of(run_dir)
    made = next((name for name in _FIRST if (run_dir / name / "model" / "config.json").is_file()), None)
    if made is None and recipe.base is not None:
        return Placed(recipe.base.model, digest_of(Path(recipe.base.model)), 0)
    if made is None:
        raise UsageError(f"`{run_dir}` has no model yet", hint="run its recipe first: `chatwright run RECIPE`")
    return Placed(f"{made}/model", digest_of(run_dir / made / "model"), 0)


def _recipe_of(run_dir: Path) -> Recipe:
    if not (run_dir / RECIPE).is_file():
        raise UsageError(f"`{run_dir}` is not a run: it has no `{RECIPE}`", hint="name a folder such as `runs/demo`")
    return load_recipe(run_dir / RECIPE)


def promote(run_dir: Path, number: int) -> Service:
    """Put a round's model into service. Doing it again changes nothing."""
    service = read_service(run_dir)
    if number in service.ever:
        return service
    model = f"round-{number:04}/model"
    placed = Placed(model, digest_of(run_dir / model), number)
    return _write(run_dir, Service(placed, (*service.before, service.now), service.log), "promoted", placed)


def roll_back(run_dir: Path) -> Service:
    """Put the model before the present one into service again.

    Raises:
        UsageError: there is none before it.
    """
    service = read_service(run_dir)
    if not service.before:
        raise UsageError(f"`{service.now.model}` is the first model in service: there is none to go back to")
    *rest, placed = service.before
    _require_as_it_was(run_dir / placed.model, placed)
    return _write(run_dir, Service(placed, tuple(rest), service.log), "rolled back", service.now)


def _write(run_dir: Path, service: Service, what: str, placed: Placed) -> Service:
    entry = {"what": what, "round": placed.round, "digest": placed.digest, "when": round(time.time(), 3)}
    changed = service._replace(log=(*service.log, entry))
    told = [changed.now._asdict(), [one._asdict() for one in changed.before], list(changed.log)]
    head = {"format": _FORMAT, "version": _VERSION, "seal": storage.digest_json(told)}
    with storage.publish_file(run_dir / SERVICE) as scratch:
        storage.write_json(scratch, {**head, **dict(zip(("now", "before", "log"), told, strict=True))})
    return changed
