"""Several runs side by side on one page: their figures, their curves over each other, what differs in their recipes."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.foundation import storage
from chatwright.foundation.config import read_toml
from chatwright.foundation.console import duration
from chatwright.foundation.errors import UsageError
from chatwright.foundation.masking import without_secrets
from chatwright.recipe.report import markup as html
from chatwright.recipe.report.facts import MODEL_NAMES, RECIPE, RunFacts, has_intervals, key_figures, read_run
from chatwright.recipe.report.figures import axis_switch, curve_of, curves, figure
from chatwright.recipe.report.overview import heldout_note
from chatwright.recipe.report.shell import page_of

_MOST = 8  # runs; as many as there are colours that can be told apart
_ABSENT = "\N{EN DASH}"
_Read = Callable[[RunFacts], str | None]  # a figure of a run as it is shown


class Named(NamedTuple):
    """A run by the name it has on the page."""

    name: str
    run: RunFacts


def write_comparison(run_dirs: Sequence[Path], path: Path) -> Path:
    """Write one page over several runs; it opens offline like a report.

    Raises:
        UsageError: fewer than two runs, too many, or one that is none.
        RefusedError: a manifest of a run is damaged.
    """
    if not 2 <= len(run_dirs) <= _MOST:
        raise UsageError(f"side by side stand two to {_MOST} runs: {len(run_dirs)}")
    runs = _named([read_run(place) for place in run_dirs])
    page = render(runs)
    with storage.publish_file(path) as scratch:
        scratch.write_text(page, encoding="utf-8")
    return path


def _named(runs: Sequence[RunFacts]) -> list[Named]:
    """By the recipe's name; by the folder's where two recipes have one name, by its place where that is not enough."""
    for names in (
        [run.name for run in runs],
        [run.directory.resolve().name for run in runs],
        [str(run.directory) for run in runs],
    ):
        if len(set(names)) == len(names):
            return [Named(name, run) for name, run in zip(names, runs, strict=True)]
    raise UsageError("a run is named twice", hint="name each run once")


def render(runs: Sequence[Named]) -> str:
    """The page as text."""
    makers = (_figures, _domains, _curves, _samples, _settings)
    sections = [section for section in (make(runs) for make in makers) if section is not None]
    names = ", ".join(one.name for one in runs)
    return page_of(f"{len(runs)} runs side by side", names, sections)


def _figures(runs: Sequence[Named]) -> html.Section:
    rows: list[list[html.Child]] = []
    for label, read in _MEASURES:
        values = [read(one.run) for one in runs]
        if any(value is not None for value in values):
            rows.append([label, *(_ABSENT if value is None else value for value in values)])
    table = html.table(["figure", *(one.name for one in runs)], rows, caption="Figures")
    notes = {heldout_note(one.run) for one in runs}
    how = " ".join(sorted(notes)) + (
        " Bits per byte compare between tokenizers where the held-out documents are the same"
        + (": they are here." if _same_heldout(runs) else "; here they are NOT the same, so read them with care.")
        + (_BRACKETS if any(has_intervals(key_figures(one.run)) for one in runs) else "")
    )
    return html.Section("figures", "Figures", html.join([table, html.note(how)]))


_BRACKETS = (
    " In brackets: 95% intervals, of each run by itself; two that overlap may still differ, which `chatwright compare` "
    "tests on the same documents and questions."
)


def _same_heldout(runs: Sequence[Named]) -> bool:
    return len({(one.run.stages["corpus"].content if "corpus" in one.run.stages else one.name) for one in runs}) == 1


def _figure(key: str, *, signed: bool = False) -> _Read:
    def read(run: RunFacts) -> str | None:
        value = key_figures(run).get(key)
        return (
            None
            if value is None
            else html.decimal(value, signed=signed)
            if isinstance(value, float)
            else html.count(value)
        )

    return read


def _bits(name: str) -> _Read:
    def read(run: RunFacts) -> str | None:
        figures = key_figures(run)
        value = figures.get("heldout_bits_per_byte", {}).get(name)
        ends = figures.get("heldout_bits_per_byte_95", {}).get(name)
        return None if value is None else html.with_interval(value, ends, html.decimal)

    return read


def _answer(name: str, key: str) -> _Read:
    def read(run: RunFacts) -> str | None:
        answers = key_figures(run).get("answers", {}).get(name, {})
        show = html.percent if key in ("right", "exact") else partial(html.decimal, digits=2)
        return html.with_interval(answers[key], answers.get(f"{key}_95"), show) if key in answers else None

    return read


def _took(run: RunFacts) -> str:
    return duration(sum(stage.seconds for stage in run.stages.values()))


def _peak(run: RunFacts) -> str | None:
    peak = max(stage.peak_memory_bytes for stage in run.stages.values())
    return html.size(peak) if peak else None


_MEASURES: tuple[tuple[str, _Read], ...] = (
    ("documents", _figure("documents")),
    ("training tokens in the corpus", _figure("tokens")),
    ("parameters", _figure("parameters")),
    ("tokens trained on", _figure("trained_tokens")),
    *((f"{label}: bits per byte, held out", _bits(name)) for name, label in MODEL_NAMES.items()),
    ("fine-tuning gained, bits per byte", _figure("gained_bits_per_byte", signed=True)),
    ("fine-tuning forgot, bits per byte", _figure("forgotten_bits_per_byte", signed=True)),
    *(
        (f"{MODEL_NAMES[name]}: {label}", _answer(name, key))
        for name in ("finetune", "align", "distill")
        for label, key in (("right answers", "right"), ("exact answers", "exact"), ("BLEU", "bleu"), ("chrF", "chrf"))
    ),
    ("time of all stages", _took),
    ("peak memory", _peak),
)


def _domains(runs: Sequence[Named]) -> html.Section | None:
    """Bits per byte of each run's last scored model, by domain."""
    scored = [(one.name, list(one.run.models.items())) for one in runs]
    last = {name: models[-1][1]["heldout"] for name, models in scored if models and "heldout" in models[-1][1]}
    domains = list(dict.fromkeys(domain for heldout in last.values() for domain in heldout))
    if not domains:
        return None
    rows: list[list[html.Child]] = [
        [domain, *(_sure_bits(last.get(one.name, {}).get(domain, {})) for one in runs)] for domain in domains
    ]
    table = html.table(
        ["domain", *(one.name for one in runs)], rows, caption="Bits per byte of the last model, by domain"
    )
    return html.Section("domains", "Domains", table)


