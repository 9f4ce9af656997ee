"""Main text of web pages against trafilatura and resiliparse, on trafilatura's own evaluation pages.

Call: python bench/extract.py --checkout PATH_TO_TRAFILATURA

F1 as their `tests/evaluate.py` counts it: passages that must be in the text, and passages that must not, compared with
white space made uniform. Pages are decoded beforehand; each extractor reads the same strings, one after the other in
one process, and its time is CPU time.
"""

import argparse
import hashlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import trafilatura

from chatwright.data.decode import decode_html
from chatwright.data.extract import EXTRACTORS, extract_with_resiliparse


class Result(NamedTuple):
    """One extractor's scores."""

    name: str
    score: "Score"
    pages_per_s: float


class Page(NamedTuple):
    """A page and the passages that tell whether its main text was found."""

    html: str
    wanted: list[str]
    unwanted: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True, help="a checkout of trafilatura")
    parser.add_argument("--every", type=int, default=1, help="only every n-th page")
    parser.add_argument("--unseen", action="store_true", help="only the half that `blocks` was not set on")
    options = parser.parse_args()
    pages = read_pages(options.checkout / "tests")[:: options.every]
    if options.unseen:
        pages = [page for page in pages if is_unseen(page)]
    rows = [measure(name, function, pages) for name, function in extractors().items()]
    print(f"{len(pages)} pages; trafilatura {trafilatura.__version__}")
    print(f"{'extractor':34}{'precision':>10}{'recall':>8}{'F1':>8}{'pages/s':>9}{'x trafilatura':>15}")
    slowest = next(row.pages_per_s for row in rows if row.name == "trafilatura")
    for row in rows:
        ratio = row.pages_per_s / slowest
        print(f"{row.name:34}{row.score}{row.pages_per_s:>9.0f}{ratio:>15.1f}")


def extractors() -> dict[str, Callable[[str], str]]:
    def by_trafilatura(html: str, *, fast: bool) -> str:
        return trafilatura.extract(html, fast=fast, include_comments=False, include_tables=True) or ""

    theirs: dict[str, Callable[[str], str]] = {
        "trafilatura": lambda html: by_trafilatura(html, fast=False),
        "trafilatura, fast": lambda html: by_trafilatura(html, fast=True),
        "resiliparse, main content": lambda html: str(extract_with_resiliparse(html)["text"]),
    }
    ours = {f"chatwright, {name}": _text_of(function) for name, function in EXTRACTORS.items()}
    return theirs | ours


def _text_of(function: Callable[[str], dict[str, object]]) -> Callable[[str], str]:
    return lambda html: str(function(html)["text"])


def read_pages(folder: Path) -> list[Page]:
    pages = []
    for item in json.loads((folder / "evaldata.json").read_text(encoding="utf-8")).values():
        path = next(path for place in ("cache", "eval") if (path := folder / place / item["file"]).is_file())
        decoded = decode_html(path.read_bytes())
        assert decoded is not None, f"{path} is not text"
        pages.append(Page(decoded.text, item["with"], item["without"]))
    return pages


def is_unseen(page: Page) -> bool:
    """Whether words and thresholds of `data/main_text.py` were set without this page: by its content, every other."""
    return hashlib.sha256(page.html.encode("utf-8", "replace")).digest()[0] % 2 == 1


class Score(NamedTuple):
    """How much of what must be in the texts is, and how much of what must not."""

    precision: float
    recall: float
    f1: float

    def __str__(self) -> str:
        return f"{self.precision:>10.3f}{self.recall:>8.3f}{self.f1:>8.3f}"


def score_of(texts: list[tuple[Page, str]]) -> Score:
    """Over pages with what was found of them, white space made uniform."""
    found = lost = wrong = 0
    for page, text in texts:
        held = sum(uniform(passage) in text for passage in page.wanted)
        found, lost = found + held, lost + len(page.wanted) - held
        wrong += sum(uniform(passage) in text for passage in page.unwanted)
    precision, recall = found / max(1, found + wrong), found / max(1, found + lost)
    return Score(precision, recall, 2 * found / max(1, 2 * found + wrong + lost))


def measure(name: str, extract: Callable[[str], str], pages: list[Page]) -> Result:
    extract(pages[0].html)  # imports are no work on a page
    began = time.process_time()
    texts = [extract(page.html) for page in pages]
    seconds = time.process_time() - began
    score = score_of([(page, uniform(text)) for page, text in zip(pages, texts, strict=True)])
    return Result(name, score, len(pages) / seconds)


def uniform(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


if __name__ == "__main__":
    main()
