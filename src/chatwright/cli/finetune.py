"""The commands `finetune` and `pairs`: conversations learned by a recipe, or with nothing but a model and a file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from chatwright.foundation.console import say
from chatwright.foundation.errors import UsageError

Run = Callable[..., Path]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="override a key: a.b=c", metavar="KEY=VALUE")]
AsJson = Annotated[bool, typer.Option("--json", help="print the result for machines")]


def register(app: typer.Typer, *, run: Run) -> None:
    """Add the commands; `run` does a recipe up to a stage."""

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
        as_json: AsJson = False,
    ) -> None:
        """Fine-tune on conversations; run again to resume. With MODEL and DATA alone, every setting is derived."""
        if not what.is_dir():
            if data is not None or test is not None or name is not None:
                raise _not_with_recipe(what)
            run(what, overrides, as_json=as_json, until="finetune")
            return
        path = _derived(what, data, test=test, name=name, runs=runs)
        run_dir = run(path, overrides, as_json=as_json)
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
