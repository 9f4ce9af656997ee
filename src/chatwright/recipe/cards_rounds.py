"""Rounds of improvement as cards see them: stages after the recipe's, each with the rounds that it builds on."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from chatwright.foundation import storage
from chatwright.recipe.report.facts import RunFacts, StageFacts, manifest_paths, read_run
from chatwright.recipe.report.improving import figures_of
from chatwright.recipe.report.markup import count, decimal, percent, with_interval
from chatwright.recipe.report.models import place_of
from chatwright.recipe.report.rounds import round_paths

LEARNED = "learned.json"
_REPORT = "report.json"
_NAME = re.compile(r"round-[0-9]{4,}")


def is_round(name: str) -> bool:
    """Whether a folder of a run, or a stage, is called as a round is."""
    return _NAME.fullmatch(name) is not None


def read_run_and_rounds(run_dir: Path) -> tuple[RunFacts, dict[str, StageFacts]]:
    """The stages of a run, none of which needs to be done where a round is, and its promoted rounds, oldest first.

    Raises:
        UsageError: not a run.
        RefusedError: a manifest or a report is damaged.
    """
    places = [path.parent for path in round_paths(run_dir) if path.name == storage.MANIFEST]
    rounds = {place.name: _read_round(place) for place in places if (place / "model").is_dir()}
    if rounds and not manifest_paths(run_dir):
        return RunFacts(directory=run_dir, stages={}), rounds
    return read_run(run_dir), rounds


def _read_round(place: Path) -> StageFacts:
    """A round with its figures where those of a stage stand."""
    manifest = storage.read_manifest(place)
    stage = StageFacts(name=place.name, directory=place, content=manifest.content, facts=manifest.facts)
    report = stage.read(_REPORT)
    summary = {**stage.summary, "feedback": report.get("feedback"), **(report.get("learning") or {})}
    lost = _lost(report.get("measured") or {})
    summary |= {} if lost is None else {"forgetting": {"all": lost}}
    return dataclasses.replace(stage, facts={**stage.facts, "summary": summary})


def _lost(measured: dict[str, Any]) -> float | None:
    """Bits per byte of the run's held-out documents, since the model that the loop began with."""
    new, first = ((measured.get(name) or {}).get("bits") or {} for name in ("new", "first"))
    return None if "all" not in new or "all" not in first else float(new["all"]) - float(first["all"])


def up_to(run: RunFacts, rounds: dict[str, StageFacts], name: str) -> RunFacts:
    """The run with a round and those that it builds on; one that was rolled back before it is none of them."""
    chain: list[str] = []
    while name in rounds and name not in chain:
        chain.append(name)
        name = place_of(rounds[name].inputs.get("base") or {})
    return dataclasses.replace(run, stages={**run.stages, **{one: rounds[one] for one in reversed(chain)}})


def score_rows(stage: StageFacts) -> list[tuple[str, str]]:
    """What the test of a round found, and what its training came to."""
    measured: dict[str, Any] = stage.read(_REPORT).get("measured") or {}
    new, won = measured.get("new") or {}, measured.get("heldout")
    rows = []
    if won:
        against = f"held-out feedback won against the model before it, {count(won.get('comparisons'))} comparisons"
        rows.append((against, with_interval(won.get("share"), [won["low"], won["high"]], percent)))
    if new.get("right") is not None:
        rows.append((f"right answers, of {count(new.get('questions'))} test questions", percent(new["right"])))
    rows += [(f"bits per byte, held out, {name}", decimal(bits)) for name, bits in (new.get("bits") or {}).items()]
    return rows + [(f"{one.name}: {one.meaning}", one.value) for one in figures_of(stage)]


def brackets(stage: StageFacts) -> str:
    """What the interval of a round's test is; empty where it has none."""
    if not (stage.read(_REPORT).get("measured") or {}).get("heldout"):
        return ""
    confidence = (stage.config.get("promote") or {}).get("confidence", 0.95)
    return f"In brackets: the {percent(confidence, digits=0)} interval, over questions by bootstrap."
