"""`chatwright evaluate`: a recipe's stage, or one model on files that are named."""

import json
from pathlib import Path
from typing import Annotated, Any, Protocol

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
        records: Records = None,
        html: Annotated[Path | None, typer.Option(help="also write a page with the hardest passages")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print the result for machines")] = False,
    ) -> None:
        """Score the models of a recipe's run (stages before it are done if they have to be), or one model on files."""
        if target.is_file() or target.suffix == ".toml":
            if texts is not None:
                raise UsageError(f"`{target}` is a recipe: `--texts` goes with a model directory")
            run_stage(target, overrides, as_json=as_json, until="evaluate")
            return
        if overrides:
            raise UsageError("`--set` has no effect on a model directory, it goes with a recipe")
        if texts is None:
            raise UsageError(f"`{target}`: say what to measure it on", hint="for example `--texts FOLDER`")
        _on_texts(
            target,
            texts,
            text_key=text_key,
            split=split,
            stride=stride,
            context=context,
            records=records,
            html=html,
            as_json=as_json,
        )


def _on_texts(
    target: Path,
    texts: Path,
    *,
    text_key: str,
    split: str | None,
    stride: int | None,
    context: int | None,
    records: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    from chatwright.evaluate.measure import measure_texts
    from chatwright.evaluate.perplexity import Windows
    from chatwright.evaluate.records import folder_for, keep
    from chatwright.foundation import storage
    from chatwright.foundation.devices import place

    folder = folder_for(target, records)
    placement = place(precision="float32")
    model = _load(target, placement.device)
    windows = Windows.of(model, context=context, stride=stride)
    measured = measure_texts(model, texts, model_path=target, windows=windows, text_key=text_key, split=split)
    say(f"record: {keep(measured.record, folder)}")
    if html is not None:
        from chatwright.recipe.report.evaluations import record_page

        with storage.publish_file(html) as scratch:
            scratch.write_text(record_page(measured.record), encoding="utf-8")
        say(f"page: {html}")
    typer.echo(json.dumps(measured.record, indent=2) if as_json else _loss_table(measured.record["result"]))


def _load(target: Path, device: Any) -> Any:
    from chatwright.model.chat import load

    return load(target, device=device)


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
