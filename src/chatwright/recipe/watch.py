"""A training as it goes, for the terminal: curves, how far, how fast, how long still. Read from `metrics.jsonl`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from chatwright.foundation import storage
from chatwright.foundation.config import read_toml
from chatwright.foundation.console import duration
from chatwright.foundation.errors import UsageError
from chatwright.foundation.usage import Usage
from chatwright.recipe.report.facts import ROUND_WORK, TRAININGS, WORK

METRICS = "metrics.jsonl"
_REPORT = "report.json"  # of a round's training; written last
_ROUND_TRAININGS = ("edits", "align")
_BARS = "▁▂▃▄▅▆▇█"
_RECENT = 5  # lines of metrics that the pace is taken over
_PER_SECOND = "_per_second"  # how the key ends that has the rate; before it the unit: tokens, pairs, verdicts, answers


class Watched(NamedTuple):
    """A training that goes on, was stopped, or has ended."""

    stage: str  # or a round, `round-0001`, or one of its trainings, `round-0001/align`
    path: Path  # its metrics
    is_done: bool
    is_held: bool  # a process works on the run

    @property
    def is_going(self) -> bool:
        """Whether somebody still works on it."""
        return self.is_held and not self.is_done

    def state(self, step: int) -> str:
        """What becomes of it, in words; `step` is its last one so far."""
        if self.is_done:
            return "done; the run goes on" if self.is_held else "done"
        return "going on" if self.is_held else f"stopped at step {step:,}; the same command goes on"


class Progress(NamedTuple):
    """What the lines of metrics say."""

    step: int
    steps: int | None  # None where neither log nor recipe says
    seconds: float
    unit: str  # what is learned from and counted: tokens, or pairs, verdicts, answers
    loss: list[float]  # mean over the unit, one a line of metrics; nats where it is of tokens
    rate: float | None  # of the unit, a second
    utilisation: float | None  # the model's arithmetic as a share of what matrix products reach here
    skipped: int
    skipped_why: str | None  # the last of them
    heldout: dict[str, list[float]]  # bits per byte by domain, one an evaluation
    seconds_left: float | None


def find_training(run_dir: Path) -> Watched:
    """The training of a run that wrote last: of the recipe, or of a round of improvement.

    Raises:
        UsageError: no training has begun here.
    """
    work, is_held = run_dir / WORK, storage.is_held(run_dir)
    # What is not published comes first: published between the two, it is found the second time.
    found = [Watched(stage, path, False, is_held) for stage in TRAININGS for path in work.glob(f"{stage}-*/{METRICS}")]
    for training in _ROUND_TRAININGS:
        for path in work.glob(f"{ROUND_WORK}*/{training}/{METRICS}"):
            number = path.parent.parent.name.removeprefix(ROUND_WORK)
            is_done = (path.parent / _REPORT).is_file()
            found.append(Watched(f"round-{number}/{training}", path, is_done, is_held))
    published = [*(run_dir / stage / METRICS for stage in TRAININGS), *run_dir.glob(f"round-[0-9]*/{METRICS}")]
    found += [Watched(path.parent.name, path, True, is_held) for path in published if path.is_file()]
    if not found:
        raise UsageError(
            f"no training has begun in `{run_dir}`",
            hint="name the folder of a run, such as `runs/demo`; its documents may still be in preparation",
        )
    return max(found, key=lambda one: _written(one.path))


def _written(path: Path) -> int:
    """When, in nanoseconds; nothing of what was published meanwhile and stands elsewhere."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def read_events(watched: Watched, kind: str) -> list[dict[str, Any]]:
    """Lines of the metrics of one kind; lines torn by a kill are passed over."""
    return [line for line in storage.read_lines(watched.path) if line.get("event") == kind]


def read_progress(run_dir: Path, watched: Watched) -> Progress:
    """How far the training is; lines torn by a kill are passed over."""
    lines = list(storage.read_lines(watched.path))
    steps = [line for line in lines if line.get("event") == "step"]
    evaluations = [line for line in lines if line.get("event") == "evaluation"]
    skipped = [line for line in lines if line.get("event") == "skipped"]
    total = _planned_steps(run_dir, watched, lines)
    unit, newest = unit_of(steps), steps[-1] if steps else {}
    now = int(max((line.get("step", 0) for line in lines), default=0))
    recent = steps[-_RECENT:]
    pace = _pace(recent)
    left = None if not watched.is_going or total is None or pace is None else max(0, total - now) * pace
    return Progress(
        step=now,
        steps=total,
        seconds=float(max((line.get("seconds", 0.0) for line in lines), default=0.0)),
        unit=unit,
        loss=[float(line["loss"]) for line in steps if line.get("loss") is not None],
        rate=newest.get(unit + _PER_SECOND),
        utilisation=newest.get("utilisation"),
        skipped=len(skipped),
        skipped_why=skipped[-1].get("reason") if skipped else None,
        heldout=_heldout(evaluations),
        seconds_left=left,
    )


def unit_of(steps: Sequence[dict[str, Any]]) -> str:
    """What the lines of a training count, by the name of their rate."""
    keys = (key for line in steps[-1:] for key in line if key.endswith(_PER_SECOND))
    return next(keys, "tokens" + _PER_SECOND).removesuffix(_PER_SECOND)


