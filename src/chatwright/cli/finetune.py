"""The commands `finetune` and `pairs`: conversations learned by a recipe, or with nothing but a model and a file."""

import json
from pathlib import Path
from typing import Annotated

import typer

from chatwright.cli.options import Again, AsJson, Overrides
from chatwright.cli.running import do_recipe
from chatwright.foundation.console import say
from chatwright.foundation.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the commands."""

    @app.command()
    def finetune(  # noqa: PLR0917 - the library calls it by keyword
        what: Annotated[Path, typer.Argument(help="a TOML file, or a model directory", metavar="RECIPE|MODEL")],
        data: Annotated[
            Path | None, typer.Argument(help="with MODEL: conversations, as JSON Lines or CSV", metavar="DATA")
        ] = None,
        test: Annotated[Path | None, typer.Option(help="with MODEL: conversations never trained on")] = None,
        name: Annotated[str | None, typer.Option(help="with MODEL: of the run")] = None,
        runs: Annotated[Path, typer.Option(help="with MODEL: the folder of runs")] = Path("runs"),
        overrides: Overrides = None,
        again: Again = False,
        as_json: AsJson = False,
    ) -> None:
        """Fine-tune on conversations; run again to resume. With MODEL and DATA alone, every setting is derived."""
        if not what.is_dir():
            if data is not None or test is not None or name is not None:
                raise _not_with_recipe(what)
            do_recipe(what, overrides, until="finetune", again=again, as_json=as_json)
            return
        path = _derived(what, data, test=test, name=name, runs=runs)
        run_dir = do_recipe(path, overrides, again=again, as_json=as_json)
        say(f"\nTo talk with it:  chatwright serve {run_dir / 'finetune' / 'model'}     (or `chat` for the terminal)")

    app.command()(pairs)


def _not_with_recipe(what: Path) -> UsageError:
    if what.is_file():
        return UsageError(f"`{what}` is a recipe, which names its files itself", hint="leave out all but the recipe")
    return UsageError(f"there is no model directory `{what}`", hint="name one such as `runs/demo/pretrain/model`")


def _derived(model: Path, data: Path | None, *, test: Path | None, name: str | None, runs: Path) -> Path:
    """The derived recipe's path; what it says is shown."""
    if data is None:
        raise UsageError(f"what shall `{model}` learn?", hint=f"chatwright finetune {model} conversations.jsonl")
    if data.is_dir():
        raise UsageError(
            f"`{data}` is a folder, not a file of conversations",
            hint=f"derive questions and answers first: chatwright pairs {data} --out pairs.jsonl",
        )
    from chatwright.recipe.tuned import derived_recipe

    path = derived_recipe(model, data, test=test, name=name, runs=runs)
    say(f"recipe: {path}\n{path.read_text(encoding='utf-8')}")
    return path


def pairs(
    folder: Annotated[Path, typer.Argument(help="Markdown or text files, or a run's `corpus`", metavar="FOLDER")],
    out: Annotated[Path, typer.Option(help="the file to write, JSON Lines")],
    refusal: Annotated[
        str | None, typer.Option(help="the answer to questions that are none of the documents' business")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Derive questions and answers from documents: marked ones, and sections under their headings."""
    from chatwright.feedback.pairs import derive_pairs, write_pairs

    derived = derive_pairs(folder, refusal=refusal)
    write_pairs(derived, out)
    facts = derived.facts()
    if as_json:
        typer.echo(json.dumps({"path": str(out), **facts}, indent=2))
        return
    typer.echo(out)
    say(f"  {facts['questions']:,} questions for {facts['answers']:,} answers of {facts['documents']:,} documents")
    for reason, count in facts["left_aside"].items():
        say(f"  left aside: {count:,} x {reason}")
