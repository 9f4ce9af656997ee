"""HTML from Python values, escaped where it is made: a plain string can never become markup. Not a template engine."""

import html
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple


class Html(str):
    """Text that is markup already. Only this module makes it from other strings."""

    __slots__ = ()


Child = str | int | float | None
_VOID = frozenset({"meta", "link", "br"})


class Section(NamedTuple):
    """A part of the page, with the name that links lead to."""

    key: str
    title: str
    body: Html


def text(value: Child) -> Html:
    """Anything as text; what is markup already stays as it is."""
    if isinstance(value, Html):
        return value
    return Html("" if value is None else html.escape(str(value), quote=True))


def join(children: Iterable[Child]) -> Html:
    """Several pieces one after the other."""
    return Html("".join(text(child) for child in children))


def element(tag: str, *children: Child, **attributes: str | None) -> Html:
    """One element. An attribute's underscores are hyphens, one at its end is dropped (`class_`); None is left out."""
    shown = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value, quote=True)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Html(f"<{tag}{shown}>")
    return Html(f"<{tag}{shown}>{join(children)}</{tag}>")


def script(source: str) -> Html:
    """A script of our own or of the plotting library, as it stands."""
    if "</script" in source.lower():
        raise ValueError("a script must not hold the tag that ends it")
    return Html(f"<script>{source}</script>")


def data_block(key: str, value: Any) -> Html:
    """JSON for the page's script; `<` is written so that no value can end the block."""
    content = (
        json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    )
    return Html(f'<script type="application/json" id="{html.escape(key, quote=True)}">{content}</script>')


def paragraph(*children: Child) -> Html:
    """A paragraph."""
    return element("p", *children)


def note(*children: Child) -> Html:
    """The short line that says how something was measured."""
    return element("p", *children, class_="note")


def code(value: str) -> Html:
    """A digest, path or name, in the typewriter face."""
    return element("code", value)


def details(title: str, *children: Child) -> Html:
    """Something that is folded until it is asked for."""
    return element("details", element("summary", title), *children)


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Child]],
    *,
    caption: str,
    words: Sequence[int] = (),
) -> Html:
    """A table whose first cell of each row names the row.

    Args:
        head: names of the columns.
        rows: cells; all but the first and `words` are numbers, set at the right.
        caption: what the table shows.
        words: columns that hold words.
    """
    kinds = [None if index == 0 or index in words else "number" for index in range(len(head))]
    heads = [element("th", name, scope="col", class_=kind) for name, kind in zip(head, kinds, strict=True)]
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell, class_=kind) for cell, kind in zip(row[1:], kinds[1:], strict=True)),
        )
        for row in rows
    ]
    inner = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", element("tr", *heads)),
        element("tbody", *body),
    )
    return element("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def share_bar(share: float) -> Html:
    """A share between 0 and 1 as a small bar and in per cent."""
    filled = f"--share:{min(max(share, 0.0), 1.0):.4f}"
    return join(
        [
            element("span", class_="bar", style=filled, aria_hidden="true"),
            element("span", percent(share), class_="share"),
        ]
    )


def count(value: float | None) -> str:
    """A whole number with separators, or a dash."""
    return "\N{EN DASH}" if value is None else f"{value:,.0f}"


def short_count(value: float) -> str:
    """A number of things in few characters: `3.44 million`."""
    for unit, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:,.0f}"


def size(num_bytes: float | None) -> str:
    """Bytes in decimal units."""
    if num_bytes is None:
        return "\N{EN DASH}"
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.3g} {name}"
    return f"{num_bytes:.0f} B"


def percent(share: float | None, *, digits: int = 1) -> str:
    """A share of one as per cent."""
    return "\N{EN DASH}" if share is None else f"{100 * share:.{digits}f}%"


def with_interval(
    value: float | None, ends: Sequence[float] | None, show: Callable[[float | None], str], *, unit: str = ""
) -> str:
    """A figure with its 95 % interval behind it, where it has one.

    Args:
        value: the figure.
        ends: of the interval.
        show: writes one number, such as `percent` or `decimal`.
        unit: what `show` ends with and the interval need not repeat.
    """
    if not ends or value is None:
        return show(value)
    low, high = (show(end).removesuffix(unit) for end in ends)
    return f"{show(value)} ({low} to {high})"


def decimal(value: float | None, *, digits: int = 3, signed: bool = False) -> str:
    """A measured number with a fixed number of digits."""
    if value is None:
        return "\N{EN DASH}"
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "\N{MINUS SIGN}")