def loss_unit(unit: str) -> str:
    """What the training loss of such a training is counted in; of all but tokens its objective decides that."""
    return "nats/token" if unit == "tokens" else f"mean over {unit}"


def _pace(recent: Sequence[dict[str, Any]]) -> float | None:
    """Seconds a step over the last lines."""
    if len(recent) < 2 or recent[-1]["step"] <= recent[0]["step"]:
        return None
    taken = recent[-1]["seconds"] - recent[0]["seconds"]
    return float(taken / (recent[-1]["step"] - recent[0]["step"]))


def _heldout(evaluations: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    curves: dict[str, list[float]] = {}
    for line in evaluations:
        values = dict(line.get("bits_per_byte") or {})
        if line.get("test_bits_per_byte") is not None:
            values["test answers"] = line["test_bits_per_byte"]
        for name, value in values.items():
            if value is not None:  # a loss that was not finite
                curves.setdefault(str(name), []).append(float(value))
    return curves


def _planned_steps(run_dir: Path, watched: Watched, lines: Sequence[dict[str, Any]]) -> int | None:
    """Of a training that is published what it took; else as its log begins, or as the recipe says."""
    recipe = run_dir / "recipe.toml"
    if (watched.path.parent / storage.MANIFEST).is_file():
        summary = storage.read_manifest(watched.path.parent).facts.get("summary", {})
        steps: int | None = summary.get("learning", summary).get("steps")  # a round's stand with what it learned
        return steps
    told = [line.get("steps") for line in lines if line.get("event") == "begins"]
    if told and isinstance(told[-1], int):
        return told[-1]
    section = read_toml(recipe).get(watched.stage, {}) if recipe.is_file() else {}
    planned = section.get("steps") if isinstance(section, dict) else None
    return planned if isinstance(planned, int) else None


def render(run_dir: Path, *, width: int = 60, usage: Usage | None = None) -> RenderableType:
    """One picture of the training, `width` columns of curve at most, with how busy the machine is if that is given."""
    watched = find_training(run_dir)
    progress = read_progress(run_dir, watched)
    table = Table.grid(padding=(0, 2))
    for row in _rows(progress, watched, width):
        table.add_row(*row)
    if usage is not None and usage.processor_share is not None:
        used, total = usage.memory_used_bytes or 0, usage.memory_bytes or 1
        memory = f"memory {used / 1e9:.1f} of {total / 1e9:.1f} GB"
        busy = f"{_bar(round(100 * usage.processor_share), 100, 10)}  {memory}"
        table.add_row(Text("machine"), Text(f"processor {usage.processor_share:.0%}"), Text(busy))
    title = Text(f"{run_dir.name}: {watched.stage}, {watched.state(progress.step)}")
    return Panel(Group(table), title=title, title_align="left", expand=False)


def _rows(progress: Progress, watched: Watched, width: int) -> list[tuple[Text, Text, Text]]:
    of = f" of {progress.steps:,}" if progress.steps else ""
    rate = "" if progress.rate is None else f"{progress.rate:,.{0 if progress.rate >= 10 else 1}f} {progress.unit}/s"
    rate += "" if progress.utilisation is None else f", {progress.utilisation:.0%} of the machine"
    left = "" if progress.seconds_left is None else f", {duration(progress.seconds_left)} left"
    rows = [
        ("step", f"{progress.step:,}{of}", _bar(progress.step, progress.steps, width)),
        ("time", duration(progress.seconds) + left, rate),
    ]
    if progress.loss:
        value = f"{progress.loss[-1]:.3f} {loss_unit(progress.unit)}"
        rows.append(("training loss", value, sparkline(progress.loss, width=width)))
    for name, values in progress.heldout.items():
        label = name if name == "test answers" else f"held out, {name}"
        rows.append((label, f"{values[-1]:.3f} bits/byte", sparkline(values, width=width)))
    if progress.skipped:
        last = "" if progress.skipped_why is None else f"; the last: {progress.skipped_why}"
        rows.append(("left out", f"{progress.skipped:,} steps", f"as unsound{last}"))
    if not watched.is_done and progress.steps is None:
        rows.append(("", "", "how many steps there will be is known when it ends"))
    return [(Text(label), Text(value), Text(curve)) for label, value, curve in rows]


def _bar(step: int, steps: int | None, width: int) -> str:
    if not steps:
        return ""
    filled = min(width, round(width * step / steps))
    return "█" * filled + "░" * (width - filled)


def sparkline(values: Sequence[float], *, width: int) -> str:
    """A curve one line high: means of equal parts of `values`, lowest to highest."""
    if not values:
        return ""
    columns = min(width, len(values))
    edges = [round(index * len(values) / columns) for index in range(columns + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    low, high = min(means), max(means)
    if high == low:
        return _BARS[0] * columns
    top = len(_BARS) - 1
    return "".join(_BARS[round((value - low) / (high - low) * top)] for value in means)


def as_json(run_dir: Path) -> str:
    """The same for machines; the rate under the name that the log gives it."""
    watched = find_training(run_dir)
    values = read_progress(run_dir, watched)._asdict()
    values[values["unit"] + _PER_SECOND] = values.pop("rate")
    told = {"stage": watched.stage, "done": watched.is_done, "held": watched.is_held}
    return json.dumps({**told, "state": watched.state(values["step"]), **values}, indent=2)
