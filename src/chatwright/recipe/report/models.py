"""What the model of a stage is: its shape as saved, and the model from elsewhere that it began from."""

import re
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from chatwright.foundation import storage
from chatwright.recipe.report.facts import RunFacts, StageFacts

if TYPE_CHECKING:
    from chatwright.model.config import ModelConfig

FAMILIES = {
    "gpt2": "GPT-2",
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "smollm3": "SmolLM3",
}
_CACHED = re.compile(r"/models--([A-Za-z0-9._-]+?)--([A-Za-z0-9._-]+)/snapshots/")
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


class Base(NamedTuple):
    """A model that was not made in the run."""

    name: str
    path: str  # where it stood
    content: str  # digest of its files' sizes and times; empty where none was noted


def shape_of(stage: StageFacts) -> "ModelConfig | None":
    """The shape of the model that a stage left; None where it left none.

    Raises:
        RefusedError: its `config.json` is damaged.
    """
    if not (stage.directory / "model" / "config.json").is_file():
        return None
    # It brings PyTorch, for which only a page that is really written pays.
    from chatwright.model.directory import read_config

    return read_config(stage.directory / "model")


def place_of(item: dict[str, str]) -> str:
    """Of an input: the stage that made it, or its whole path where it is from outside the run."""
    path = str(item.get("path", ""))
    return path if PurePath(path).is_absolute() else path.split("/", maxsplit=1)[0]


def is_outside(place: str) -> bool:
    """Whether what `place_of` gave is no stage of the run."""
    return PurePath(place).is_absolute()


def base_of(run: RunFacts, name: str) -> Base | None:
    """The model from elsewhere that a stage's model goes back to, through the stages before it."""
    stage = run.stages.get(name)
    if stage is None:
        return None
    begun = stage.config.get("begin") if name == "distill" else None
    if begun:
        return Base(name_of(str(begun)), str(begun), "")
    item = stage.inputs.get("base")
    if item is None:
        return None
    place = place_of(item)
    return Base(name_of(place), place, str(item.get("content", ""))) if is_outside(place) else base_of(run, place)


def name_of(path: str) -> str:
    """`models/smollm` is called `smollm`, `runs/demo/finetune/model` `demo-finetune`, one of the hub its id there."""
    cached = _CACHED.search(f"{path}/")
    if cached:
        return "/".join(cached.groups())
    place = PurePath(path)
    if place.name == "model" and len(place.parents) > 2:
        return f"{place.parents[1].name}-{place.parents[0].name}"
    return place.name


def hub_id(base: Base) -> str | None:
    """The name of a base on the Hugging Face hub, where its place or its own files say it."""
    if _CACHED.search(f"{base.path}/"):
        return base.name
    path = Path(base.path) / "config.json"
    value: Any = storage.read_json(path) if path.is_file() else {}
    named = value.get("_name_or_path") if isinstance(value, dict) else None
    return named if isinstance(named, str) and _HUB_ID.fullmatch(named) and not Path(named).exists() else None
