"""The part of the page with curves: how the loss fell in each training of the run."""

from typing import Any

from chatwright.foundation.console import duration
from chatwright.recipe.report import markup as html
from chatwright.recipe.report.facts import RunFacts, StageFacts
from chatwright.recipe.report.figures import Curve, axis_switch, curve_of, curves, figure
from chatwright.recipe.report.growth import samples_over_training
from chatwright.recipe.report.improving import figures_of, unit_of

_IMPROVING = {"reward": "Reward model", "align": "Alignment", "distill": "Distillation"}


def training_section(run: RunFacts) -> html.Section | None:
    """Curves of every training of the run, zoomable, over steps or seconds."""
    parts = [
        part
        for name, draw in (
            *(("pretrain", _pretraining), ("finetune", _finetuning)),
            *(("reward", _improving), ("align", _improving), ("distill", _improving)),
        )
        if name in run.stages and (part := draw(run.stages[name])) is not None
    ]
    return html.Section("training", "Training", html.join(parts)) if parts else None


def _pretraining(stage: StageFacts) -> html.Html | None:
    evaluations = stage.events("evaluation")
    domains = list(dict.fromkeys(name for event in evaluations for name in event.get("bits_per_byte", {})))
    curves_of_all = (
        curve_of(
            name,
            evaluations,
            [event.get("bits_per_byte", {}).get(name) for event in evaluations],
            is_main=name == "all",
        )
        for name in domains
    )
    heldout = [curve for curve in curves_of_all if curve.steps]  # a domain may have none that is finite
    sampled = (stage.config.get("pretrain") or {}).get("heldout_tokens")
    amount = (
        f"the first documents of each domain up to {html.count(sampled)} tokens"
        if sampled
        else "a sample of each domain"
    )
    measured = f"Held out: bits the model needs for a byte of raw text, on {amount}, always the same ones."
    return _curves(stage, "pretrain", "Pretraining", heldout, measured)


def _finetuning(stage: StageFacts) -> html.Html | None:
    evaluations = stage.events("evaluation")
    values = [event.get("test_bits_per_byte") for event in evaluations]
    test = [curve_of("test answers", evaluations, values, is_main=True)] if any(v is not None for v in values) else []
    measured = (
        "Test answers: bits the model needs for a byte of the right answers to questions that it never trains on."
    )
    return _curves(stage, "finetune", "Fine-tuning", test, measured)


def _improving(stage: StageFacts) -> html.Html:
    """The main figures, and the loss, whose unit is its objective's own."""
    found = figures_of(stage)
    steps = stage.events("step")
    loss = curve_of("training", steps, [event.get("loss") for event in steps], is_main=True)
    drawn = figure(
        f"{stage.name}-loss",
        curves([loss], y_title="loss"),
        caption="Training loss",
        description=_description("Training loss", loss) if loss.steps else "",
    )
    title = _IMPROVING[stage.name]
    rows: list[list[html.Child]] = [[one.name, one.value, one.meaning] for one in found]
    return html.join(
        [
            html.element("h3", title),
            html.element("p", _pace(stage)),
            html.table(["figure", "value", "meaning"], rows, caption=title, words=(2,)) if rows else None,
            html.element("div", axis_switch(), drawn, class_="curves") if loss.steps else None,
        ]
    )


def _curves(stage: StageFacts, key: str, title: str, held: list[Curve], measured: str) -> html.Html | None:
    steps = stage.events("step")
    loss = curve_of("training", steps, [event.get("loss") for event in steps], is_main=True)
    if not loss.steps:
        return None
    drawn = [
        figure(
            f"{key}-loss",
            curves([loss], y_title="nats per token"),
            caption="Training loss",
            description=_description("Training loss in nats per token", loss),
        )
    ]
    if held:
        drawn.append(
            figure(
                f"{key}-heldout",
                curves(held, y_title="bits per byte"),
                caption="Test answers" if key == "finetune" else "Held-out documents, by domain",
                description="; ".join(_description(f"Bits per byte, {curve.name}", curve) for curve in held),
            )
        )
    how = html.note("Training loss: mean over all target tokens of the steps since the point before. ", measured)
    return html.join(
        [
            html.element("h3", title),
            html.element("p", _pace(stage)),
            html.element("div", axis_switch(), html.element("div", *drawn, class_="pair"), class_="curves"),
            how,
            _numbers(held) if held else None,
            samples_over_training(stage),
        ]
    )


def _description(what: str, curve: Curve) -> str:
    return (
        f"{what}: {curve.values[0]:.3f} at step {curve.steps[0]}, {curve.values[-1]:.3f} at step {curve.steps[-1]}, "
        f"lowest {min(curve.values):.3f}"
    )


def _pace(stage: StageFacts) -> str:
    summary: dict[str, Any] = stage.summary
    unit = unit_of(summary)
    learned = f"{html.count(summary.get(unit or 'target_tokens'))} {unit or 'target tokens'}"
    text = f"{html.count(summary.get('steps'))} steps, {learned}"
    if summary.get("seconds"):
        rate = html.count(summary.get(f"{unit or 'tokens'}_per_second"))
        text += f" in {duration(summary['seconds'])}: {rate} a second on average"
    if summary.get("utilisation") is not None:
        text += f", {html.percent(summary['utilisation'])} of what plain matrix products reach there"
    if summary.get("device"):
        text += f", on {summary['device']} with {summary.get('threads')} threads in {summary.get('precision')}"
        text += f" ({summary['precision_reason']})" if summary.get("precision_reason") else ""
    skipped = stage.events("skipped")
    if not skipped:
        return f"{text}."
    last = f"; the last: {skipped[-1]['reason']}" if skipped[-1].get("reason") else ""
    return f"{text}. Steps left out as unsound: {len(skipped)}{last}."


def _numbers(held: list[Curve]) -> html.Html:
    """The points of the held-out curves, for reading and for who cannot see the figure."""
    steps = sorted({step for curve in held for step in curve.steps})
    by_step = [dict(zip(curve.steps, curve.values, strict=True)) for curve in held]
    rows: list[list[html.Child]] = [
        [html.count(step), *(html.decimal(values.get(step)) for values in by_step)] for step in steps
    ]
    head = ["step", *(curve.name for curve in held)]
    return html.details("The same in numbers", html.table(head, rows, caption="Bits per byte over steps"))
