"""The main text and the title of an HTML page, in a child process that can neither hang nor crash the stage.

`main_text.py` finds the main text of web pages as well as trafilatura does and several times as fast; what gives either
of them nothing (bare pages) goes to resiliparse. Not for EPUB chapters, which have no menus to remove.
"""

from types import TracebackType
from typing import Any, NamedTuple, Self

from chatwright.data import limits
from chatwright.data.main_text import main_text
from chatwright.data.sandbox import Sandbox, Unreadable


class Extracted(NamedTuple):
    """What a page says."""

    text: str
    title: str


class HtmlExtractor:
    """Extracts pages one by one; its child starts with the first page.

    Args:
        extractor: a name of `EXTRACTORS`.
        time_limit_s: for one page.
    """

    def __init__(self, *, extractor: str, time_limit_s: float):
        self._sandbox = Sandbox(EXTRACTORS[extractor], time_limit_s=time_limit_s, what="extraction")

    def extract(self, html: str) -> Extracted:
        """Main text and title.

        Raises:
            Unreadable: no text, too large, `extraction_timeout`, `extraction_crashed` or `extraction_failed`.
        """
        if len(html) > limits.MAX_HTML_BYTES:
            raise Unreadable("too_large", f"{len(html)} characters of HTML")
        value = self._sandbox.call(html)
        if not value["text"].strip():
            raise Unreadable("no_text", "the page has no text of its own")
        return Extracted(value["text"], value["title"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sandbox.close()


def extract_by_blocks(html: str) -> dict[str, Any]:
    """Main text by our own walk over the page, by resiliparse if that finds nothing."""
    text, title = main_text(html)
    return {"text": text, "title": title} if text.strip() else extract_with_resiliparse(html)


def extract_with_trafilatura(html: str) -> dict[str, Any]:
    """Main text by trafilatura's fast mode, by resiliparse if that finds nothing."""
    import trafilatura
    from resiliparse.parse.html import HTMLTree

    text = trafilatura.extract(html, fast=True, include_comments=False, output_format="txt") or ""
    return {"text": text, "title": _title(HTMLTree.parse(html))} if text.strip() else extract_with_resiliparse(html)


def extract_with_resiliparse(html: str) -> dict[str, Any]:
    """Main text by resiliparse; all of a page's text if it sees no main part."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(html)
    text = extract_plain_text(tree, main_content=True, alt_texts=False)
    return {"text": text if text.strip() else extract_plain_text(tree, alt_texts=False), "title": _title(tree)}


def _title(tree: Any) -> str:
    return " ".join((tree.title or "").split())


EXTRACTORS = {
    "blocks": extract_by_blocks,
    "trafilatura": extract_with_trafilatura,
    "resiliparse": extract_with_resiliparse,
}