def _sure_bits(values: dict[str, Any]) -> str:
    return html.with_interval(values.get("bits_per_byte"), values.get("bits_per_byte_95"), html.decimal)


class _Line(NamedTuple):
    """A curve that runs are compared by."""

    key: str
    stage: str
    event: str
    path: tuple[str, ...]  # of the value within the event
    caption: str
    unit: str


_LINES = (
    _Line("loss", "pretrain", "step", ("loss",), "Training loss", "nats per token"),
    _Line("heldout", "pretrain", "evaluation", ("bits_per_byte", "all"), "Held-out documents", "bits per byte"),
    _Line("tuning", "finetune", "step", ("loss",), "Loss of fine-tuning", "nats per token"),
    _Line("answers", "finetune", "evaluation", ("test_bits_per_byte",), "Test answers", "bits per byte"),
)


def _curves(runs: Sequence[Named]) -> html.Section | None:
    drawn = [found for line in _LINES if (found := _drawn(line, runs)) is not None]
    if not drawn:
        return None
    body = html.element("div", axis_switch(), html.element("div", *drawn, class_="pair"), class_="curves")
    how = "Loss: mean over all target tokens since the point before, comparable where tokenizer and data are the same."
    return html.Section("curves", "Curves", html.join([body, html.note(how)]))


def _drawn(line: _Line, runs: Sequence[Named]) -> html.Html | None:
    lines = []
    for one in runs:
        events = one.run.stages[line.stage].events(line.event) if line.stage in one.run.stages else []
        curve = curve_of(one.name, events, [_value(event, line.path) for event in events], is_main=True)
        lines += [curve] if curve.steps else []
    if not lines:
        return None
    told = "; ".join(f"{one.name}: {one.values[0]:.3f} at first, {one.values[-1]:.3f} last" for one in lines)
    return figure(line.key, curves(lines, y_title=line.unit), caption=line.caption, description=told)


def _value(event: dict[str, Any], path: tuple[str, ...]) -> float | None:
    found: Any = event
    for key in path:
        found = (found or {}).get(key)
    return None if found is None else float(found)


def _samples(runs: Sequence[Named]) -> html.Section | None:
    """What each run's base model made of the prompts that all share."""
    written: dict[str, dict[str, str]] = {}
    for one in runs:
        for model in one.run.read("evaluate", "samples.json").values():
            for item in model.get("continuations", []):
                written.setdefault(str(item["prompt"]), {})[one.name] = str(item["continuation"])
    shared = {prompt: by_run for prompt, by_run in written.items() if len(by_run) > 1}
    if not shared:
        return None
    parts = [
        html.table(
            ["run", "what followed"],
            [[name, html.element("pre", text, class_="text")] for name, text in by_run.items()],
            caption=prompt,
            words=(1,),
        )
        for prompt, by_run in shared.items()
    ]
    return html.Section("samples", "Samples", html.join(parts))


def _settings(runs: Sequence[Named]) -> html.Section:
    """The keys of the recipes that are not the same."""
    flat = [_flat(without_secrets(_recipe(one.run))) for one in runs]
    keys = sorted({key for recipe in flat for key in recipe})
    rows: list[list[html.Child]] = [
        [html.code(key), *(str(recipe.get(key, _ABSENT)) for recipe in flat)]
        for key in keys
        if len({str(recipe.get(key)) for recipe in flat}) > 1
    ]
    if not rows:
        return html.Section("settings", "Settings", html.paragraph("The recipes are the same in every key."))
    same = sum(1 for key in keys if len({str(recipe.get(key)) for recipe in flat}) == 1)
    table = html.table(
        ["key", *(one.name for one in runs)],
        rows,
        caption="Keys of the recipes that differ",
        words=range(1, len(runs) + 1),
    )
    return html.Section(
        "settings", "Settings", html.join([table, html.note(f"{same} other keys are the same in all.")])
    )


def _recipe(run: RunFacts) -> dict[str, Any]:
    path = run.directory / RECIPE
    return read_toml(path) if path.is_file() else {}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {key: item for name, inner in value.items() for key, item in _flat(inner, f"{prefix}.{name}").items()}
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return {k: v for index, inner in enumerate(value) for k, v in _flat(inner, f"{prefix}.{index}").items()}
    return {prefix.lstrip("."): value}
