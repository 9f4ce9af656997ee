"""The commands that do a recipe: `run`, and one for each stage that needs no more than its recipe."""

import json
from pathlib import Path
from typing import Annotated

import typer

from chatwright.cli import cards
from chatwright.cli.options import Again, AsJson, Overrides, RecipePath
from chatwright.foundation.console import duration, out, say

_STAGES = (
    ("collect", "Gather the documents of a recipe's sources."),
    ("clean", "Clean, filter, deduplicate and split the documents."),
    ("tokenize", "Learn the tokenizer and encode the corpus."),
    ("pretrain", "Train the base model; run again to resume."),
    ("reward", "Learn to tell which answers people prefer."),
    ("align", "Learn what people prefer."),
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(run)
    for name, text in _STAGES:
        _add_stage(app, name, f"{text} Stages before it are done if they have to be.")


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check the recipe and say what would be done")] = False,
    again: Again = False,
    as_json: AsJson = False,
) -> None:
    """Every stage of a recipe; again: only what changed; after a kill: where it stopped."""
    if dry_run:
        from chatwright.recipe.preview import as_text, preview
        from chatwright.recipe.recipe import load_recipe

        planned = preview(load_recipe(recipe, overrides or ()))
        out(json.dumps(planned, indent=2) if as_json else as_text(planned))
        return
    _tell_what_next(do_recipe(recipe, overrides, again=again, as_json=as_json))


def do_recipe(
    recipe: Path, overrides: list[str] | None, *, until: str | None = None, again: bool = False, as_json: bool = False
) -> Path:
    """Do a recipe, up to a stage if one is named, and print what came of it.

    Returns:
        The run's folder.
    """
    from chatwright.recipe.recipe import load_recipe
    from chatwright.recipe.runner import run_recipe

    loaded = load_recipe(recipe, overrides or ())
    outcomes = run_recipe(loaded, until=until, report=cards.write_pages, again=again)
    if outcomes and all(outcome.state == "unchanged" for outcome in outcomes):
        say("nothing to do: no stage's inputs have changed")
    if outcomes:
        from chatwright.recipe.summary import as_table, summarise

        result = summarise(loaded.run_dir, outcomes)
        if as_json:
            typer.echo(json.dumps(result, indent=2))
        else:
            say("")
            out(as_table(result))
            say(f"\n{loaded.run_dir}: {duration(sum(outcome.seconds for outcome in outcomes))} of work")
    return loaded.run_dir


def _add_stage(app: typer.Typer, name: str, text: str) -> None:
    @app.command(name, help=text)
    def stage(recipe: RecipePath, overrides: Overrides = None, again: Again = False, as_json: AsJson = False) -> None:
        do_recipe(recipe, overrides, until=name, again=again, as_json=as_json)


def _tell_what_next(run_dir: Path) -> None:
    """How to meet the model that was made."""
    tuned, base = (run_dir / stage / "model" for stage in ("finetune", "pretrain"))
    if tuned.is_dir():
        say(f"To talk with it:  chatwright chat {tuned}     (or `serve`, for a page)")
    elif base.is_dir():
        say(f'To read what it writes:  chatwright generate {base} "It was"')
