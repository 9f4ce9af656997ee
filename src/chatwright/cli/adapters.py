"""The commands `chatwright adapter ...`: adapters merged, taken out, stacked, and in PEFT's format."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from chatwright.cli.options import AsJson
from chatwright.foundation.console import say

BasePath = Annotated[Path, typer.Argument(help="the model that the adapter was trained on", metavar="BASE")]
AdapterPath = Annotated[Path, typer.Argument(help="an adapter's directory", metavar="ADAPTER")]
Out = Annotated[Path, typer.Option("--out", help="where the result goes", metavar="DIR")]

adapter_app = typer.Typer(help="Adapters: merge, take out, stack, PEFT's format.", no_args_is_help=True)


@adapter_app.command()
def merge(
    base: BasePath,
    adapters: Annotated[list[Path], typer.Argument(help="one or more, ours or PEFT's", metavar="ADAPTER")],
    out: Out,
    weights: Annotated[
        list[float] | None, typer.Option("--weight", help="of each adapter, in their order; 1 if none is given")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the model that a base and its adapters are together. Several add up."""
    from chatwright.model.adapter_exchange import merge_adapters

    _show(*merge_adapters(base, adapters, out, weights=weights or ()), as_json=as_json)


@adapter_app.command()
def unmerge(
    model: Annotated[Path, typer.Argument(help="a merged model", metavar="MODEL")],
    adapter: AdapterPath,
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Write a merged model without its adapter: the base again, to rounding."""
    from chatwright.model.adapter_exchange import unmerge_adapter

    _show(*unmerge_adapter(model, adapter, out), as_json=as_json)


@adapter_app.command("to-peft")
def to_peft_command(base: BasePath, adapter: AdapterPath, out: Out, as_json: AsJson = False) -> None:
    """Write a low-rank adapter in PEFT's format."""
    from chatwright.model.adapter_exchange import to_peft

    _show(*to_peft(base, adapter, out), as_json=as_json)


@adapter_app.command("from-peft")
def from_peft_command(base: BasePath, adapter: AdapterPath, out: Out, as_json: AsJson = False) -> None:
    """Write an adapter of PEFT's as one of ours."""
    from chatwright.model.adapter_exchange import from_peft

    _show(*from_peft(base, adapter, out), as_json=as_json)


@adapter_app.command()
def show(adapter: AdapterPath, as_json: AsJson = False) -> None:
    """What a saved adapter is: its kind, its size, the digest of its base."""
    from chatwright.model.adapter_exchange import describe

    _show(adapter, describe(adapter), as_json=as_json)


def _show(path: Path, facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"path": str(path), **facts}, indent=2))
        return
    typer.echo(path)
    for name, value in facts.items():
        say(f"  {name}: {value:,}" if isinstance(value, int) else f"  {name}: {value}")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(adapter_app, name="adapter")
