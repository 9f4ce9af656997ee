"""Figures: curves as plain data for `charts.js`, bars as markup; with a description for who cannot see them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from chatwright.recipe.report import markup as html

# Told apart by eyes of all kinds and readable on white and on black (after Okabe and Ito 2008, in middle tones).
COLOURS = ("#3f86c7", "#d9822b", "#2a9d78", "#c2609d", "#8a76d6", "#a8892c", "#5aa7b5", "#b56357")
MUTED = "#7d8791"
_MAX_POINTS = 2000  # of a curve


class Curve(NamedTuple):
    """One measured quantity over training."""

    name: str
    steps: list[int]
    seconds: list[float]
    values: list[float]
    is_main: bool = False


class Bars(NamedTuple):
    """One series of bars."""

    name: str
    labels: list[str]
    values: list[float]
    colours: list[str] | None = None  # of each bar; None: one for the series
    ends: Sequence[Sequence[float] | None] | None = None  # of each bar's 95 % interval, where it has one


def curve_of(
    name: str, events: Sequence[dict[str, Any]], values: Sequence[float | None], *, is_main: bool = False
) -> Curve:
    """A curve over events of `metrics.jsonl`; events without a value are left out.

    Past 2,000 points, neighbours are averaged into one at the last one's step: no screen shows more.
    """
    kept = [(event, float(value)) for event, value in zip(events, values, strict=True) if value is not None]
    together = max(1, -(-len(kept) // _MAX_POINTS))
    groups = [kept[start : start + together] for start in range(0, len(kept), together)]
    return Curve(
        name,
        [int(group[-1][0]["step"]) for group in groups],
        [float(group[-1][0].get("seconds", 0.0)) for group in groups],
        [sum(value for _, value in group) / len(group) for group in groups],
        is_main,
    )


class TimeLine(NamedTuple):
    """One figure of several evaluations."""

    name: str
    when: list[float]  # seconds since 1970, UTC
    values: list[float]
    notes: list[str]  # of each point
    ends: list[Sequence[float] | None]  # of each point's 95 % interval, where it has one


def curves(drawn: Sequence[Curve], *, y_title: str) -> dict[str, Any]:
    """Lines over steps, with their seconds beside for the switch, as `charts.js` reads them."""
    series = [
        {
            "name": curve.name,
            "steps": curve.steps,
            "seconds": curve.seconds,
            "y": curve.values,
            "colour": COLOURS[index % len(COLOURS)],
            "isMain": curve.is_main,
        }
        for index, curve in enumerate(drawn)
    ]
    return {"y": y_title, "axes": {"steps": "step", "seconds": "seconds of training"}, "series": series}


def over_time(drawn: Sequence[TimeLine]) -> dict[str, Any]:
    """Lines over dates; a point with an interval has it as a thin line through it."""
    series = [
        {
            "name": line.name,
            "when": line.when,
            "y": line.values,
            "notes": line.notes,
            "ends": line.ends,
            "colour": COLOURS[index % len(COLOURS)],
            "isMain": False,
        }
        for index, line in enumerate(drawn)
    ]
    return {"y": "score", "axes": {"when": "time (UTC)"}, "isTime": True, "series": series}


def three_digits(value: float) -> str:
    """A figure as bars show it, unless they are told otherwise."""
    return f"{value:.3f}"


def bars(
    key: str,
    series: Sequence[Bars],
    *,
    caption: str,
    description: str,
    shown: Callable[[float], str] = three_digits,
) -> html.Html:
    """Bars that lie, so that names can be read on a narrow screen; first row at the top, series side by side.

    A bar with an interval has it as a thin line across its end.

    Args:
        key: unique in the page.
        series: bars of one length of `labels`, the same in each.
        caption: what they show.
        description: the same in words with its main numbers and their intervals.
        shown: a value as it stands beside its bar.
    """
    lengths = [value for item in series for value in item.values]
    lengths += [end for item in series for ends in item.ends or () for end in ends or ()]
    longest = max(lengths, default=0.0) or 1.0
    rows: list[html.Child] = []
    for index, label in enumerate(series[0].labels):
        fills = [
            _fill(item, index, longest=longest, colour=COLOURS[number], shown=shown)
            for number, item in enumerate(series)
        ]
        rows += [html.element("span", label), html.element("div", *fills)]
    legend = [
        html.element("span", html.element("i", style=f"background:{COLOURS[number]}"), item.name)
        for number, item in enumerate(series)
    ]
    return html.element(
        "figure",
        html.element("figcaption", caption),
        html.element("div", *legend, class_="key") if len(series) > 1 else None,
        html.element("div", *rows, class_="bars", role="img", aria_label=description),
        id=f"figure-{key}",
    )


def _fill(item: Bars, index: int, *, longest: float, colour: str, shown: Callable[[float], str]) -> html.Html:
    value, ends = item.values[index], item.ends[index] if item.ends else None
    style = f"--share:{max(0.0, value) / longest:.4f};--colour:{item.colours[index] if item.colours else colour}"
    title, whisker = f"{item.name} {value:.5g}".strip(), None
    if ends:
        low, high = (max(0.0, end) / longest for end in ends)
        style += f";--low:{low:.4f};--high:{high:.4f}"
        title += f", 95% interval {ends[0]:.5g} to {ends[1]:.5g}"
        whisker = html.element("i", class_="whisker")
    return html.element("span", whisker, shown(value), class_="fill sure" if ends else "fill", style=style, title=title)


def figure(key: str, content: dict[str, Any], *, caption: str, description: str) -> html.Html:
    """A figure's place and its data.

    Args:
        key: unique in the page.
        content: of `curves` or `over_time`.
        caption: what it shows.
        description: the same in words with its main numbers, for who cannot see it.
    """
    place = html.element("div", class_="plot", id=f"plot-{key}", data_figure=key, data_description=description)
    return html.element("figure", html.element("figcaption", caption), place, html.data_block(f"data-{key}", content))


def axis_switch() -> html.Html:
    """Buttons that put the curves of a group over steps or over seconds."""
    buttons = [
        html.element(
            "button", f"over {name}", type="button", data_axis=name, aria_pressed="true" if name == "steps" else "false"
        )
        for name in ("steps", "seconds")
    ]
    return html.element("div", *buttons, class_="switch", role="group", aria_label="What the curves run over")
