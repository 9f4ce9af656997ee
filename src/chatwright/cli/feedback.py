"""`chatwright feedback`: ratings of answers as data, in and out, and a person's end in them."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chatwright.cli.options import AsJson
from chatwright.foundation.console import out, say
from chatwright.foundation.errors import BusyError, UsageError

if TYPE_CHECKING:
    from chatwright.feedback.importing import Imported
    from chatwright.feedback.store import FeedbackStore

STORE_HELP = "the feedback database: a file, or an SQLAlchemy URL"


def register(app: typer.Typer, *, default_store: str) -> None:
    """Add the commands of this file."""
    group = typer.Typer(help="Ratings of answers, as data.", no_args_is_help=True)
    app.add_typer(group, name="feedback")
    _add_export(group, default_store)
    _add_stats(group, default_store)
    _add_import(group, default_store)
    _add_forget(group, default_store)


@contextlib.contextmanager
def _opened(place: str, *, may_be_new: bool = False) -> "Iterator[FeedbackStore]":
    from chatwright.feedback.database import require_store
    from chatwright.feedback.store import FeedbackStore

    if not may_be_new:
        require_store(place)
    with contextlib.closing(FeedbackStore(place)) as store:
        yield store


def _add_export(group: typer.Typer, default_store: str) -> None:
    @group.command("export")
    def export_feedback(
        store: Annotated[str, typer.Option(help=STORE_HELP)] = default_store,
        rated_only: Annotated[bool, typer.Option("--rated-only", help="leave out answers that nobody rated")] = False,
    ) -> None:
        """Answers with their ratings, as JSON Lines."""
        with _opened(store) as opened:
            for line in opened.export_lines(rated_only=rated_only):
                typer.echo(line, nl=False)


def _add_stats(group: typer.Typer, default_store: str) -> None:
    @group.command("stats")
    def feedback_stats(
        store: Annotated[str, typer.Option(help=STORE_HELP)] = default_store,
        as_json: AsJson = False,
    ) -> None:
        """How many answers, and how they were rated, by model."""
        from chatwright.feedback.store import thumbs_by_model

        with _opened(store) as opened:
            counts = thumbs_by_model(opened.export())
        if as_json:
            typer.echo(json.dumps(counts, indent=2))
            return
        if not counts:
            say("no answers yet: they come from the chat page, `chatwright serve MODEL`")
        for model, count in counts.items():
            out(f"{model}: {count['answers']} answers, {count['up']} thumbs up, {count['down']} down")


def _add_import(group: typer.Typer, default_store: str) -> None:
    @group.command("import")
    def import_feedback(
        source: Annotated[Path, typer.Argument(help="a file of `feedback export`, or a study of `rate`")],
        store: Annotated[str, typer.Option(help=STORE_HELP)] = default_store,
        as_json: AsJson = False,
    ) -> None:
        """Feedback of another store, or of the page for raters, into the store. Again: adds nothing."""
        if not source.is_file():
            raise UsageError(f"there is no file `{source}`", hint="give a file of `feedback export` or a study")
        with _opened(store, may_be_new=True) as opened:
            found = _imported(opened, source)
        typer.echo(
            json.dumps(found._asdict(), indent=2)
            if as_json
            else f"{found.answers} answers and {found.opinions} opinions are new"
        )
        for reason, count in found.passed_over.items():
            say(f"  left out: {count}, {reason}")


def _imported(store: "FeedbackStore", source: Path) -> "Imported":
    from chatwright.feedback.importing import import_entries, import_study, read_export
    from chatwright.feedback.ratings import Study

    if source.suffix in (".sqlite", ".db"):
        with contextlib.closing(Study(source)) as study:
            return import_study(store, study.export())
    return import_entries(store, read_export(source))


def _add_forget(group: typer.Typer, default_store: str) -> None:
    @group.command("forget")
    def forget(
        name: Annotated[str, typer.Argument(help="whose: the name beside the token", metavar="NAME")],
        store: Annotated[str, typer.Option(help=STORE_HELP)] = default_store,
        run_dir: Annotated[Path | None, typer.Option("--run", help="say which of its rounds learned from it")] = None,
        as_json: AsJson = False,
    ) -> None:
        """Remove a person's conversations, answers and opinions from the store."""
        with _opened(store) as opened:
            gone = opened.people.forget(name)
        told = {"conversations": gone.conversations, "answers": gone.answers, "opinions": gone.opinions}
        rounds: list[int] = []
        if run_dir is not None:
            from chatwright.recipe.improve.rounds import learned_from

            rounds = learned_from(run_dir, set(gone.answer_ids))
            _discard_unfinished(run_dir, set(gone.answer_ids))
        if as_json:
            typer.echo(json.dumps({**told, "rounds": rounds}, indent=2))
            return
        typer.echo(", ".join(f"{count} {what}" for what, count in told.items()) + " removed")
        for number in rounds:
            say(
                f"  round {number} learned from them, or was tested on them: go back before it, or make the model again"
            )


def _discard_unfinished(run_dir: Path, answer_ids: set[str]) -> None:
    """A round that was begun with somebody's words and not finished keeps them no longer."""
    from chatwright.recipe.improve.unfinished import discard_with

    try:
        if discard_with(run_dir, answer_ids):
            say("  a round that was not finished had begun with them: the next one begins anew, without them")
    except BusyError:
        say("  a round that is being made has begun with them: stop it and start it again, and it begins without them")
