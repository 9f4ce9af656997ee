"""`chatwright compare`: models side by side on the same data, with the significance of what differs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chatwright.cli.options import AsJson
from chatwright.foundation.console import out, say

if TYPE_CHECKING:
    from chatwright.evaluate.compare import CompareOn


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""

    @app.command()
    def compare(  # noqa: PLR0917 - the library calls it by keyword
        models: Annotated[list[Path], typer.Argument(help="the others are set against the first", metavar="MODEL")],
        texts: Annotated[Path | None, typer.Option(help="file, folder or corpus to compare the loss on")] = None,
        answers: Annotated[Path | None, typer.Option(help="conversations whose last answer is to be given")] = None,
        tasks: Annotated[str | None, typer.Option(help="own task files `.jsonl`, with commas")] = None,
        max_tokens: Annotated[int, typer.Option(min=1, help="of an answer")] = 96,
        beams: Annotated[int, typer.Option(min=1, help="of the search for answers; 1 is greedy")] = 1,
        records: Annotated[Path | None, typer.Option(help="folder for the record; default: the first's run")] = None,
        as_json: AsJson = False,
    ) -> None:
        """Scores of several models, the significance of each difference, and answers side by side."""
        from chatwright.evaluate.compare import Compared, CompareOn
        from chatwright.evaluate.compare import compare as compare_models
        from chatwright.evaluate.records import folder_for, keep
        from chatwright.foundation.devices import place
        from chatwright.model.chat import load

        device = place(precision="float32").device
        loaded = [Compared(_name(path, models), load(path, device=device), path) for path in models]
        folder = folder_for(models[0], records)
        own_tasks = tuple(Path(name) for name in (tasks or "").split(",") if name)
        on = _or_of_the_run(CompareOn(texts, answers, own_tasks, max_tokens, beams), models[0])
        record = compare_models(loaded, on)
        say(f"record: {keep(record, folder)}")
        out(json.dumps(record, indent=2) if as_json else _as_text(record["result"]))


def _or_of_the_run(on: "CompareOn", first: Path) -> "CompareOn":
    """Where nothing is named: the held-out documents and the test questions of the first model's run."""
    from chatwright.evaluate.records import data_of_run

    if on.texts is not None or on.answers is not None or on.tasks:
        return on
    found = data_of_run(first)
    split = None if found.corpus is None else "heldout"
    return on._replace(texts=found.corpus, split=split, answers=found.answers)


def _name(path: Path, models: list[Path]) -> str:
    """A short name that no other model of the call has."""
    from chatwright.model.chat import _name_of

    names = [_name_of(other) for other in models]
    name = _name_of(path)
    return name if names.count(name) == 1 else str(path)


def _as_text(result: dict[str, Any]) -> str:
    lines: list[str] = []
    for name, told in result.get("texts", {}).items():
        ends = told["difference_95"]
        sure = "" if ends is None else f" ({ends[0]:+.4f} to {ends[1]:+.4f})"
        lines.append(
            f"{name}: {told['domains']['all']['bits_per_byte']:.4f} bits per byte, difference "
            f"{told['difference']:+.4f}{sure}{_p(told['p_value'])}"
        )
    for name, told in result.get("answers", {}).items():
        if name != "side_by_side":
            shown = [
                f"{key} {told[key]:.2f}{_p(told['p_values'].get(key))}" for key in ("bleu", "chrf", "ter", "exact")
            ]
            lines.append(f"{name}: {', '.join(shown)}")
    for task, models in result.get("tasks", {}).items():
        lines += [
            f"{name}: {task} {values['metric']} {values['value']:.4f}{_p(values['p_value'])}"
            for name, values in models.items()
        ]
    for sample in result.get("answers", {}).get("side_by_side", [])[:5]:
        lines += ["", f"  asked: {sample['question']}", f"  wanted: {sample['reference']}"]
        lines += [f"  {name}: {answer}" for name, answer in sample["answers"].items()]
    return "\n".join(lines)


def _p(value: float | None) -> str:
    return "" if value is None else f" (p = {value:.3g})"
