"""`chatwright shards`: what a model of some size holds and sends on each of many devices. Counted in `recipe/plan/`."""

import json
from typing import Annotated, Any, Literal

import typer

from chatwright.foundation.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("shards")(shards)


def shards(  # noqa: PLR0917 - the library calls it by keyword
    size: Annotated[str, typer.Argument(help="124m, 1b, 7b or 70b; or a recipe file", metavar="SIZE")],
    on: Annotated[str, typer.Option(help="machines: h100x8, h200x64, l4x2")],
    parallel: Annotated[Literal["ddp", "fsdp", "hsdp"], typer.Option(help="what each device holds")] = "fsdp",
    micro_rows: Annotated[int, typer.Option(min=1, help="rows at once on each device")] = 1,
    num_micro: Annotated[int, typer.Option(min=1, help="micro-batches of a step on each device")] = 1,
    recompute: Annotated[bool, typer.Option("--recompute", help="activation checkpointing by block")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures for machines")] = False,
) -> None:
    """Count memory and traffic of each device before there is one: training on tensors without memory."""
    from chatwright.recipe.plan import sharded

    fleet, device = sharded.fleet_and_device(on)
    model = sharded.model_of(size)
    if parallel == "hsdp" and fleet.nodes < 2:
        raise UsageError("`--parallel hsdp` needs several machines", hint="name more than eight devices, or take fsdp")
    shape = sharded.Shape(
        model, fleet.num_devices, fleet.per_node, parallel, micro_rows, num_micro, device.precision, recompute
    )
    counted = sharded.count(shape)
    result = sharded.as_dict(shape, counted, device)
    typer.echo(json.dumps(result, indent=2) if as_json else _text(result))


def _text(result: dict[str, Any]) -> str:
    """For a person: gigabytes on each device, by what holds them."""
    memory = ", ".join(f"{name} {value / 1e9:.2f}" for name, value in result["memory_bytes"].items())
    sent = ", ".join(f"{name} {value / 1e9:.2f}" for name, value in result["sent_bytes"].items() if value)
    verdict = "fits" if result["fits"] else "does not fit"
    return (
        f"{result['parameters'] / 1e9:.2f} billion parameters, {result['parallel']} on {result['devices']} devices, "
        f"{result['tokens_per_step']:,} tokens a step\n"
        f"GB on each device: {memory}: {verdict} into {result['device_bytes'] / 1e9:.0f}\n"
        f"GB that each device sends in a step: {sent or 'none'}, in {result['messages']} messages"
    )
