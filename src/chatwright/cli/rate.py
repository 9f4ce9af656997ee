"""`chatwright rate`: the page on which people judge, invitations, and what came of it."""

import contextlib
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from chatwright.cli.options import AsJson
from chatwright.foundation.console import out, say
from chatwright.foundation.errors import UsageError

STORE = "ratings.sqlite"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(rate)


def rate(  # noqa: PLR0917 - the library calls it by keyword
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="a run, a file of items, or a study that is there", metavar="RUN")],
    pairs: Annotated[bool, typer.Option("--pairs", help="two answers side by side, blind")] = False,
    items: Annotated[int, typer.Option(min=1, help="items at most")] = 100,
    checks: Annotated[int, typer.Option(min=0, help="attention checks among them")] = 3,
    raters: Annotated[int, typer.Option(min=1, help="people expected")] = 3,
    shared: Annotated[float, typer.Option(min=0.0, max=1.0, help="share of items that all of them judge")] = 1.0,
    repeats: Annotated[float, typer.Option(min=0.0, max=1.0, help="share that comes a second time")] = 0.1,
    title: Annotated[str, typer.Option(help="of the page")] = "Rate answers",
    invited: Annotated[bool, typer.Option("--invited", help="nobody joins without an invitation")] = False,
    invite: Annotated[list[str] | None, typer.Option(help="make a link: NAME or NAME:expert")] = None,
    store: Annotated[Path | None, typer.Option(help="the study's file; default: RUN/ratings.sqlite")] = None,
    stats: Annotated[bool, typer.Option("--stats", help="what the ratings say, instead of the page")] = False,
    export: Annotated[bool, typer.Option("--export", help="the ratings as JSON Lines instead")] = False,
    as_json: AsJson = False,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 8001,
) -> None:
    """Have people judge answers: fluency, coherence, relevance; or two answers, blind. Again: goes on."""
    from chatwright.feedback.ratings import Study
    from chatwright.feedback.study import StudyPlan

    place = _place(source, store)
    if not place.exists():
        if stats or export:
            raise UsageError(f"there is no study in `{place}`", hint="open the page first")
        plan = StudyPlan(title=title, raters=raters, shared_share=shared, repeat_share=repeats, open_names=not invited)
        _make(source, place, plan, pairs=pairs, items=items, checks=checks)
    with contextlib.closing(Study(place)) as study:
        _require_same(study, source, place, asked=_asked(context))
        if export:
            for entry in study.export():
                typer.echo(json.dumps(entry, ensure_ascii=False))
        elif stats:
            _tell(list(study.export()), as_json=as_json)
        else:
            _serve(study, host=host, port=port, invite=invite or [])


def _place(source: Path, store: Path | None) -> Path:
    if store is not None:
        return store
    if source.is_dir():
        return source / STORE
    return source if source.suffix in (".sqlite", ".db") else source.with_suffix(".sqlite")


def _asked(context: typer.Context) -> dict[str, Any]:
    """What the caller wrote, without what is only a default."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    written = {name for name, source in sources.items() if source is not None and source.name != "DEFAULT"}
    return {name: value for name, value in context.params.items() if name in written}


def _require_same(study: Any, source: Path, place: Path, *, asked: dict[str, Any]) -> None:
    """A study is frozen when it is made: what was asked for and is not in it cannot be had from it.

    Raises:
        UsageError: every such option at once.
    """
    plan, judged = study.plan, [item for item in study.items.values() if item.check is None]
    has = {
        "title": plan.title,
        "raters": plan.raters,
        "shared": plan.shared_share,
        "repeats": plan.repeat_share,
        "invited": not plan.open_names,
        "pairs": all(item.kind == "pair" for item in judged),
        "items": len(judged),
        "checks": len(study.items) - len(judged),
    }
    can_be_had = None if source == place or not source.exists() else source
    given = asked | _given_counts(can_be_had, judged, asked, is_pairs=bool(has["pairs"]))
    other = [name for name, value in has.items() if name in given and given[name] != value]
    if other:
        told = ", ".join(f"`--{name}`: {'not so' if has[name] is False else has[name]}" for name in other)
        raise UsageError(
            f"the study in `{place}` is another than was asked for ({told})",
            kept="the study, as it was made",
            hint="make a second one with `--store OTHER.sqlite`, or leave these options out to go on",
        )


def _given_counts(source: Path | None, judged: list[Any], asked: dict[str, Any], *, is_pairs: bool) -> dict[str, int]:
    """How many items and checks the asked numbers would give: both are limits, and a source may hold fewer."""
    from chatwright.evaluate.study import with_checks

    counts = {}
    if "checks" in asked:
        counts["checks"] = len(with_checks(judged, count=asked["checks"])) - len(judged)
    if source is not None and "items" in asked and len(judged) < asked["items"]:
        counts["items"] = len(_items(source, pairs=is_pairs, items=asked["items"]))
    return counts


def _items(source: Path, *, pairs: bool, items: int) -> list[Any]:
    from chatwright.evaluate.study import items_of_file, items_of_run

    return items_of_run(source, count=items, as_pairs=pairs) if source.is_dir() else items_of_file(source)[:items]


def _make(source: Path, place: Path, plan: Any, *, pairs: bool, items: int, checks: int) -> None:
    from chatwright.evaluate.study import with_checks
    from chatwright.feedback.ratings import make_study

    if not source.exists():
        raise UsageError(
            f"there is neither a run nor a file of items `{source}`", hint="name a run such as `runs/demo`"
        )
    found = _items(source, pairs=pairs, items=items)
    made = with_checks(found, count=checks)
    make_study(place, made, plan)
    say(f"study: {place}, {len(found)} items and {len(made) - len(found)} attention checks, frozen")


def _serve(study: Any, *, host: str, port: int, invite: list[str]) -> None:
    from chatwright.serve.rating.server import serve_study
    from chatwright.serve.settings import settings_for

    def announce(text: str) -> None:
        say(text)
        address = next(word for word in text.split() if word.startswith("http"))
        for entry in invite:
            name, _, kind = entry.partition(":")
            if kind not in ("", "user", "expert"):
                raise UsageError(f"an invitation reads NAME or NAME:expert: `{entry}`")
            rater = study.join(name, "expert" if kind == "expert" else "user")
            say(f"  {rater.name} ({rater.kind}): {address}#invitation={rater.token}")

    token = os.environ.get("CHATWRIGHT_TOKEN") or None
    serve_study(study, settings_for(host, token=token), host=host, port=port, announce=announce)


def _tell(entries: list[dict[str, Any]], *, as_json: bool) -> None:
    from chatwright.evaluate.people import as_text, summarise

    summary = summarise(entries)
    out(json.dumps(summary, indent=2) if as_json else as_text(summary))
