"""What people's ratings say: means, agreement, strengths, raters to look at, how many more are needed, what to believe.

Users and experts are kept apart throughout. Attention checks count for raters, never for models; of an item that came
twice the first time counts, the second tells how far a rater agrees with themselves.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import sacrebleu

from chatwright.evaluate import agreement
from chatwright.evaluate.metrics import rouge_l, token_f1
from chatwright.evaluate.strengths import FIRST, SECOND, TIE, Strengths, comparisons, fit
from chatwright.feedback.study import DIMENSIONS
from chatwright.foundation.errors import UsageError

Entry = dict[str, Any]
_OUTCOMES = {"first": FIRST, "second": SECOND, "tie": TIE, "both_bad": TIE}
_MIN_SHARED = 5  # ratings in common below which a rater cannot be set beside the others
_FAR_OFF = 1.0  # points of a scale from the others' mean, on average
_WEAK_PRIOR = 0.1  # where a model never won or never lost
_DIFFERENCE = 0.3  # points of a scale that a study should be able to find


def summarise(entries: Sequence[Entry]) -> dict[str, Any]:
    """Everything, for users and experts apart.

    Args:
        entries: what `Study.export` gives.

    Raises:
        UsageError: nothing was rated.
    """
    if not entries:
        raise UsageError("nothing was rated yet", hint="open the page with `chatwright rate`")
    kinds = sorted({entry["rater_kind"] for entry in entries})
    return {kind: _of_kind([entry for entry in entries if entry["rater_kind"] == kind]) for kind in kinds}


def _of_kind(entries: Sequence[Entry]) -> dict[str, Any]:
    counted = [entry for entry in entries if not entry["is_check"] and entry["occasion"] == 0]
    scales = [entry for entry in counted if entry["item_kind"] == "scale"]
    pairs = [entry for entry in counted if entry["item_kind"] == "pair"]
    told: dict[str, Any] = {
        "ratings": len(counted),
        "raters": raters_table(entries),
        "notes": sum(bool(entry.get("note")) for entry in counted),
        "better_answers": sum(bool(entry.get("better")) for entry in counted),
    }
    if scales:
        told["models"] = scale_means(scales)
        told["agreement"] = {
            name: {"alpha_ordinal": agreement.krippendorff_alpha(table), "percent": agreement.percent_agreement(table)}
            for name in DIMENSIONS
            for table in [_matrix(scales, name)]
        }
        told["needed"] = needed_items(scales)
        told["correlations"] = correlations(scales)
    if pairs:
        told["strengths"] = pair_strengths(pairs)
    return told


def scale_means(scales: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """Mean of each dimension and model, with an interval over items."""
    models = sorted({entry["models"][0] for entry in scales})
    return {
        model: {
            name: agreement.mean_over_items(
                [entry["scores"][name] for entry in mine], [entry["item"] for entry in mine]
            )._asdict()
            for name in DIMENSIONS
        }
        for model in models
        for mine in [[entry for entry in scales if entry["models"][0] == model]]
    }


def _matrix(scales: Sequence[Entry], name: str) -> Any:
    raters = sorted({entry["rater"] for entry in scales})
    items = sorted({entry["item"] for entry in scales})
    table = np.full((len(raters), len(items)), np.nan)
    for entry in scales:
        table[raters.index(entry["rater"]), items.index(entry["item"])] = entry["scores"][name]
    return table


def pair_strengths(pairs: Sequence[Entry]) -> dict[str, Any]:
    """Bradley-Terry with Davidson's ties; "both bad" counts as a tie and is told beside."""
    models = sorted({model for entry in pairs for model in entry["models"]})
    met = comparisons(
        [models.index(entry["models"][0]) for entry in pairs],
        [models.index(entry["models"][1]) for entry in pairs],
        [entry["item"] for entry in pairs],
        num_models=len(models),
    )
    outcomes = np.array([_OUTCOMES[entry["choice"]] for entry in pairs])
    prior = 0.0
    try:
        fitted = fit(met, outcomes)
    except UsageError:
        if len({entry["item"] for entry in pairs}) < 2:
            return {"choices": len(pairs), "not_fitted": "fewer than two items"}
        prior = _WEAK_PRIOR
        fitted = fit(met, outcomes, prior=prior)
    return {
        "choices": len(pairs),
        "ties": int((outcomes == TIE).sum()),
        "both_bad": sum(entry["choice"] == "both_bad" for entry in pairs),
        "tie_parameter": round(float(fitted.tie[0]), 4),
        "prior": prior,
        "models": _strengths_of(models, fitted),
        "differences": _differences_of(models, fitted),
        "choices_needed": {str(rate): agreement.choices_for_win_rate(rate) for rate in (0.55, 0.6, 0.65, 0.7, 0.75)},
    }


def _strengths_of(models: Sequence[str], fitted: Strengths) -> dict[str, dict[str, float]]:
    """Each model's strength with its interval."""
    ends = fitted.intervals()[0]
    return {
        model: {
            "strength": round(float(fitted.theta[0, place]), 4),
            "low": round(float(ends[place, 0]), 4),
            "high": round(float(ends[place, 1]), 4),
        }
        for place, model in enumerate(models)
    }


