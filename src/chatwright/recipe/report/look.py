"""The look of the page and the script that draws its curves: files beside this one, the same for every run."""

from functools import cache
from pathlib import Path

_STATIC = Path(__file__).resolve().parent / "static"


@cache
def asset(name: str) -> str:
    """The text of `report.css`, `heat.css` or `charts.js`."""
    return (_STATIC / name).read_text(encoding="utf-8")


def style() -> str:
    """All style of a page with tables, curves and heat maps."""
    return asset("report.css") + asset("heat.css")
