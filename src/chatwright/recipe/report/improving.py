"""What a reward model, an alignment or a distillation came to: a sentence for the summary and its main figures.

Read from the stages' own reports; the curves beside the figures are `training`'s.
"""

from typing import Any, NamedTuple

from chatwright.recipe.report import markup as html
from chatwright.recipe.report.facts import RunFacts, StageFacts

_UNITS = ("pairs", "verdicts", "answers")  # what an alignment counts instead of target tokens


class Figure(NamedTuple):
    """One figure of a stage."""

    name: str
    value: str
    meaning: str


def sentences(run: RunFacts) -> list[str]:
    """One for each of the three stages that the run has, in their order, without a full stop."""
    makers = (("reward", _of_reward), ("align", _of_align), ("distill", _of_distill))
    return [make(run.summary(name)) for name, make in makers if name in run.stages]


def _of_reward(summary: dict[str, Any]) -> str:
    accuracy = (summary.get("calibration") or {}).get("accuracy")
    told = "" if accuracy is None else f"; it tells {html.percent(accuracy)} of the held-out pairs apart"
    return f"A reward model learned from {html.count(summary.get('rows'))} pairs{told}"


def unit_of(summary: dict[str, Any]) -> str | None:
    """What a training counted in place of target tokens, if it did."""
    return next((unit for unit in _UNITS if unit in summary), None)


def _of_align(summary: dict[str, Any]) -> str:
    unit = unit_of(summary) or "examples"
    rows = f"{html.count(summary.get('rows'))} {'questions' if unit == 'answers' else unit}"
    accuracy = (summary.get("evaluation") or {}).get("accuracy")
    told = "" if accuracy is None else f"; {html.percent(accuracy)} of the held-out pairs have gained the right way"
    return f"The newest model was aligned with {rows} by {str(summary.get('objective')).upper()}{told}"


def _of_distill(summary: dict[str, Any]) -> str:
    sizes = [html.short_count(summary.get(key) or 0) for key in ("total", "teacher_parameters")]
    return f"A student of {sizes[0]} parameters was distilled from a teacher of {sizes[1]}"


def figures_of(stage: StageFacts) -> list[Figure]:
    """The main figures of one of the three stages; what was not measured is absent."""
    summary = stage.summary
    measured: dict[str, Any] = (summary.get("calibration") or {}) | (summary.get("evaluation") or {})
    found = [
        Figure("accuracy", _percent(measured.get("accuracy")), _right(stage.name)),
        Figure("reward", _decimal(measured.get("reward")), "mean of answers to held-out questions, 0 to 1"),
        Figure("calibration error", _decimal(measured.get("error")), "of the probabilities that it claims"),
        Figure(
            "the same, mended", _decimal(measured.get("error_after")), "at the temperature that fits the held-out pairs"
        ),
        Figure("divergence", _decimal(summary.get("divergence_nats")), "nats an answer from the model it began as"),
        Figure("teacher", _bits(summary, "teacher_bits_per_byte"), "bits per byte of held-out documents"),
        Figure("student", _bits(summary, "student_bits_per_byte"), "bits per byte of the same documents"),
    ]
    found += [
        Figure(f"forgotten, {name}", html.decimal(value, signed=True), "bits per byte on the base's held-out documents")
        for name, value in (summary.get("forgetting") or {}).items()
    ]
    losses = [event["loss"] for event in stage.events("step") if event.get("loss") is not None]
    found += [Figure("training loss", html.decimal(losses[-1]), "at its last step")] if losses else []
    return [figure for figure in found if figure.value]


def _right(stage: str) -> str:
    gained = "share of held-out pairs whose preferred answer gained more than the other one"
    return "share of held-out pairs told apart" if stage == "reward" else gained


def _percent(value: float | None) -> str:
    return "" if value is None else html.percent(value)


def _decimal(value: float | None) -> str:
    return "" if value is None else html.decimal(value)


def _bits(summary: dict[str, Any], key: str) -> str:
    return _decimal((summary.get(key) or {}).get("all"))