def _differences_of(models: Sequence[str], fitted: Strengths) -> dict[str, dict[str, float]]:
    """Of every two models, with its interval and the share of choices that it means."""
    differences = {}
    for one, other in combinations(range(len(models)), 2):
        estimate, error = fitted.difference(one, other)[0]
        differences[f"{models[one]} - {models[other]}"] = {
            "difference": round(float(estimate), 4),
            "low": round(float(estimate - fitted.reach * error), 4),
            "high": round(float(estimate + fitted.reach * error), 4),
            "win_rate": round(float(1 / (1 + np.exp(-estimate))), 4),
        }
    return differences


def raters_table(entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """Each rater beside the others: checks passed, agreement with themselves, offset, drift, and what stands out."""
    return {name: _rater(name, entries) for name in sorted({entry["rater"] for entry in entries})}


def _rater(name: str, entries: Sequence[Entry]) -> dict[str, Any]:
    mine = [entry for entry in entries if entry["rater"] == name]
    checks = [entry for entry in mine if entry["is_check"]]
    figures: dict[str, Any] = {"ratings": sum(not entry["is_check"] for entry in mine)}
    flags = []
    if checks:
        figures["checks_passed"] = f"{sum(bool(entry['passed']) for entry in checks)}/{len(checks)}"
        if sum(bool(entry["passed"]) for entry in checks) * 2 < len(checks):
            flags.append("fails attention checks")
    same = _self_agreement(mine)
    if same is not None:
        figures["self_agreement"] = round(same, 4)
    offsets = _offsets(name, entries)
    if len(offsets) >= _MIN_SHARED:
        figures["offset"] = round(float(np.mean(offsets)), 4)
        if abs(figures["offset"]) > _FAR_OFF:
            flags.append("far from the others on average")
        drift = drift_of(offsets)
        figures["drift"], figures["drift_p"] = round(drift.slope, 4), round(drift.p_value, 4)
        if drift.p_value < 0.01:
            flags.append("drifts over time")
    return {**figures, "flags": flags}


def _self_agreement(mine: Sequence[Entry]) -> float | None:
    """Share of answers that were the same, or on scales within one point, when an item came again."""
    first = {entry["item"]: entry for entry in mine if entry["occasion"] == 0}
    again = [(first[entry["item"]], entry) for entry in mine if entry["occasion"] == 1 and entry["item"] in first]
    same: list[bool] = []
    for one, other in again:
        if one["item_kind"] == "pair":
            same.append(one["choice"] == other["choice"])
        else:
            same += [abs(one["scores"][name] - other["scores"][name]) <= 1 for name in DIMENSIONS]
    return sum(same) / len(same) if same else None


def _offsets(name: str, entries: Sequence[Entry]) -> list[float]:
    """The rater's scores less the mean of the others' on the same item, in the order of judging."""
    scales = [e for e in entries if e["item_kind"] == "scale" and not e["is_check"] and e["occasion"] == 0]
    others: dict[str, list[float]] = {}
    for entry in scales:
        if entry["rater"] != name:
            others.setdefault(entry["item"], []).append(_mean_score(entry))
    mine = [entry for entry in scales if entry["rater"] == name and entry["item"] in others]
    return [_mean_score(entry) - float(np.mean(others[entry["item"]])) for entry in mine]


def _mean_score(entry: Entry) -> float:
    return float(np.mean([entry["scores"][name] for name in DIMENSIONS]))


class Drift(NamedTuple):
    """How a rater moved against the others."""

    slope: float  # points over the whole course
    p_value: float


def drift_of(offsets: Sequence[float], *, draws: int = 2_000) -> Drift:
    """Slope of offsets over the course from 0 to 1, with a permutation test: no course, no drift."""
    values = np.asarray(offsets, dtype=np.float64)
    course = np.linspace(-0.5, 0.5, len(values))
    scale = float((course**2).sum())
    slope = float(course @ values) / scale
    generator = np.random.Generator(np.random.PCG64(1))
    shuffled = generator.permuted(np.tile(values, (draws, 1)), axis=1) @ course / scale
    p_value = (1 + int((np.abs(shuffled) >= abs(slope) - 1e-12).sum())) / (draws + 1)
    return Drift(slope, p_value)


def needed_items(scales: Sequence[Entry]) -> dict[str, Any]:
    """Questions that two models must both be rated on to find a difference of a third of a point, by dimension."""
    found: dict[str, Any] = {}
    models = sorted({entry["models"][0] for entry in scales})
    for name in DIMENSIONS:
        by_question: dict[str, dict[str, list[float]]] = {}
        for entry in scales:
            by_question.setdefault(entry["asked"], {}).setdefault(entry["models"][0], []).append(entry["scores"][name])
        for one, other in combinations(models, 2):
            both = [
                float(np.mean(group[one]) - np.mean(group[other]))
                for group in by_question.values()
                if one in group and other in group
            ]
            if len(both) >= 3:
                needed = agreement.items_for_difference(float(np.std(both, ddof=1)), _DIFFERENCE)
                found[f"{one} - {other}: {name}"] = {"questions": len(both), "needed": needed, "for": _DIFFERENCE}
    return found


def correlations(scales: Sequence[Entry]) -> dict[str, Any]:
    """Rank correlation of each automatic score of an answer with people's mean, by dimension: which to believe."""
    by_item: dict[str, list[Entry]] = {}
    for entry in scales:
        if entry.get("reference"):
            by_item.setdefault(entry["item"], []).append(entry)
    automatic = {
        item: automatic_scores(group[0]["answers"][0], group[0]["reference"]) for item, group in by_item.items()
    }
    found: dict[str, Any] = {}
    for metric in next(iter(automatic.values()), {}):
        for name in DIMENSIONS:
            people = [float(np.mean([entry["scores"][name] for entry in group])) for group in by_item.values()]
            result = agreement.rank_correlation([automatic[item][metric] for item in by_item], people)
            if result is not None:
                found.setdefault(metric, {})[name] = {
                    key: round(value, 4) if isinstance(value, float) else value
                    for key, value in result._asdict().items()
                }
    return found


def automatic_scores(answer: str, reference: str) -> dict[str, float]:
    """What a program says of one answer."""
    return {
        "bleu": float(sacrebleu.sentence_bleu(answer, [reference]).score),
        "chrf": float(sacrebleu.sentence_chrf(answer, [reference]).score),
        "token_f1": token_f1(answer, reference),
        "rouge_l": rouge_l(answer, reference),
        "length": float(len(answer)),
    }


def as_text(summary: dict[str, Any]) -> str:
    """The summary as a person reads it in a terminal."""
    lines: list[str] = []
    for kind, told in summary.items():
        lines.append(f"{kind}s: {told['ratings']} ratings by {len(told['raters'])} raters")
        lines += [
            f"  {line}" for part in (_models_told, _pairs_told, _raters_told, _advice_told) for line in part(told)
        ]
    return "\n".join(lines)


def _models_told(told: dict[str, Any]) -> list[str]:
    lines = []
    for model, dimensions in told.get("models", {}).items():
        means = ", ".join(f"{name} {_interval(mean)}" for name, mean in dimensions.items())
        lines.append(f"{model}: {means}")
    for name, values in told.get("agreement", {}).items():
        alpha, share = values["alpha_ordinal"], values["percent"]
        if alpha is not None and share is not None:
            lines.append(f"agreement on {name}: alpha {alpha:.3f} (ordinal), {share:.0%} of pairs equal")
    return lines


def _pairs_told(told: dict[str, Any]) -> list[str]:
    strengths = told.get("strengths", {})
    lines = [
        f"{model}: strength {value['strength']:+.2f} ({value['low']:+.2f} to {value['high']:+.2f})"
        for model, value in strengths.get("models", {}).items()
    ]
    for name, value in strengths.get("differences", {}).items():
        is_sure = value["low"] > 0 or value["high"] < 0
        first = name.partition(" - ")[0]
        lines.append(
            f"{name}: {value['difference']:+.2f} ({value['low']:+.2f} to {value['high']:+.2f}), "
            f"{first} is preferred in {value['win_rate']:.0%}" + ("" if is_sure else "; not settled")
        )
    if strengths.get("ties"):
        lines.append(f"ties: {strengths['ties']} of {strengths['choices']}, of them both bad: {strengths['both_bad']}")
    if strengths.get("prior"):
        lines.append("a model never won or never lost against the others: its strength leans on a weak prior")
    return lines


def _raters_told(told: dict[str, Any]) -> list[str]:
    lines = []
    for name, rater in told["raters"].items():
        shown = [f"{rater['ratings']} ratings"]
        shown += [f"checks passed {rater['checks_passed']}"] if "checks_passed" in rater else []
        shown += [f"same answer again {rater['self_agreement']:.0%}"] if "self_agreement" in rater else []
        shown += [f"offset {rater['offset']:+.2f}, drift {rater['drift']:+.2f}"] if "offset" in rater else []
        lines.append(f"rater {name}: {'; '.join([*shown, *rater['flags']])}")
    return lines


def _advice_told(told: dict[str, Any]) -> list[str]:
    """How many more judgements are needed, and which automatic scores go with people's."""
    lines = [
        f"to find {value['for']} points between {name}: {value['needed']} questions; {value['questions']} are judged"
        for name, value in told.get("needed", {}).items()
    ]
    needed = told.get("strengths", {}).get("choices_needed", {})
    if needed:
        shown = ", ".join(f"{number} for {float(rate):.0%}" for rate, number in needed.items())
        lines.append(f"choices needed to find a model that is preferred so often: {shown}")
    for metric, dimensions in told.get("correlations", {}).items():
        shown = ", ".join(
            f"{name} {value['spearman']:+.2f} ({value['low']:+.2f} to {value['high']:+.2f})"
            for name, value in dimensions.items()
        )
        lines.append(f"{metric} goes with people's {shown}")
    return lines


def _interval(mean: dict[str, Any]) -> str:
    if mean["low"] is None:
        return f"{mean['mean']:.2f}"
    return f"{mean['mean']:.2f} ({mean['low']:.2f} to {mean['high']:.2f})"
