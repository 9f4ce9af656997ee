"""Figures as plain data for the plotting library in the page, with a description for who cannot see them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from chatwright.recipe.report.markup import Html, data_block, element

# Told apart by eyes of all kinds and readable on white and on black (after Okabe and Ito 2008, in middle tones).
COLOURS = ("#3f86c7", "#d9822b", "#2a9d78", "#c2609d", "#8a76d6", "#a8892c", "#5aa7b5", "#b56357")
MUTED = "#7d8791"
_MAX_NAME = 22  # characters
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


def _layout(*, height: int, y_title: str = "", x_title: str = "", has_legend: bool = True) -> dict[str, Any]:
    return {
        "height": height,
        "margin": {"l": 52, "r": 12, "t": 40 if has_legend else 16, "b": 44},
        "xaxis": {"title": {"text": x_title}, "automargin": True, "zeroline": False},
        "yaxis": {"title": {"text": y_title, "standoff": 6}, "automargin": True, "zeroline": False},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "showlegend": has_legend,
    }


def curves(drawn: Sequence[Curve], *, y_title: str) -> dict[str, Any]:
    """Lines over steps, with their seconds beside for the switch."""
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(curve.steps) < 30 else "lines",
            "name": _plain(curve.name),
            "x": curve.steps,
            "y": curve.values,
            "line": {"color": COLOURS[index % len(COLOURS)], "width": 3 if curve.is_main else 1.8},
            "marker": {"size": 5},
            "hovertemplate": f"%{{y:.3f}}<extra>{_plain(curve.name)}</extra>",
        }
        for index, curve in enumerate(drawn)
    ]
    axes = {
        "steps": {"title": "step", "x": [curve.steps for curve in drawn]},
        "seconds": {"title": "seconds of training", "x": [curve.seconds for curve in drawn]},
    }
    layout = _layout(height=340, y_title=y_title, x_title="step", has_legend=len(drawn) > 1)
    return {"data": data, "layout": layout | {"hovermode": "x unified"}, "axes": axes}


def bars(series: Sequence[Bars], *, x_title: str) -> dict[str, Any]:
    """Bars that lie, so that names can be read on a narrow screen; first row at the top, series side by side."""
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": _plain(item.name),
            "y": [_plain(label) for label in item.labels],
            "x": item.values,
            "text": [f"{value:.3f}" for value in item.values],
            "textposition": "outside",
            "cliponaxis": False,
            "marker": {"color": item.colours or COLOURS[index % len(COLOURS)]},
            "hovertemplate": f"%{{y}}: %{{x:.4f}}<extra>{_plain(item.name) if len(series) > 1 else ''}</extra>",
        }
        for index, item in enumerate(series)
    ]
    rows = max(len(item.labels) for item in series)
    layout = _layout(height=100 + (22 + 24 * len(series)) * rows, x_title=x_title, has_legend=len(series) > 1)
    longest = max(value for item in series for value in item.values)
    layout["xaxis"]["range"] = [0, 1.2 * longest or 1]  # room for the numbers behind the bars
    layout["yaxis"] |= {"autorange": "reversed", "fixedrange": True}
    layout["legend"]["traceorder"] = "normal"
    return {"data": data, "layout": layout | {"barmode": "group"}}


def _plain(name: str) -> str:
    """A name as the library may show it: it reads tags and `%{...}`, and a long one leaves no room for the figure."""
    cleaned = name.translate(str.maketrans("<", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}", ">%"))
    return cleaned if len(cleaned) <= _MAX_NAME else cleaned[: _MAX_NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"


def figure(key: str, content: dict[str, Any], *, caption: str, description: str) -> Html:
    """A figure's place and its data.

    Args:
        key: unique in the page.
        content: `data` and `layout` of the plotting library, `axes` for the switch.
        caption: what it shows.
        description: the same in words with its main numbers, for who cannot see it.
    """
    place = element("div", class_="plot", data_figure=key, role="img", aria_label=description)
    return element("figure", element("figcaption", caption), place, data_block(key, content))


def axis_switch() -> Html:
    """Buttons that put the curves of a group over steps or over seconds."""
    buttons = [
        element(
            "button", f"over {name}", type="button", data_axis=name, aria_pressed="true" if name == "steps" else "false"
        )
        for name in ("steps", "seconds")
    ]
    return element("div", *buttons, class_="switch", role="group", aria_label="What the curves run over")
