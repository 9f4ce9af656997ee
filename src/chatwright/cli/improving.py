"""The commands `distill` and `preferences`: a student of a teacher, and data for alignment from feedback."""

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from chatwright.cli.options import Again, AsJson, Overrides
from chatwright.cli.running import do_recipe
from chatwright.foundation.console import say
from chatwright.foundation.errors import UsageError

_UNITS = {"k": 10**3, "m": 10**6, "b": 10**9}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    _add_distill(app)
    _add_preferences(app)


def _add_distill(app: typer.Typer) -> None:
    @app.command()
    def distill(  # noqa: PLR0917 - the library calls it by keyword
        teacher: Annotated[Path, typer.Argument(help="a model directory, or a recipe", metavar="TEACHER")],
        params: Annotated[str | None, typer.Option(help="size of the student, such as 3M")] = None,
        data: Annotated[Path | None, typer.Option(help="a folder of documents")] = None,
        chats: Annotated[Path | None, typer.Option(help="conversations instead: JSON Lines or CSV")] = None,
        name: Annotated[str, typer.Option(help="of the run")] = "student",
        overrides: Overrides = None,
        again: Again = False,
        as_json: AsJson = False,
    ) -> None:
        """A small model learns from a large one: TEACHER --params 3M --data FOLDER, or the stage of a recipe."""
        if teacher.is_file():
            if params or data or chats:
                raise UsageError(
                    "a recipe says all itself: leave out `--params`, `--data` and `--chats`, or use `--set`"
                )
            do_recipe(teacher, overrides, until="distill", again=again, as_json=as_json)
            return
        _distill(_distill_recipe(teacher, params, data, chats, name), overrides, again=again, as_json=as_json)


def _add_preferences(app: typer.Typer) -> None:
    @app.command()
    def preferences(
        store: Annotated[str, typer.Argument(help="a feedback database: a file or an SQLAlchemy URL", metavar="STORE")],
        directory: Annotated[Path, typer.Argument(help="where the data and their card are put", metavar="DIR")],
        tests: Annotated[Path | None, typer.Option(help="conversations whose questions are left out")] = None,
        overrides: Overrides = None,
        as_json: AsJson = False,
    ) -> None:
        """Preference data from feedback, as JSON Lines with a data card."""
        found = _harvest(store, directory, tests, overrides or [])
        typer.echo(json.dumps(found, indent=2) if as_json else f"{found['pairs']} pairs, {found['verdicts']} verdicts")


def parse_count(text: str) -> int:
    """`3M`, `1.5m`, `800k`, `12000`.

    Raises:
        UsageError: no number.
    """
    unit = _UNITS.get(text[-1:].lower(), 1)
    try:
        value = float(text[:-1] if unit > 1 else text) * unit
    except ValueError:
        value = 0.0
    if not 1 <= value < 1e15:
        raise UsageError(f"a size is a number such as 3M or 800k: `{text}`")
    return round(value)


def _distill_recipe(
    teacher: Path, params: str | None, data: Path | None, chats: Path | None, name: str
) -> dict[str, Any]:
    """A recipe in which the teacher is the base, so that documents are encoded in its tokens."""
    if not teacher.is_dir():
        raise UsageError(f"there is no model directory or recipe `{teacher}`")
    if params is None or (data is None) == (chats is None):
        raise UsageError("say how large the student is (`--params 3M`) and what it learns from (`--data` or `--chats`)")
    recipe: dict[str, Any] = {
        "name": name,
        "base": {"model": str(teacher.resolve())},
        "distill": {"parameters": parse_count(params)},
    }
    if chats is not None:
        recipe["distill"]["data"] = str(chats.resolve())
    if data is not None:
        recipe["collect"] = {"sources": [{"kind": "files", "path": str(data.resolve())}]}
    return recipe


def _distill(recipe: dict[str, Any], overrides: list[str] | None, *, again: bool, as_json: bool) -> None:
    from chatwright.foundation import config as configuration
    from chatwright.recipe.recipe import Recipe
    from chatwright.recipe.runner import run_recipe

    settled = configuration.validate(
        Recipe, configuration.apply_overrides(recipe, overrides or []), where="the recipe of this command"
    )
    summary = run_recipe(settled, until="distill", again=again)[-1].summary
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    else:
        typer.echo(settled.run_dir / "distill" / "model")


def _harvest(store: str, directory: Path, tests: Path | None, overrides: list[str]) -> dict[str, Any]:
    from chatwright.feedback.conversations import read_conversations
    from chatwright.feedback.database import require_store
    from chatwright.feedback.store import FeedbackStore
    from chatwright.foundation import config as configuration
    from chatwright.foundation import storage
    from chatwright.tune.preferences.card import data_card
    from chatwright.tune.preferences.harvest import HarvestConfig, harvest, questions_of
    from chatwright.tune.preferences.pairs import write_preferences

    config = configuration.validate(HarvestConfig, configuration.apply_overrides({}, overrides), where="`--set`")
    require_store(store)
    questions = questions_of(item.messages for item in read_conversations(tests)) if tests else frozenset()
    with contextlib.closing(FeedbackStore(store)) as opened:
        found = harvest(opened.export(), config, test_prompts=questions)
    directory.mkdir(parents=True, exist_ok=True)
    write_preferences(directory / "preferences.jsonl", found.preferences)
    with storage.publish_file(directory / "data_card.md") as scratch:
        scratch.write_text(data_card(found, config), encoding="utf-8")
    say(f"  {directory / 'preferences.jsonl'} and {directory / 'data_card.md'}")
    pairs, verdicts = found.preferences
    return {"pairs": len(pairs), "verdicts": len(verdicts), "dropped": found.dropped, "facts": found.facts}
