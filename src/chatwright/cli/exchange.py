"""The commands `import` and `export`: models from and for other programs."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from chatwright.cli.options import AsJson
from chatwright.foundation.console import say


class Target(StrEnum):
    """What a model is written as."""

    HF = "hf"
    GGUF = "gguf"


class Numbers(StrEnum):
    """How the weights' numbers are written."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"


def import_command(
    directory: Annotated[Path, typer.Argument(help="a Hugging Face directory", metavar="DIR")],
    out: Annotated[Path | None, typer.Option(help="where it goes; `models/NAME` if not given")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a Hugging Face model and make it one of this system."""
    from chatwright.model.exchange import import_model

    done = import_model(directory, out or Path("models") / directory.resolve().name)
    _show(done.path, done.facts, as_json=as_json)


def export_command(
    model: Annotated[Path, typer.Argument(help="a model directory", metavar="MODEL")],
    to: Annotated[Target, typer.Option(help="a Hugging Face directory, or a GGUF file for llama.cpp")],
    numbers: Annotated[Numbers | None, typer.Option(help="f32 for hf and f16 for gguf if not given")] = None,
    out: Annotated[Path | None, typer.Option(help="where it goes; beside MODEL if not given")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a model for other programs, and check it with them where they are installed."""
    from chatwright.model.exchange import export_to_gguf, export_to_hugging_face
    from chatwright.recipe.cards import cards_for, write_cards_for

    place = model.resolve()
    if to is Target.HF:
        kind = numbers or Numbers.F32
        target = out or place.with_name(f"{place.name}-hf-{kind.value}")
        cards = cards_for(model)
        done = export_to_hugging_face(model, target, numbers=kind.value)
        write_cards_for(cards, done.path)
        if not cards:
            say("  without a model card: it is not the model of a stage or a round of a run")
    else:
        kind = numbers or Numbers.F16
        target = out or place.with_name(f"{place.name}-{kind.value}.gguf")
        done = export_to_gguf(model, target, numbers=kind.value)
    _show(done.path, done.facts, as_json=as_json)


def _show(path: Path, facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"path": str(path), **facts}, indent=2))
        return
    typer.echo(path)
    say(f"  {facts['family']}, {facts['parameters']:,} parameters, context {facts['context_length']} tokens")
    say(f"  {facts['numbers']}, {facts['bytes'] / 1e6:.1f} MB")
    say(f"  turn form: {facts['turn_form'] or 'none: it completes text, and is not made for chat'}")
    for note in facts.get("notes", []):
        say(f"  note: {note}")
    if "compared" in facts:
        say(f"  {_compared(facts['compared'])}")
    if "transformers" in facts:
        say(f"  {_checked(facts['transformers'])}")


def _compared(count: int | None) -> str:
    if count is None:
        return "not compared with llama.cpp: `llama-cpp-python` is not installed"
    return f"llama.cpp reads {count} hard texts as the same ids"


def _checked(check: dict[str, Any] | None) -> str:
    if check is None:
        return "not compared with transformers: it is not installed"
    return f"transformers {check['version']}: logits within {check['logit_difference']:.1g}, ids the same"


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("import")(import_command)
    app.command("export")(export_command)
