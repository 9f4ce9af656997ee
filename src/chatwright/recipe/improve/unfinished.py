"""A round that was begun and is not over: whether it may be gone on with, and its end. It holds what people wrote.

It stands in `.work/improve-NNNN/`: the frozen feedback, and the trainings that have begun.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from chatwright.foundation import storage
from chatwright.foundation.config import without_habits
from chatwright.recipe.improve.settings import ImproveConfig
from chatwright.recipe.report.facts import ROUND_WORK, WORK

USED = "used.json"


def work_of(run_dir: Path, number: int) -> Path:
    """Where a round works."""
    return run_dir / WORK / f"{ROUND_WORK}{number:04}"


def feedback_of(work: Path) -> Path:
    """Its frozen feedback."""
    return work / "feedback"


def foundation_of(config: ImproveConfig, *, base: str, seed: int, tests: frozenset[str]) -> dict[str, str]:
    """What its feedback and trainings depend on beside people; the test of promotion reads its settings anew.

    Args:
        config: the section `improve`.
        base: digest of the model in service.
        seed: of the round.
        tests: questions that must not be learned.
    """
    settings = without_habits(config)
    del settings["promote"]
    told = {"base": base, "settings": [settings, seed], "tests": sorted(tests)}
    return {name: storage.digest_json(value) for name, value in told.items()}


def write_used(directory: Path, opinions: Iterable[tuple[str, str]]) -> None:
    """Keep by name whose words the frozen feedback is made of: opinions, each with its answer."""
    storage.write_json(directory / USED, sorted(opinions))


def why_not_to_go_on(work: Path, foundation: Mapping[str, str], opinions: set[tuple[str, str]]) -> str | None:
    """Why a round has to begin anew, if it has to.

    Args:
        work: where it works, with frozen feedback.
        foundation: as it is now.
        opinions: those that may be learned from now, each with its answer.
    """
    frozen = feedback_of(work)
    if not (frozen / USED).is_file():
        return "it was begun by an older version"
    before: Any = storage.read_manifest(frozen).facts
    for name, told in (
        ("base", "another model is in service"),
        ("settings", "`[improve]` has changed"),
        ("tests", "the test questions have changed"),
    ):
        if before.get(name) != foundation[name]:
            return told
    if not {(answer, opinion) for answer, opinion in storage.read_json(frozen / USED)} <= opinions:
        return "some of its feedback was deleted, or may not be learned from any more"
    return None


def discard(run_dir: Path, *, but: Path | None = None) -> None:
    """Remove what rounds left that were not finished, or were and could not tidy up before a kill."""
    for work in (run_dir / WORK).glob(f"{ROUND_WORK}*"):
        if work != but:
            shutil.rmtree(work, ignore_errors=True)


def discard_with(run_dir: Path, answer_ids: set[str]) -> bool:
    """Remove the round that is not over if any of these answers is among its feedback.

    Raises:
        BusyError: it is being made right now.
    """
    if not _holds(run_dir, answer_ids):
        return False
    with storage.exclusive(run_dir):
        discard(run_dir)
    return True


def _holds(run_dir: Path, answer_ids: set[str]) -> bool:
    return any(
        answer in answer_ids
        for path in (run_dir / WORK).glob(f"{ROUND_WORK}*/feedback/{USED}")
        for answer, _ in storage.read_json(path)
    )
