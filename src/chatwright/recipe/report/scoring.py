"""The part of the page with scores: how good each model is, beside what needs no network, and what tuning cost."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from chatwright.recipe.report import markup as html
from chatwright.recipe.report.facts import FORGETTING_ALLOWED, MODEL_NAMES, RunFacts
from chatwright.recipe.report.figures import COLOURS, MUTED, Bars, bars
from chatwright.recipe.report.overview import BASELINES, NONE_HELD_OUT, heldout_note

Show = Callable[[float | None], str]  # writes one number


def scores_section(run: RunFacts) -> html.Section | None:
    """Bits per byte, perplexity, answers, gain and forgetting: whatever was measured."""
    makers = (_none_held_out, _place, _heldout, _answers, _balance)
    parts = [part for part in (make(run) for make in makers) if part is not None]
    return html.Section("scores", "Scores", html.join(parts)) if parts else None


def _none_held_out(run: RunFacts) -> html.Html | None:
    return html.note(NONE_HELD_OUT) if run.has_nothing_held_out else None


def _place(run: RunFacts) -> html.Html | None:
    """The models' bits per byte among those of methods without a network."""
    measured = {MODEL_NAMES[name]: model["heldout"]["all"] for name, model in run.models.items() if "heldout" in model}
    if not measured:
        return None
    models = {name: values["bits_per_byte"] for name, values in measured.items()}
    ends = {name: values["bits_per_byte_95"] for name, values in measured.items() if "bits_per_byte_95" in values}
    baselines = run.scores.get("baselines") or {}
    compared = {label: baselines[key] for key, label in BASELINES.items() if key in baselines}
    ordered = sorted((compared | models).items(), key=lambda item: -item[1])
    colours = [MUTED if name in compared else COLOURS[list(models).index(name)] for name, _ in ordered]
    drawn = bars(
        "place",
        [
            Bars(
                "",
                [name for name, _ in ordered],
                [value for _, value in ordered],
                colours,
                [ends.get(name) for name, _ in ordered],
            )
        ],
        caption="Held-out documents: bits per byte, lower is better",
        description="; ".join(f"{name} {_with_ends(value, ends.get(name))}" for name, value in ordered),
    )
    how = " The thin lines are 95% intervals by bootstrap over documents." if ends else ""
    how += " Bits needed for a byte of raw text, which has 8, so models with other tokenizers compare."
    if baselines:
        how += (
            " Byte trigrams: counted over the training documents and smoothed. xz -9e: the held-out documents "
            "compressed as one stream, nothing learned before."
        )
    return html.join([drawn, html.note(heldout_note(run), how)])


def _with_ends(value: float, ends: Sequence[float] | None) -> str:
    return f"{value:.3f}" + (f", 95% interval {ends[0]:.3f} to {ends[1]:.3f}" if ends else "")


def _heldout(run: RunFacts) -> html.Html | None:
    measured = {name: model["heldout"] for name, model in run.models.items() if "heldout" in model}
    if not measured:
        return None
    # Two models fit side by side with both units; more need a table for each, or it would be cut on paper.
    tables = [_UNITS] if len(measured) <= _MOST_TOGETHER else [(unit,) for unit in _UNITS]
    has_intervals = any("bits_per_byte_95" in domains["all"] for domains in measured.values())
    how = html.note(
        heldout_note(run),
        " Perplexity is per token of the run's tokenizer; it does not compare across tokenizers.",
        _BRACKETS_OF_DOCUMENTS if has_intervals else None,
    )
    return html.join([*(_by_domain(measured, units) for units in tables), how])


_UNITS = (("bits per byte", "bits_per_byte"), ("perplexity", "perplexity"))
_MOST_TOGETHER = 2  # models


