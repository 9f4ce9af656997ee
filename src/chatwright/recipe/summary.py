"""What a run came to, for a program as JSON and for a person as a short table. The report has the whole."""

import io
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from chatwright.foundation.console import duration
from chatwright.recipe.report.facts import MODEL_NAMES, has_intervals, key_figures, read_run
from chatwright.recipe.report.markup import count, decimal, percent, short_count, size, with_interval
from chatwright.recipe.report.page import REPORT
from chatwright.recipe.runner import StageOutcome

_WIDTH = 100  # columns where there is no terminal


def summarise(run_dir: Path, outcomes: Sequence[StageOutcome]) -> dict[str, Any]:
    """The stages of a call and the run's key figures, ready for JSON.

    Args:
        run_dir: the run's folder.
        outcomes: what the call did.

    Returns:
        `run`, `directory`, `stages` (each with `stage`, `state`, `seconds` of the work whenever it was done, and
        `peak_memory_bytes`), `figures` (what was measured; absent keys were not), and `report` if it is there.

    Raises:
        UsageError: no stage is done.
        RefusedError: a manifest is damaged.
    """
    run = read_run(run_dir)
    stages = []
    for outcome in outcomes:
        entry: dict[str, Any] = {"stage": outcome.stage, "state": outcome.state}
        if outcome.stage in run.stages:
            facts = run.stages[outcome.stage]
            entry |= {"seconds": round(facts.seconds, 1), "peak_memory_bytes": facts.peak_memory_bytes}
        stages.append(entry)
    result: dict[str, Any] = {"run": run.name, "directory": str(run_dir), "stages": stages, "figures": key_figures(run)}
    if (run_dir / REPORT).is_file():
        result["report"] = str(run_dir / REPORT)
    return result


def as_table(result: dict[str, Any]) -> str:
    """The result of `summarise` as plain text; in colour only where stdout is a terminal."""
    stages = _plain_table("stage", "state", "took", "peak memory")
    for entry in result["stages"]:
        took = duration(entry["seconds"]) if "seconds" in entry else ""
        stages.add_row(entry["stage"], entry["state"], took, size(entry.get("peak_memory_bytes")))
    is_sure = has_intervals(result["figures"])
    figures = _plain_table("figure", "value (95% interval)" if is_sure else "value", "measured")
    for row in _figure_rows(result["figures"]):
        figures.add_row(*row)
    text = _rendered(stages) + ("\n" + _rendered(figures) if figures.row_count else "")
    return text + (f"\nreport: {result['report']}" if "report" in result else "")


def _figure_rows(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows = []
    if "documents" in figures:
        rows.append(("documents", count(figures["documents"]), f"{size(figures.get('corpus_bytes'))} kept"))
    if "tokens" in figures:
        rows.append(
            ("tokens", short_count(figures["tokens"]), f"and {short_count(figures.get('heldout_tokens', 0))} held out")
        )
    if "parameters" in figures:
        trained = f"{short_count(figures['trained_tokens'])} tokens seen" if "trained_tokens" in figures else ""
        rows.append(("parameters", short_count(figures["parameters"]), trained))
    held = "a sample of held-out documents" if figures.get("heldout_is_sample") else "held-out documents"
    ends = figures.get("heldout_bits_per_byte_95", {})
    rows += [
        (
            f"bits per byte, {MODEL_NAMES[name]}",
            with_interval(bits, ends.get(name), decimal),
            f"{held}, lower is better",
        )
        for name, bits in figures.get("heldout_bits_per_byte", {}).items()
    ]
    names = {"byte_trigram": "byte trigrams", "xz_9e": "xz -9e"}
    for key, bits in figures.get("baselines", {}).items():
        rows.append((f"bits per byte, {names.get(key, key)}", decimal(bits), "the same documents, no neural network"))
    for name, answers in figures.get("answers", {}).items():
        rows += _answer_rows(MODEL_NAMES[name], answers)
    if "forgotten_bits_per_byte" in figures:
        forgotten = decimal(figures["forgotten_bits_per_byte"], signed=True)
        rows.append(("forgotten", forgotten, "bits per byte of the base's documents"))
    return rows


def _answer_rows(name: str, answers: dict[str, Any]) -> list[tuple[str, str, str]]:
    asked = f"{count(answers.get('questions'))} test questions"
    rows = []
    if "right" in answers:
        exact = f"{asked}; {percent(answers.get('exact'))} exact"
        rows.append((f"right answers, {name}", _sure_share(answers, "right"), exact))
    elif "exact" in answers:
        rows.append((f"exact answers, {name}", _sure_share(answers, "exact"), asked))
    if "bleu" in answers:
        rows.append((f"BLEU, {name}", _sure_score(answers, "bleu"), f"chrF {_sure_score(answers, 'chrf')}"))
    return rows


def _sure_share(answers: dict[str, Any], key: str) -> str:
    return with_interval(answers.get(key), answers.get(f"{key}_95"), percent, unit="%")


def _sure_score(answers: dict[str, Any], key: str) -> str:
    return with_interval(answers.get(key), answers.get(f"{key}_95"), partial(decimal, digits=1))


def _plain_table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, name in enumerate(columns):
        table.add_column(name, no_wrap=index == 0)
    return table


def _rendered(table: Table) -> str:
    is_terminal = sys.stdout.isatty()
    screen = io.StringIO()
    width = None if is_terminal else _WIDTH
    console = Console(
        file=screen, force_terminal=is_terminal, no_color=not is_terminal, width=width, highlight=False, markup=False
    )
    console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in screen.getvalue().splitlines())
