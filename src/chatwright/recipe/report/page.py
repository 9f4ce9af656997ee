"""Puts the report together and publishes it, unless the one that is there tells of the very same stages."""

import re
from pathlib import Path

import chatwright
from chatwright.evaluate.records import FOLDER
from chatwright.foundation import storage
from chatwright.recipe.report import markup as html
from chatwright.recipe.report.facts import RATINGS, RECIPE, RunFacts, manifest_paths, read_run
from chatwright.recipe.report.rounds import round_paths, rounds_section
from chatwright.recipe.report.shell import page_of

REPORT = "report.html"
_VERSION = 10  # raised when the same run would give another page
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
        run_dir / RATINGS,
        *sorted((run_dir / FOLDER).glob("*.json")),
    ]
    # What raters said last stands in SQLite's log until the last of its users closes it, or for good after a kill.
    log = run_dir / f"{RATINGS}-wal"
    paths += [log] if log.is_file() and log.stat().st_size else []
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
    # Only a report that is really written pays for PyArrow.
    from chatwright.recipe.report.answering import samples_section, weak_section
    from chatwright.recipe.report.corpus import data_section
    from chatwright.recipe.report.evaluations import evaluations_section
    from chatwright.recipe.report.origin import lineage_section, making_section
    from chatwright.recipe.report.overview import summary_section
    from chatwright.recipe.report.rated import ratings_section
    from chatwright.recipe.report.scoring import scores_section
    from chatwright.recipe.report.training import training_section

    makers = (
        summary_section,
        scores_section,
        ratings_section,
        rounds_section,
        samples_section,
        weak_section,
        evaluations_section,
        training_section,
        data_section,
        lineage_section,
        making_section,
    )
    sections = [section for section in (make(run) for make in makers) if section is not None]
    return page_of(
        f"{run.name}: report",
        "What was made in this run, of what, and how good it is",
        sections,
        heading=run.name,
        marks=[html.element("meta", name=_META, content=digest)],
    )