def _by_domain(measured: dict[str, dict[str, Any]], units: Sequence[tuple[str, str]]) -> html.Html:
    """A row for each domain, with these figures of every model."""
    head = ["domain", "documents", "bytes"]
    head += [f"{MODEL_NAMES[name]}: {unit}" for name in measured for unit, _ in units]
    rows: list[list[html.Child]] = [
        [
            domain,
            html.count(values["documents"]),
            html.count(values["bytes"]),
            *(_pair_of(domains.get(domain, {}), key) for domains in measured.values() for _, key in units),
        ]
        for domain, values in next(iter(measured.values())).items()
    ]
    which = "" if len(units) > 1 else f": {units[0][0]}"
    return html.table(head, rows, caption=f"Held-out documents by domain{which}")


_BRACKETS_OF_DOCUMENTS = " In brackets: 95% intervals by bootstrap over documents; of a single one there is none."
_BRACKETS_OF_ANSWERS = (
    " In brackets: 95% intervals, of shares after Wilson, of F1, BLEU and chrF by bootstrap over questions."
)


def _pair_of(values: dict[str, Any], key: str) -> str:
    return _sure(values, key, partial(html.decimal, digits=3 if key == "bits_per_byte" else 2))


def _answers(run: RunFacts) -> html.Html | None:
    answered = {
        name: model["answers"] for name, model in run.models.items() if model.get("answers", {}).get("questions")
    }
    if not answered:
        return None
    names = list(answered)
    head = ["measure", *(MODEL_NAMES[name] for name in names)]
    rows: list[list[html.Child]] = [["questions", *(html.count(answered[name]["questions"]) for name in names)]]
    for key, label in (("right", "right answer given"), ("exact", "exactly the reference")):
        if any(key in answered[name] for name in names):
            rows.append([label, *(_sure(answered[name], key, html.percent) for name in names)])
    kinds = list(dict.fromkeys(kind for name in names for kind in answered[name].get("right_by_kind", {})))
    for kind in kinds:
        rows.append([_kind_label(kind, answered), *(_kind_share(answered[name], kind) for name in names)])
    over_texts: tuple[tuple[str, str, Show], ...] = (
        ("words shared with the reference (F1)", "token_f1", html.decimal),
        ("BLEU", "bleu", partial(html.decimal, digits=2)),
        ("chrF", "chrf", partial(html.decimal, digits=2)),
    )
    for label, key, show in over_texts:
        rows.append([label, *(_sure(answered[name], key, show) for name in names)])
    shown = html.table(head, rows, caption="Answers to the test questions")
    return html.join([html.element("h3", "Answers"), shown, _how_answered(answered[names[-1]])])


def _sure(values: dict[str, Any], key: str, show: Show) -> str:
    return html.with_interval(values.get(key), values.get(f"{key}_95"), show)


def _how_answered(last: dict[str, Any]) -> html.Html:
    """How answers were judged, with the signatures of their scores."""
    signatures = [
        part
        for label, key in (("BLEU", "bleu_signature"), ("chrF", "chrf_signature"))
        if key in last
        for part in (f" {label}: ", html.code(last[key]), ".")
    ]
    brackets = _BRACKETS_OF_ANSWERS if "exact_95" in last else ""
    how = (
        "Greedy answers to test questions that training never saw. Right: of the reference answers of all labels, the "
        f"expected one shares most words with the answer, and at least half (F1).{brackets} Signatures of sacreBLEU:"
    )
    return html.note(how, *signatures)


def _kind_label(kind: str, answered: dict[str, Any]) -> str:
    number = next(
        item["right_by_kind"][kind]["questions"] for item in answered.values() if kind in item.get("right_by_kind", {})
    )
    return f"right, {kind} ({html.count(number)})"


def _kind_share(answers: dict[str, Any], kind: str) -> str:
    return _sure(answers.get("right_by_kind", {}).get(kind, {}), "right", html.percent)


class _Pair(NamedTuple):
    """Bits per byte of one measurement."""

    before: float
    after: float


