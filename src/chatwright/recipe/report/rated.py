"""The part of the page with what people said of the answers: means, strengths, agreement. Reads the run's study."""

import contextlib
from typing import Any

from chatwright.evaluate.people import summarise
from chatwright.feedback.ratings import Study
from chatwright.recipe.report import markup as html
from chatwright.recipe.report.facts import RATINGS, RunFacts


def ratings_section(run: RunFacts) -> html.Section | None:
    """What raters judged, users and experts apart; nothing where nobody has rated yet."""
    place = run.directory / RATINGS
    if not place.is_file():
        return None
    with contextlib.closing(Study(place)) as study:
        entries = list(study.export())
    if not entries:
        return None
    parts = [part for kind, told in summarise(entries).items() for part in _of_kind(kind, told)]
    how = (
        "From `chatwright rate`: each item judged blind, in an order of the rater's own; attention checks and repeated "
        "items count for raters only. Intervals of 95%: of means over items, of strengths from the fit. Alpha: "
        "Krippendorff's, ordinal; 1 is full agreement, 0 what chance gives."
    )
    return html.Section("ratings", "Ratings by people", html.join([*parts, html.note(how)]))


def _of_kind(kind: str, told: dict[str, Any]) -> list[html.Html]:
    raters = len(told["raters"])
    parts = [
        html.element("h3", f"By {kind}s: {told['ratings']} ratings of {raters} {'person' if raters == 1 else 'people'}")
    ]
    if "models" in told:
        parts.append(_means(told))
    if (told.get("strengths") or {}).get("models"):
        parts.append(_strengths(told["strengths"]))
    odd = [(name, ", ".join(rater["flags"])) for name, rater in told["raters"].items() if rater["flags"]]
    if odd:
        parts.append(html.table(["rater", "what stands out"], odd, caption="Raters that stand out", words=(1,)))
    return parts


def _means(told: dict[str, Any]) -> html.Html:
    dimensions = list(next(iter(told["models"].values())))
    rows: list[list[html.Child]] = [
        [model, *(_mean(values[name]) for name in dimensions)] for model, values in told["models"].items()
    ]
    agreement = [(told.get("agreement") or {}).get(name, {}).get("alpha_ordinal") for name in dimensions]
    rows.append(["agreement of raters (alpha)", *(html.decimal(alpha, digits=2) for alpha in agreement)])
    return html.table(["model", *dimensions], rows, caption="Mean judgement, from 1 to 5")


def _mean(value: dict[str, Any]) -> str:
    shown = html.decimal(value["mean"], digits=2)
    return shown if value["low"] is None else f"{shown} ({value['low']:.2f} to {value['high']:.2f})"


def _strengths(found: dict[str, Any]) -> html.Html:
    rows: list[list[html.Child]] = [
        [model, html.decimal(value["strength"], digits=2, signed=True), f"{value['low']:+.2f} to {value['high']:+.2f}"]
        for model, value in found["models"].items()
    ]
    caption = f"Strength by {found['choices']} blind choices, {found['ties']} of them ties (Bradley-Terry, log scale)"
    return html.table(["model", "strength", "95% interval"], rows, caption=caption)
