"""`chatwright watch`: the curves of a training as it goes. What they show is in `recipe/watch.py`."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from chatwright.foundation import storage

_CURVE_COLUMNS = 60


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("watch")(watch)


def watch(  # noqa: PLR0917 - the library calls it by keyword
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="a run's folder")],
    every: Annotated[float, typer.Option(min=0.2, max=3600, help="seconds between two looks")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="one look, then end")] = False,
    page: Annotated[bool, typer.Option("--page", help="a page in the browser instead of the terminal")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="of the page")] = 8002,
    as_json: Annotated[bool, typer.Option("--json", help="one look for machines")] = False,
) -> None:
    """Curves, progress, rate and time left while a run is worked on. Ctrl-C ends the watching, not the training."""
    if page:
        from chatwright.recipe.watch_page import serve_watch
        from chatwright.serve.settings import settings_for

        serve_watch(run_dir, settings_for("127.0.0.1"), port=port)
        return
    from rich.console import Console
    from rich.live import Live

    from chatwright.foundation.usage import UsageMeter
    from chatwright.recipe.watch import as_json as progress_as_json
    from chatwright.recipe.watch import render

    if as_json:
        typer.echo(progress_as_json(run_dir))
        return
    console = Console(file=sys.stdout, highlight=False)
    columns = max(10, min(_CURVE_COLUMNS, console.width - 50))
    if once or not console.is_terminal:
        console.print(render(run_dir, width=columns))
        return
    meter = UsageMeter()
    with Live(render(run_dir, width=columns), console=console, auto_refresh=False) as live:
        while storage.is_held(run_dir):
            time.sleep(every)
            live.update(render(run_dir, width=columns, usage=meter.look()), refresh=True)
        live.update(render(run_dir, width=columns), refresh=True)  # as it was left
