"""The lineage as a picture: a box for each stage, an arrow from each of its inputs. Without script."""

from typing import Any

from chatwright.recipe.report import markup as html
from chatwright.recipe.report.facts import RunFacts, StageFacts
from chatwright.recipe.report.models import is_outside, name_of, place_of

_ROW, _BOX_HEIGHT, _BOX_WIDTH, _LEFT = 62, 42, 176, 6
_WIDTH = 320
_FIRST_BEND, _BEND = 22, 13  # how far an arrow past one stage swings out, and each further stage more
_SHOWN_DIGITS = 12
_NAME_CHARACTERS = 22  # that fit into a box


def lineage_map(run: RunFacts) -> html.Html:
    """Stages from top to bottom in the order of a model's life; a dashed box was made of what has changed since."""
    stages = list(run.stages.values())
    sources = {stage.name: [place_of(item) for item in stage.inputs.values()] for stage in stages}
    outside = dict.fromkeys(place for places in sources.values() for place in places if is_outside(place))
    rows = {name: index for index, name in enumerate((*outside, *sources))}
    arrows = [
        _arrow(rows[source], rows[stage.name])
        for stage in stages
        for source in sorted(set(sources[stage.name]) & rows.keys())
    ]
    boxes = [_outside_box(place, rows[place]) for place in outside]
    boxes += [_box(run, stage, rows[stage.name]) for stage in stages]
    told = "; ".join(
        f"{name} from {', '.join(map(_called, dict.fromkeys(places)))}" if places else name
        for name, places in sources.items()
    )
    head = html.element("path", d="M0 0L8 4L0 8Z", style="fill:var(--soft);stroke:none")
    marker = html.element(
        "marker", head, id="arrow", markerWidth="8", markerHeight="8", refX="7", refY="4", orient="auto"
    )
    return html.element(
        "svg",
        html.element("defs", marker),
        *arrows,
        *boxes,
        class_="map",
        viewBox=f"0 0 {_WIDTH} {len(rows) * _ROW}",
        role="img",
        aria_label=f"Lineage: {told}",
    )


def _called(place: str) -> str:
    return f"the base {name_of(place)}" if is_outside(place) else place


def is_stale(run: RunFacts, stage: StageFacts) -> bool:
    """Whether something that the stage was made of has been made again since."""
    return any(
        (now := run.stages.get(place_of(item))) is not None and now.content != item.get("content")
        for item in stage.inputs.values()
    )


def _arrow(source: int, target: int) -> html.Html:
    middle = _LEFT + _BOX_WIDTH / 2
    if target == source + 1:
        path = f"M{middle} {source * _ROW + _BOX_HEIGHT}V{target * _ROW - 1}"
    else:
        edge, away = _LEFT + _BOX_WIDTH, _FIRST_BEND + _BEND * (target - source)
        begin, end = source * _ROW + _BOX_HEIGHT * 0.7, target * _ROW + _BOX_HEIGHT * 0.3
        path = f"M{edge} {begin:.0f}C{edge + away} {begin:.0f} {edge + away} {end:.0f} {edge + 1} {end:.0f}"
    return html.element("path", d=path, marker_end="url(#arrow)")


def _outside_box(place: str, row: int) -> html.Html:
    """A model that the run began from; nothing on the page tells more of it, so it is no link."""
    top, left, name = row * _ROW, _LEFT + 10, name_of(place)
    shown = name if len(name) <= _NAME_CHARACTERS else f"{name[: _NAME_CHARACTERS - 1]}\N{HORIZONTAL ELLIPSIS}"
    return html.element(
        "g",
        html.element("title", place),
        html.element("rect", x=str(_LEFT), y=f"{top + 1}", width=str(_BOX_WIDTH), height=f"{_BOX_HEIGHT}", rx="6"),
        html.element("text", shown, x=str(left), y=f"{top + 18}", font_weight="600", font_size="13"),
        html.element("text", "base, from elsewhere", x=str(left), y=f"{top + 34}", font_size="11.5", class_="small"),
    )


def _box(run: RunFacts, stage: StageFacts, row: int) -> html.Html:
    kind = "stale" if is_stale(run, stage) else "model" if stage.summary.get("model_digest") else None
    top, left = row * _ROW, _LEFT + 10
    figure = _figure(stage.name, stage.summary)
    return html.element(
        "a",
        html.element(
            "rect", x=str(_LEFT), y=f"{top + 1}", width=str(_BOX_WIDTH), height=f"{_BOX_HEIGHT}", rx="6", class_=kind
        ),
        html.element("text", stage.name, x=str(left), y=f"{top + 18}", font_weight="600", font_size="13"),
        html.element(
            "text",
            figure or stage.content[:_SHOWN_DIGITS],
            x=str(left),
            y=f"{top + 34}",
            font_size="11.5",
            class_="small",
        ),
        href=f"#link-{stage.name}",
    )


def _figure(name: str, summary: dict[str, Any]) -> str:
    """The one number that says how large this is."""
    wanted = {
        "documents": ("documents", "documents"),
        "corpus": ("documents_out", "documents kept"),
        "tokenizer": ("vocabulary_size", "tokens known"),
        "pretrain": ("parameters", "parameters"),
        "finetune": ("trained", "parameters trained"),
    }
    key, noun = wanted.get(name, ("", ""))
    value = (summary.get("train") or {}).get("tokens") if name == "tokens" else summary.get(key)
    if value is None:
        return ""
    return f"{html.short_count(value)} {noun or 'training tokens'}"
