"""Curves as a small SVG picture for the log: no script, no font of its own, readable on light and dark paper."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

WIDTH, HEIGHT, LEFT, BOTTOM, RIGHT, TOP = 720, 320, 64, 44, 190, 16
_COLOURS = ("#1f6fb4", "#c4571a", "#2a8a4a", "#8a4fb0", "#b02a4a", "#6b7280", "#0f8b8d", "#a07a00")
_TICKS = 4
_MARKED = 6  # points up to which each is marked
_TEXT = 'font-family="sans-serif" font-size="12" fill="#777"'
Curve = Sequence[tuple[float, float]]


def write_curves(path: Path, curves: Mapping[str, Curve], *, across: str, up: str) -> None:
    """Write curves with their names; `across` and `up` say what the axes are."""
    points = [point for curve in curves.values() for point in curve]
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    low_y, high_y = min(y for _, y in points), max(y for _, y in points)

    def place(x: float, y: float) -> str:
        share_x, share_y = (x - low_x) / (high_x - low_x or 1), (y - low_y) / (high_y - low_y or 1)
        return (
            f"{LEFT + share_x * (WIDTH - LEFT - RIGHT):.1f},{HEIGHT - BOTTOM - share_y * (HEIGHT - BOTTOM - TOP):.1f}"
        )

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    parts.append(f"<title>{escape(up)} over {escape(across)}</title>")
    for number in range(_TICKS + 1):
        x, y = (low + number / _TICKS * (high - low) for low, high in ((low_x, high_x), (low_y, high_y)))
        across_x, up_y = place(x, low_y).split(",")[0], place(low_x, y).split(",")[1]
        parts.append(f'<text x="{across_x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle" {_TEXT}>{x:,.3g}</text>')
        parts.append(f'<text x="{LEFT - 6}" y="{up_y}" text-anchor="end" {_TEXT}>{y:.3g}</text>')
        parts.append(f'<path d="M{LEFT},{up_y} H{WIDTH - RIGHT}" stroke="#999" stroke-opacity=".3"/>')
    for number, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        line = " ".join(place(x, y) for x, y in curve)
        dash = ' stroke-dasharray="5 3"' if number >= len(_COLOURS) else ""
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>')
        if len(curve) <= _MARKED:
            marks = (place(x, y).split(",") for x, y in curve)
            parts += [f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>' for x, y in marks]
        parts.append(
            f'<text x="{WIDTH - RIGHT + 10}" y="{TOP + 12 + 18 * number}" font-family="sans-serif" font-size="12" '
            f'fill="{colour}">{escape(name)}</text>'
        )
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle" {_TEXT}>{escape(across)}</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 4}" {_TEXT}>{escape(up)}</text></svg>')
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")
