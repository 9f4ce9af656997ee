"""`chatwright weak`: where a run is weak, what to change, and the recipe with the changes that a person accepts."""

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from chatwright.cli.options import AsJson
from chatwright.cli.rate import STORE
from chatwright.foundation.console import out, say
from chatwright.foundation.errors import UsageError
from chatwright.foundation.masking import without_secrets


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""

    @app.command()
    def weak(  # noqa: PLR0917 - the library calls it by keyword
        run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="a run's folder")],
        feedback: Annotated[str | None, typer.Option(help="the feedback database, for thumbs")] = None,
        topics: Annotated[int, typer.Option(min=1, help="for questions that carry no label")] = 12,
        accept: Annotated[list[int] | None, typer.Option(help="number of a proposal to accept")] = None,
        html: Annotated[
            Path | None, typer.Option("--html", help="also write the tables as a page with a picture")
        ] = None,
        to: Annotated[Path | None, typer.Option(help="the new recipe file with the accepted changes")] = None,
        as_json: AsJson = False,
    ) -> None:
        """Topics by right answers, ratings and thumbs, weakest first, with changes of the recipe to choose from."""
        from chatwright.recipe import weak as weakness
        from chatwright.recipe.report.facts import read_run

        run = read_run(run_dir)
        table = weakness.topic_table(run, ratings=_ratings(run_dir), feedback=_thumbs(feedback), number=topics)
        domains, found = weakness.domains_of(run), weakness.proposals(run, table, store=feedback)
        if as_json:
            parts: dict[str, list[Any]] = {"topics": table, "domains": domains, "proposals": found}
            told = {name: [one._asdict() for one in part] for name, part in parts.items()}
            typer.echo(json.dumps(without_secrets(told), indent=2))
        else:
            out(weakness.as_text(table, domains, found))
        if html is not None:
            _write_page(html, run, table, domains, found)
        if accept:
            if to is None or not all(1 <= number <= len(found) for number in accept):
                raise UsageError(f"accept proposals 1 to {len(found)}, and name the new recipe with `--to FILE`")
            say(f"recipe: {weakness.accept(run, [found[number - 1] for number in accept], to)}")


def _write_page(html: Path, run: Any, table: Any, domains: Any, found: Any) -> None:
    from chatwright.foundation import storage
    from chatwright.recipe.report.weakness import weak_page

    with storage.publish_file(html) as scratch:
        scratch.write_text(weak_page(run.name, table, domains, found), encoding="utf-8")
    say(f"page: {html}")


def _ratings(run_dir: Path) -> list[dict[str, Any]]:
    if not (run_dir / STORE).is_file():
        return []
    from chatwright.feedback.ratings import Study

    with contextlib.closing(Study(run_dir / STORE)) as study:
        return list(study.export())


def _thumbs(place: str | None) -> list[dict[str, Any]]:
    if place is None:
        return []
    from chatwright.feedback.database import require_store
    from chatwright.feedback.store import FeedbackStore

    require_store(place)
    with contextlib.closing(FeedbackStore(place)) as store:
        return list(store.export(rated_only=True))
