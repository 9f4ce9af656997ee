"""What `serve` opens: model directories, or runs, of which it is the model that is in service. Not for serving it."""

from collections.abc import Sequence
from pathlib import Path

from chatwright.model.chat import ChatModel, load_several
from chatwright.model.engine.engine import EngineSettings
from chatwright.recipe.improve.service import SERVICE, is_run, read_service


def model_of(place: Path) -> Path:
    """The model directory that a place means now."""
    return read_service(place).path(place) if is_run(place) else place


def watched_file(place: Path) -> Path | None:
    """The file whose replacement says that another model is meant; None for a plain model directory."""
    return place / SERVICE if is_run(place) else None


def open_models(places: Sequence[Path], *, settings: EngineSettings | None = None) -> list[ChatModel]:
    """Open what the places mean now. A run's model has the run's name, whichever round made it."""
    models = load_several([model_of(place) for place in places], settings=settings)
    taken: set[str] = set()
    for model, place in zip(models, places, strict=True):
        name = place.resolve().name if is_run(place) else model.name
        model.name = f"{name}-2" if name in taken else name
        taken.add(model.name)
    return models
