"""An evaluation as a record: what was measured, of which model, on which data, by which code, with which settings.

Records lie in a run's `evaluations/` as JSON files that are never changed, so that together they are the history of
its models. A model outside any run gets the folder that is named for it.
"""

import platform
import re
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import chatwright
from chatwright.foundation import storage
from chatwright.foundation.config import read_toml
from chatwright.foundation.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from chatwright.model.chat import ChatModel

FOLDER = "evaluations"
RECIPE = "recipe.toml"
_FORMAT = "chatwright.evaluation"
_VERSION = 1


@cache
def code_digest() -> str:
    """Of this package's own source, so that a record says which code made it, whatever its version is called."""
    package = Path(chatwright.__file__).parent
    files = {path.relative_to(package).as_posix(): storage.digest_file(path) for path in sorted(package.rglob("*.py"))}
    return storage.digest_json(files)


def model_facts(model: "ChatModel", path: Path) -> dict[str, Any]:
    """What identifies a model."""
    return {
        "name": model.name,
        "path": str(path),
        "digest": model.digest,
        "tokenizer": model.tokenizer.digest,
        "parameters": model.network.config.num_parameters(),
        "context_length": model.context_length,
    }


def new_record(
    kind: str,
    *,
    model: dict[str, Any],
    data: dict[str, Any],
    settings: dict[str, Any],
    result: dict[str, Any],
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """A record of one evaluation.

    Args:
        kind: what was measured: `texts`, `answers`, `tasks`, `comparison`.
        model: from `model_facts`.
        data: path and digest of what it was measured on.
        settings: everything that the figures depend on beside model and data.
        result: the figures.
        clock: seconds since 1970.
    """
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "kind": kind,
        "created": round(clock(), 3),
        "model": model,
        "data": data,
        "settings": settings,
        "code": {
            "chatwright": chatwright.__version__,
            "digest": code_digest(),
            "torch": version("torch"),
            "python": platform.python_version(),
        },
        "result": result,
    }


def run_of(model: Path) -> Path | None:
    """The run that a model directory such as `runs/demo/finetune/model` stands in, or None."""
    resolved = model.resolve()
    return next((parent for parent in resolved.parents[:3] if (parent / RECIPE).is_file()), None)


class RunData(NamedTuple):
    """What a run set aside for measuring its models."""

    corpus: Path | None  # with its split `heldout`
    answers: Path | None  # test conversations


def data_of_run(model: Path) -> RunData:
    """The held-out documents and test questions of the run that a model stands in; nothing where there is none."""
    run = run_of(model)
    if run is None:
        return RunData(None, None)
    named = (read_toml(run / RECIPE).get("evaluate") or {}).get("answers")
    corpus = run / "corpus"
    answers = Path(named) if named and Path(named).is_file() else None
    return RunData(corpus if (corpus / storage.MANIFEST).is_file() else None, answers)


def folder_for(model: Path, named: Path | None = None) -> Path:
    """Where records of a model are kept.

    Raises:
        UsageError: the model stands in no run and no folder was named.
    """
    if named is not None:
        return named
    run = run_of(model)
    if run is None:
        raise UsageError(
            f"`{model}` stands in no run, so there is no place for the record",
            hint="name a folder for it with `--records DIR`",
        )
    return run / FOLDER


def keep(record: dict[str, Any], folder: Path) -> Path:
    """Write a record, whole or not at all; returns its path. Nothing that is there is ever overwritten."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(record["created"]))
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(record["model"].get("name", "model")))[:60]
    mark = storage.digest_json(record)[:8]
    path = folder / f"{stamp}-{record['kind']}-{name}-{mark}.json"
    if not path.exists():
        with storage.publish_file(path) as scratch:
            storage.write_json(scratch, record)
    return path


def read_record(path: Path) -> dict[str, Any]:
    """One record.

    Raises:
        RefusedError: damaged, foreign, or made by a newer version.
    """
    value = storage.read_json(path)
    if not isinstance(value, dict) or value.get("format") != _FORMAT:
        raise RefusedError(f"`{path}` is not the record of an evaluation")
    if value.get("version") != _VERSION:
        raise RefusedError(f"`{path}` was made by another version: {value.get('version')}", hint="upgrade chatwright")
    return value


def history(folder: Path) -> list[dict[str, Any]]:
    """All records of a folder, oldest first; a damaged one is an error, not a gap."""
    paths = sorted(path for path in folder.glob("*.json") if path.is_file()) if folder.is_dir() else []
    return sorted((read_record(path) for path in paths), key=lambda record: float(record["created"]))
