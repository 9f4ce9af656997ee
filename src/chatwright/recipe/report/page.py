"""Puts the report together and publishes it, unless the one that is there tells of the very same stages."""

import base64
import hashlib
import re
from pathlib import Path

import chatwright
from chatwright.foundation import storage
from chatwright.recipe.report.facts import EVALUATIONS, RECIPE, RunFacts, manifest_paths, read_run
from chatwright.recipe.report.heatmap import HEAT_STYLE
from chatwright.recipe.report.look import SCRIPT, STYLE
from chatwright.recipe.report.markup import Html, Section, element, join, paragraph, script, text
from chatwright.recipe.report.rounds import round_paths, rounds_section

REPORT = "report.html"
_VERSION = 2  # raised when the same run would give another page
_META = "chatwright-made-from"
_HEAD_BYTES = 4096


def write_report(run_dir: Path) -> Path:
    """Write `report.html` of a run: one file that opens offline. Does nothing if no stage has changed since.

    Returns:
        The file's path.

    Raises:
        UsageError: not a run.
        RefusedError: a manifest or a report of the run is damaged.
        StorageFullError: no room; an older report stays as it was.
    """
    path = run_dir / REPORT
    digest = _digest(run_dir)
    if _made_from(path) == digest:
        return path
    page = render(read_run(run_dir), digest=digest)
    with storage.publish_file(path) as scratch:
        scratch.write_text(page, encoding="utf-8")
    return path


def _digest(run_dir: Path) -> str:
    """Of everything the page depends on: the stages' manifests name all files below them by their SHA-256."""
    paths = [
        *manifest_paths(run_dir),
        *round_paths(run_dir),
        run_dir / RECIPE,
        *sorted((run_dir / EVALUATIONS).glob("*.json")),
    ]
    found = {path.relative_to(run_dir).as_posix(): storage.digest_file(path) for path in paths if path.is_file()}
    return storage.digest_json([_VERSION, chatwright.__version__, found])


def _made_from(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES).decode(errors="replace")
    found = re.search(rf'name="{_META}" content="([0-9a-f]{{64}})"', head)
    return found.group(1) if found else None


def render(run: RunFacts, *, digest: str = "") -> str:
    """The whole page as text."""
    # Only a report that is really written pays for these: the plotting library, PyArrow.
    from plotly.offline import get_plotlyjs

    from chatwright.recipe.report.answering import samples_section, weak_section
    from chatwright.recipe.report.evaluations import evaluations_section
    from chatwright.recipe.report.origin import lineage_section, making_section
    from chatwright.recipe.report.overview import data_section, summary_section
    from chatwright.recipe.report.scoring import scores_section
    from chatwright.recipe.report.training import training_section

    makers = (
        summary_section,
        scores_section,
        samples_section,
        weak_section,
        evaluations_section,
        rounds_section,
        training_section,
        data_section,
        lineage_section,
        making_section,
    )
    sections = [section for section in (make(run) for make in makers) if section is not None]
    library: str = get_plotlyjs()
    title = f"{run.name}: report"
    head = element("head", *_head(title, digest, scripts=(library, SCRIPT)))
    body = element(
        "body", _top(run, sections), element("main", *map(_section, sections)), _foot(), script(library), script(SCRIPT)
    )
    return "<!doctype html>\n" + element("html", head, body, lang="en") + "\n"


def _head(title: str, digest: str, *, scripts: tuple[str, ...]) -> list[Html]:
    return [
        element("meta", charset="utf-8"),
        element("meta", name=_META, content=digest),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(scripts)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        Html(f"<style>{STYLE}{HEAT_STYLE}</style>"),
    ]


def _policy(scripts: tuple[str, ...]) -> str:
    """Only these scripts run and nothing is fetched, whatever text of documents or models stands in the page."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'" for source in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _top(run: RunFacts, sections: list[Section]) -> Html:
    links = [element("li", element("a", section.title, href=f"#{section.key}")) for section in sections[1:]]
    return element(
        "header",
        element("h1", run.name),
        element("p", "What was made in this run, of what, and how good it is", class_="soft"),
        element("nav", element("ul", *links), aria_label="Sections"),
    )


def _section(section: Section) -> Html:
    heading = element("h2", section.title, id=f"{section.key}-title")
    return element("section", heading, section.body, id=section.key, aria_labelledby=f"{section.key}-title")


def _foot() -> Html:
    words = (
        f"Written by chatwright {chatwright.__version__} from the files of the run. Nothing in this page is fetched."
    )
    return element(
        "footer",
        join(
            [
                paragraph(text(words)),
                element("noscript", paragraph("The figures need JavaScript; their numbers stand in the tables.")),
            ]
        ),
    )
