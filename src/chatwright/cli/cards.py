"""`chatwright card`, and what a finished run writes for people: its report and its cards."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("card")(card)


def card(run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="a run's folder")]) -> None:
    """Write model cards and the data card of a run: Markdown as the Hugging Face hub reads it."""
    from chatwright.recipe.cards import write_cards

    for path in write_cards(run_dir):
        typer.echo(path)


def write_pages(run_dir: Path) -> None:
    """The report and the cards of a run whose stages are all done."""
    from chatwright.recipe.cards import write_cards
    from chatwright.recipe.report import write_report

    write_report(run_dir)
    write_cards(run_dir)