def _before_and_after(finetune: dict[str, Any]) -> dict[str, _Pair]:
    """What fine-tuning measured twice, by the name it has in the picture."""
    before, after = finetune.get("before") or {}, finetune.get("after") or {}
    pairs = {}
    if "test_bits_per_byte" in before and "test_bits_per_byte" in after:
        pairs["test answers"] = _Pair(before["test_bits_per_byte"], after["test_bits_per_byte"])
    later = after.get("heldout") or {}
    for domain, values in (before.get("heldout") or {}).items():
        if domain in later:
            name = "all documents" if domain == "all" else domain
            pairs[name] = _Pair(values["bits_per_byte"], later[domain]["bits_per_byte"])
    return pairs


_HOW_BALANCED = (
    "Test answers: the reference answers to test questions, given the question. Documents: a sample of each domain "
    "of the base's held-out documents, in windows of the whole context that do not overlap, so these figures are "
    "a little above the scores of the table before. Below zero is gained, above zero forgotten."
)


def _balance(run: RunFacts) -> html.Html | None:
    """What fine-tuning gained on its task and lost on the base's documents, in one picture."""
    pairs = _before_and_after(run.summary("finetune"))
    if not pairs:
        return None
    labels = list(pairs)
    series = [
        Bars("before", labels, [pair.before for pair in pairs.values()]),
        Bars("after", labels, [pair.after for pair in pairs.values()]),
    ]
    rows: list[list[html.Child]] = [
        [
            label,
            html.decimal(pair.before),
            html.decimal(pair.after),
            html.decimal(pair.after - pair.before, signed=True),
        ]
        for label, pair in pairs.items()
    ]
    drawn = bars(
        "balance",
        series,
        caption="Before and after fine-tuning: bits per byte, lower is better",
        description="; ".join(
            f"{label} {pair.before:.3f} before, {pair.after:.3f} after" for label, pair in pairs.items()
        ),
    )
    return html.join(
        [
            html.element("h3", "Gained and forgotten"),
            drawn,
            html.table(["measured on", "before", "after", "change"], rows, caption="Bits per byte before and after"),
            html.note(_HOW_BALANCED),
            *_way_from_the_base(run),
            *_why_forgotten(run),
        ]
    )


def _way_from_the_base(run: RunFacts) -> list[html.Html]:
    """The models between the base and the result, and the one that was kept, where they were measured."""
    found = run.stages["finetune"].summary.get("interpolation")
    if not found:
        return []
    points = found["points"]
    labels = [f"{point['share']:.0%}" for point in points]
    series = [Bars("answers held back", labels, [point["figures"]["validation_bits_per_byte"] for point in points])]
    if "heldout" in points[0]["figures"]:
        lost = [point["figures"]["heldout"]["all"]["bits_per_byte"] for point in points]
        series.append(Bars("the base's documents", labels, lost))
    described = "; ".join(f"at {point['share']:.0%} the score is {point['score']:.3f}" for point in points)
    kept = html.percent(found["chosen"])
    drawn = bars(
        "way",
        series,
        caption=f"From the base (0%) to the result (100%), bits per byte: the model at {kept} of the way was kept",
        description=described,
    )
    return [drawn]


def _why_forgotten(run: RunFacts) -> list[html.Html]:
    """Where more was forgotten than is usual: how much, what guarded the base, and what would guard it better."""
    stage = run.stages["finetune"]
    lost = (stage.summary.get("forgetting") or {}).get("all")
    if lost is None or lost <= FORGETTING_ALLOWED:
        return []
    share, replay = stage.summary.get("share"), stage.config.get("replay_share")
    guard = (
        f"the base's predictions on replayed text were guarded (`replay_share = {replay}`, "
        f"`replay_weight = {stage.config.get('replay_weight')}`)"
        if replay and ("tokens" in stage.inputs or stage.config.get("replay_from"))
        else "nothing of the base's text was replayed"
    )
    return [
        html.note(
            f"This fine-tune forgot {html.decimal(lost)} bits per byte of the base's documents. It trained "
            f"{html.percent(share)} of the parameters over {html.count(stage.summary.get('steps', 0))} steps, and "
            f"{guard}. Small models forget most, for what they learn has to share few parameters with what they know. "
            "A larger `replay_weight`, "
            "a lower learning rate or fewer steps forget less, and learn less of the task in the same time.",
        )
    ]
