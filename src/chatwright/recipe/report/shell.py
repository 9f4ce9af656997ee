"""What surrounds the parts of a page: head, policy, heading, links, script. Knows nothing of what the parts say."""

import base64
import hashlib
from collections.abc import Sequence

import chatwright
from chatwright.recipe.report import markup as html
from chatwright.recipe.report.look import asset, style

SCRIPT = "charts.js"


def page_of(
    title: str, about: str, sections: Sequence[html.Section], *, heading: str = "", marks: Sequence[html.Html] = ()
) -> str:
    """A whole page as text, which opens offline and fetches nothing.

    Args:
        title: of the window, and of the page unless `heading` is given.
        about: one line below it.
        sections: the parts, linked from the top; the first needs no link.
        heading: of the page.
        marks: elements for the head, such as what the page was made from.
    """
    source = asset(SCRIPT)
    head = html.element(
        "head",
        html.element("meta", charset="utf-8"),
        *marks,
        html.element("meta", http_equiv="Content-Security-Policy", content=_policy(source)),
        html.element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        html.element("link", rel="icon", href="data:,"),
        html.element("title", title),
        html.Html(f"<style>{style()}</style>"),
    )
    links = [html.element("li", html.element("a", section.title, href=f"#{section.key}")) for section in sections[1:]]
    top = html.element(
        "header",
        html.element("h1", heading or title),
        html.element("p", about, class_="soft"),
        html.element("nav", html.element("ul", *links), aria_label="Sections"),
    )
    main = html.element("main", *map(_section, sections))
    body = html.element("body", top, main, _foot(), html.script(source))
    return "<!doctype html>\n" + html.element("html", head, body, lang="en") + "\n"


def _policy(source: str) -> str:
    """Only this script runs and nothing is fetched, whatever text of documents or models stands in the page."""
    hashed = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{hashed}'; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _section(section: html.Section) -> html.Html:
    heading = html.element("h2", section.title, id=f"{section.key}-title")
    return html.element("section", heading, section.body, id=section.key, aria_labelledby=f"{section.key}-title")


def _foot() -> html.Html:
    words = (
        f"Written by chatwright {chatwright.__version__} from the files of the run. Nothing in this page is fetched."
    )
    without = html.paragraph("The curves need JavaScript; their numbers stand in the tables.")
    return html.element("footer", html.paragraph(words), html.element("noscript", without))
