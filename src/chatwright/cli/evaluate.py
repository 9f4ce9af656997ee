"""`chatwright evaluate`: a recipe's stage, or one model on files that are named."""

import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol

import typer

from chatwright.foundation.console import say
from chatwright.foundation.errors import UsageError

Target = Annotated[Path, typer.Argument(help="a recipe (its stage `evaluate`), or a model directory", metavar="TARGET")]
Records = Annotated[Path | None, typer.Option("--records", help="folder for the record; default: the model's run")]


class RunStage(Protocol):
    """Runs a recipe up to a stage."""

    def __call__(self, recipe: Path, overrides: list[str] | None, *, as_json: bool, until: str | None) -> Path:
        """Gives the run's folder."""
        ...


def register(app: typer.Typer, *, run_stage: RunStage) -> None:
    """Add the commands of this file."""

    @app.command()
    def evaluate(  # noqa: PLR0917 - the library calls it by keyword
        target: Target,
        overrides: Annotated[
            list[str] | None, typer.Option("--set", help="override a key of the recipe: a.b=c", metavar="KEY=VALUE")
        ] = None,
        texts: Annotated[Path | None, typer.Option(help="file, folder or corpus to measure the loss on")] = None,
        text_key: Annotated[str, typer.Option(help="key or column of the text")] = "text",
        split: Annotated[str | None, typer.Option(help="of a corpus directory: train or heldout")] = None,
        stride: Annotated[
            int | None, typer.Option(min=1, help="tokens between windows; default: half the context")
        ] = None,
        context: Annotated[int | None, typer.Option(min=1, help="tokens read at once; default: the model's")] = None,
        answers: Annotated[Path | None, typer.Option(help="conversations whose last answer is to be given")] = None,
        beams: Annotated[int, typer.Option(min=1, help="of the search for answers; 1 is greedy")] = 1,
        max_tokens: Annotated[int, typer.Option(min=1, help="of an answer")] = 96,
        tasks: Annotated[
            str | None, typer.Option(help="own tasks (files `.jsonl`) and lm-evaluation-harness tasks, with commas")
        ] = None,
        include: Annotated[Path | None, typer.Option(help="folder with the harness's task files")] = None,
        limit: Annotated[int | None, typer.Option(min=1, help="items of each of the harness's tasks")] = None,
        num_fewshot: Annotated[int | None, typer.Option(min=0, help="solved examples before each item")] = None,
        cache: Annotated[Path | None, typer.Option(help="file for the harness's answers already given")] = None,
        online: Annotated[bool, typer.Option("--online", help="let the harness fetch data sets")] = False,
        records: Records = None,
        html: Annotated[Path | None, typer.Option(help="also write a page with the hardest passages")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print the result for machines")] = False,
    ) -> None:
        """Score the models of a recipe's run (stages before it are done if they have to be), or one model on files."""
        if target.is_file() or target.suffix == ".toml":
            if texts or answers or tasks:
                raise UsageError(f"`{target}` is a recipe: `--texts`, `--answers`, `--tasks` go with a model directory")
            run_stage(target, overrides, as_json=as_json, until="evaluate")
            return
        if overrides:
            raise UsageError("`--set` has no effect on a model directory, it goes with a recipe")
        if texts is None and answers is None and tasks is None:
            raise UsageError(f"`{target}`: say what to measure", hint="`--texts`, `--answers` or `--tasks`")
        if html is not None and texts is None:
            raise UsageError("`--html` has no effect without `--texts`")
        opened = _open(target, records)
        told: list[dict[str, Any]] = []
        if texts is not None:
            told.append(_on_texts(opened, texts, text_key=text_key, split=split, stride=stride, context=context))
            _write_page(html, told[-1])
        if answers is not None:
            told.append(_on_answers(opened, answers, beams=beams, max_tokens=max_tokens))
        if tasks is not None:
            from chatwright.evaluate.measure import TaskOptions

            options = TaskOptions(max_tokens, include, limit, num_fewshot, cache, uses_network=online)
            told.append(_on_tasks(opened, tasks.split(","), options))
        if as_json:
            typer.echo(json.dumps(told[0] if len(told) == 1 else told, indent=2))


class _Opened(NamedTuple):
    """A model and where its records go."""

    model: Any
    path: Path
    folder: Path


def _open(target: Path, records: Path | None) -> _Opened:
    from chatwright.evaluate.records import folder_for
    from chatwright.foundation.devices import place
    from chatwright.model.chat import load

    folder = folder_for(target, records)
    return _Opened(load(target, device=place(precision="float32").device), target, folder)


def _kept(record: dict[str, Any], opened: _Opened) -> dict[str, Any]:
    from chatwright.evaluate.records import keep

    say(f"record: {keep(record, opened.folder)}")
    return record


def _on_texts(
    opened: _Opened, texts: Path, *, text_key: str, split: str | None, stride: int | None, context: int | None
) -> dict[str, Any]:
    from chatwright.evaluate.measure import measure_texts
    from chatwright.evaluate.perplexity import Windows

    windows = Windows.of(opened.model, context=context, stride=stride)
    measured = measure_texts(
        opened.model, texts, model_path=opened.path, windows=windows, text_key=text_key, split=split
    )
    say(_loss_table(measured.record["result"]))
    return _kept(measured.record, opened)


def _write_page(html: Path | None, record: dict[str, Any]) -> None:
    if html is None:
        return
    from chatwright.foundation import storage
    from chatwright.recipe.report.evaluations import record_page

    with storage.publish_file(html) as scratch:
        scratch.write_text(record_page(record), encoding="utf-8")
    say(f"page: {html}")


def _on_answers(opened: _Opened, answers: Path, *, beams: int, max_tokens: int) -> dict[str, Any]:
    from chatwright.evaluate.measure import measure_answers

    record = measure_answers(opened.model, answers, model_path=opened.path, max_tokens=max_tokens, beams=beams)
    result = record["result"]
    for key in ("bleu", "chrf", "ter"):
        say(f"{key:9} {result[key]:8.2f}  {result[key + '_signature']}")
    for key in ("rouge_l", "token_f1", "exact", "right"):
        if key in result:
            say(f"{key:9} {result[key]:8.4f}")
    return _kept(record, opened)


def _on_tasks(opened: _Opened, names: list[str], options: Any) -> dict[str, Any]:
    from chatwright.evaluate.measure import measure_tasks

    record = measure_tasks(opened.model, names, model_path=opened.path, options=options)
    for name, values in record["result"]["tasks"].items():
        say(f"{name}: {values['metric']} {values['value']:.4f} on {values['items']} items")
    return _kept(record, opened)


def _loss_table(result: dict[str, Any]) -> str:
    lines = [f"{'domain':28} {'bits/byte':>9}  {'95% interval':>16} {'perplexity':>11} {'documents':>9} {'bytes':>11}"]
    for name, values in result["domains"].items():
        ends = values.get("bits_per_byte_95")
        interval = "" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
        lines.append(
            f"{name[:28]:28} {values['bits_per_byte']:9.4f}  {interval:>16} {values['perplexity']:11.3f} "
            f"{values['documents']:9,} {values['bytes']:11,}"
        )
    return "\n".join(lines)
