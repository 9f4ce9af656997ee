"""`chatwright evaluate`: a recipe's stage, or one model on files that are named."""

import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from chatwright.cli.options import Again, AsJson, Overrides
from chatwright.cli.running import do_recipe
from chatwright.foundation.console import say
from chatwright.foundation.errors import UsageError

Target = Annotated[Path, typer.Argument(help="a recipe (its stage `evaluate`), or a model directory", metavar="TARGET")]
Texts = Annotated[Path | None, typer.Option(help="file, folder or corpus to measure the loss on")]
TextKey = Annotated[str, typer.Option(help="key or column of the text")]
Split = Annotated[str | None, typer.Option(help="of a corpus directory: train or heldout")]
Stride = Annotated[int | None, typer.Option(min=1, help="tokens between windows; default: half the context")]
Context = Annotated[int | None, typer.Option(min=1, help="tokens read at once; default: the model's")]
Answers = Annotated[Path | None, typer.Option(help="conversations whose last answer is to be given")]
Beams = Annotated[int, typer.Option(min=1, help="of the search for answers; 1 is greedy")]
MaxTokens = Annotated[int, typer.Option(min=1, help="of an answer")]
Tasks = Annotated[
    str | None, typer.Option(help="own tasks (files `.jsonl`) and lm-evaluation-harness tasks, with commas")
]
Include = Annotated[Path | None, typer.Option(help="folder with the harness's task files")]
Limit = Annotated[int | None, typer.Option(min=1, help="items of each of the harness's tasks")]
FewShot = Annotated[int | None, typer.Option(min=0, help="solved examples before each item")]
Cache = Annotated[Path | None, typer.Option(help="file for the harness's answers already given")]
Online = Annotated[bool, typer.Option("--online", help="let the harness fetch data sets")]
Records = Annotated[Path | None, typer.Option("--records", help="folder for the record; default: the model's run")]
Page = Annotated[Path | None, typer.Option("--html", help="also write a page with the hardest passages")]


class _OnTasks(NamedTuple):
    """Which tasks, and how the harness runs its own."""

    names: str | None
    include: Path | None
    limit: int | None
    num_fewshot: int | None
    cache: Path | None
    online: bool


class _Asked(NamedTuple):
    """What to measure of one model; nothing named means what its run set aside."""

    texts: Path | None
    text_key: str
    split: str | None
    stride: int | None
    context: int | None
    answers: Path | None
    beams: int
    max_tokens: int
    tasks: _OnTasks
    page: Path | None

    @property
    def names_nothing(self) -> bool:
        return self.texts is None and self.answers is None and self.tasks.names is None


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""

    @app.command()
    def evaluate(  # noqa: PLR0917 - the library calls it by keyword
        target: Target,
        overrides: Overrides = None,
        again: Again = False,
        texts: Texts = None,
        text_key: TextKey = "text",
        split: Split = None,
        stride: Stride = None,
        context: Context = None,
        answers: Answers = None,
        beams: Beams = 1,
        max_tokens: MaxTokens = 96,
        tasks: Tasks = None,
        include: Include = None,
        limit: Limit = None,
        num_fewshot: FewShot = None,
        cache: Cache = None,
        online: Online = False,
        records: Records = None,
        html: Page = None,
        as_json: AsJson = False,
    ) -> None:
        """Score a recipe's models (doing the stages before, if need be), or one model on files or its run's data."""
        on_tasks = _OnTasks(tasks, include, limit, num_fewshot, cache, online)
        asked = _Asked(texts, text_key, split, stride, context, answers, beams, max_tokens, on_tasks, html)
        if target.is_file() or target.suffix == ".toml":
            _require_recipe_alone(target, asked)
            do_recipe(target, overrides, until="evaluate", again=again, as_json=as_json)
            return
        if overrides or again:
            option = "--set" if overrides else "--again"
            raise UsageError(f"`{option}` has no effect on a model directory, it goes with a recipe")
        told = _measured(_open(target, records), asked)
        if as_json:
            typer.echo(json.dumps(told[0] if len(told) == 1 else told, indent=2))


def _require_recipe_alone(target: Path, asked: _Asked) -> None:
    if not target.is_file():
        raise UsageError(f"there is no recipe `{target}`")
    if not asked.names_nothing:
        raise UsageError(f"`{target}` is a recipe: `--texts`, `--answers`, `--tasks` go with a model directory")


def _measured(opened: "_Opened", asked: _Asked) -> list[dict[str, Any]]:
    """A record of each thing that was asked for."""
    asked = _filled(opened, asked)
    if asked.page is not None and asked.texts is None:
        raise UsageError("`--html` has no effect without `--texts`")
    told: list[dict[str, Any]] = []
    if asked.texts is not None:
        told.append(_on_texts(opened, asked.texts, asked))
        _write_page(asked.page, told[-1])
    if asked.answers is not None:
        told.append(_on_answers(opened, asked.answers, beams=asked.beams, max_tokens=asked.max_tokens))
    if asked.tasks.names is not None:
        told.append(_on_tasks(opened, asked.tasks.names.split(","), asked))
    return told


def _filled(opened: "_Opened", asked: _Asked) -> _Asked:
    """Where nothing is named: the held-out documents and the test questions of the model's run."""
    if not asked.names_nothing:
        return asked
    from chatwright.evaluate.records import data_of_run

    found = data_of_run(opened.path)
    if found.corpus is None and found.answers is None:
        raise UsageError(f"`{opened.path}`: say what to measure", hint="`--texts`, `--answers` or `--tasks`")
    split = asked.split if found.corpus is None else asked.split or "heldout"
    return asked._replace(texts=found.corpus, split=split, answers=found.answers)


class _Opened(NamedTuple):
    """A model and where its records go."""

    model: Any
    path: Path
    folder: Path


def _open(target: Path, records: Path | None) -> _Opened:
    from chatwright.evaluate.records import folder_for
    from chatwright.foundation.devices import place
    from chatwright.model.chat import load

    if records is not None and records.exists() and not records.is_dir():
        raise UsageError(f"`{records}` is a file", hint="`--records` takes a folder")
    model = load(target, device=place(precision="float32").device)  # first: a model that is not there has no run, too
    return _Opened(model, target, folder_for(target, records))


def _kept(record: dict[str, Any], opened: _Opened) -> dict[str, Any]:
    from chatwright.evaluate.records import keep

    say(f"record: {keep(record, opened.folder)}")
    return record


def _on_texts(opened: _Opened, texts: Path, asked: _Asked) -> dict[str, Any]:
    from chatwright.evaluate.measure import measure_texts
    from chatwright.evaluate.perplexity import Windows

    windows = Windows.of(opened.model, context=asked.context, stride=asked.stride)
    measured = measure_texts(
        opened.model, texts, model_path=opened.path, windows=windows, text_key=asked.text_key, split=asked.split
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


def _on_tasks(opened: _Opened, names: list[str], asked: _Asked) -> dict[str, Any]:
    from chatwright.evaluate.harness import TaskOptions
    from chatwright.evaluate.measure import measure_tasks

    _, include, limit, num_fewshot, cache, online = asked.tasks
    options = TaskOptions(asked.max_tokens, include, limit, num_fewshot, cache, uses_network=online)
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
