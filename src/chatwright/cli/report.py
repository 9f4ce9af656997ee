"""`chatwright report`: a run as one page, or several runs side by side. What the pages show is in `recipe/report/`."""

from pathlib import Path
from typing import Annotated

import typer

from chatwright.foundation.errors import UsageError

_COMPARISON = "comparison.html"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)


def report(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN", help="a run's folder, or several")],
    out: Annotated[
        Path | None, typer.Option(help=f"with several runs: the page's file; default: {_COMPARISON} here")
    ] = None,
) -> None:
    """Write `report.html` of a run anew: one file that opens offline. Several runs: one page, side by side."""
    from chatwright.recipe.report import write_comparison, write_report

    if len(run_dirs) > 1:
        typer.echo(write_comparison(run_dirs, out or Path(_COMPARISON)))
        return
    if out is not None:
        raise UsageError("`--out` is for several runs", hint="the report of one run stands in its folder")
    typer.echo(write_report(run_dirs[0]))
