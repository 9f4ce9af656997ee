"""The first part of the page: what was made, of what, and how good it is."""

from collections.abc import Callable, Sequence
from typing import Any

from chatwright.foundation.console import duration
from chatwright.recipe.report import improving
from chatwright.recipe.report import markup as html
from chatwright.recipe.report.facts import MODEL_NAMES, RunFacts, key_figures
from chatwright.recipe.report.models import FAMILIES, base_of, shape_of

NONE_HELD_OUT = "No document was held out, so bits per byte and perplexity are not measured."


def summary_section(run: RunFacts) -> html.Section:
    """What was made, from what, and the three numbers that matter most."""
    cards = html.element("ul", *_cards(run)[:3], class_="cards")
    seconds = sum(stage.seconds for stage in run.stages.values())
    peak = max(stage.peak_memory_bytes for stage in run.stages.values())
    cost = f"All stages together took {duration(seconds)}" + (
        f" and at most {html.size(peak)} of memory." if peak else "."
    )
    unmeasured = html.note(NONE_HELD_OUT) if run.has_nothing_held_out else None
    lead = html.element("p", _made(run), class_="lead")
    return html.Section("summary", "Summary", html.join([lead, cards, unmeasured, html.paragraph(cost)]))


def _made(run: RunFacts) -> str:
    """A few sentences: what was made and from what."""
    figures, pretrain, finetune = key_figures(run), run.summary("pretrain"), run.summary("finetune")
    sentences = []
    if "documents" in figures:
        amount = f" of {html.size(figures['corpus_bytes'])}" if figures.get("corpus_bytes") else ""
        sentences.append(f"From {html.count(figures['documents'])} documents{amount}")
    if pretrain:
        begin = f"{sentences.pop()}, a" if sentences else "A"
        tokens = html.short_count(pretrain.get("target_tokens", 0))
        passes = f" ({pretrain['epochs']:.3g} passes over the corpus)" if pretrain.get("epochs") else ""
        size_of = html.short_count(pretrain.get("parameters", 0))
        sentences.append(
            f"{begin} model of {size_of} parameters{_kind(run, 'pretrain')} learned from {tokens} tokens{passes}"
        )
    if finetune:
        share = f"{html.percent(finetune.get('share'))} of its parameters trained"
        how = f"by low-rank updates, {share}" if finetune.get("method") == "lora" else share
        size_of = html.short_count(finetune.get("total", 0))
        whose = "it" if pretrain else f"a base model of {size_of} parameters{_kind(run, 'finetune')}"
        tokens = html.short_count(finetune.get("target_tokens", 0))
        sentences.append(f"Then {whose} was fine-tuned on conversations: {tokens} target tokens, {how}")
    sentences += improving.sentences(run)
    return "".join(f"{sentence}. " for sentence in sentences).strip() or "Nothing but the first stages is done."


def _kind(run: RunFacts, stage: str) -> str:
    """The shape that a stage's model was saved in, and the base that it began from, as a part of a sentence."""
    shape, base = shape_of(run.stages[stage]), base_of(run, stage)
    kind = "" if shape is None else f" in the {FAMILIES[shape.family]} shape"
    if base is None:
        return kind
    return f"{kind}, begun from the base `{base.name}`," if stage == "pretrain" else f"{kind}, `{base.name}`,"


def _answer_card(answers: dict[str, Any], best: str) -> list[html.Html]:
    """Right answers where labels tell which one was meant, else answers that are the reference letter by letter."""
    name = next((name for name in ("right", "exact") if name in answers[best]), None)
    if name is None:
        return []
    others = [other for other in reversed(MODEL_NAMES) if other != best and name in answers.get(other, {})]
    beside = "".join(f"; {MODEL_NAMES[other]} {html.percent(answers[other][name])}" for other in others)
    whose = f" by the {MODEL_NAMES[best]}" if best in ("align", "distill") else ""
    has_bleu = name == "exact" and "bleu" in answers[best]
    bleu = f"; BLEU {html.decimal(answers[best]['bleu'], digits=1)}" if has_bleu else ""
    sure = _interval(answers[best].get(f"{name}_95"), html.percent)
    meaning = f"of {html.count(answers[best]['questions'])} test questions{whose}{sure}{beside}{bleu}"
    return [_card(f"{name.capitalize()} answers", html.percent(answers[best][name]), meaning)]


def _cards(run: RunFacts) -> list[html.Html]:
    """Cards in the order of their weight; a run shows the first that it has."""
    figures = key_figures(run)
    answers, bits = figures.get("answers", {}), figures.get("heldout_bits_per_byte", {})
    best = run.chat_model(answers)
    cards = []
    if best is not None:
        cards += _answer_card(answers, best)
    if bits:
        name = next(iter(bits))
        cards.append(
            _card("Bits per byte", html.decimal(bits[name]), _bits_meaning(run, name, figures.get("baselines") or {}))
        )
    if "forgotten_bits_per_byte" in figures:
        meaning = "bits per byte on the base's held-out documents, after fine-tuning against before; lower is better"
        cards.append(_card("Forgotten", html.decimal(figures["forgotten_bits_per_byte"], signed=True), meaning))
    if "trained_tokens" in figures:
        cards.append(_card("Trained on", html.short_count(figures["trained_tokens"]), "tokens in pretraining"))
    if "documents" in figures:
        cards.append(_card("Documents", html.count(figures["documents"]), "kept after cleaning"))
    return cards


def _bits_meaning(run: RunFacts, name: str, baselines: dict[str, Any]) -> str:
    where = "held-out documents" if run.models else "a sample of held-out documents"
    beside = [f"{label} {html.decimal(baselines[key])}" for key, label in BASELINES.items() if key in baselines]
    sure = _interval(key_figures(run).get("heldout_bits_per_byte_95", {}).get(name), html.decimal)
    return f"{MODEL_NAMES[name]} on {where}{sure}" + (f"; {', '.join(beside)}" if beside else "") + "; lower is better"


def _interval(ends: Sequence[float] | None, show: Callable[[float | None], str]) -> str:
    return f"; 95% interval {show(ends[0])} to {show(ends[1])}" if ends else ""


BASELINES = {"byte_trigram": "byte trigrams", "xz_9e": "xz -9e"}


def _card(label: str, value: str, meaning: str) -> html.Html:
    return html.element(
        "li", html.element("span", label), html.element("strong", value), html.element("small", meaning), class_="card"
    )


def heldout_note(run: RunFacts) -> str:
    """How held-out figures were measured, for the notes below them."""
    if run.has_nothing_held_out:
        return f"{run.name}: {NONE_HELD_OUT}"
    if not run.models:
        return "Measured on a sample of held-out documents during training."
    share = (
        ((run.stages["evaluate"].config.get("evaluate") or {}).get("stride_share"))
        if "evaluate" in run.stages
        else None
    )
    step = f", windows that move on by {html.percent(share, digits=0)} of the context" if share else ""
    return f"All held-out documents, each from its own beginning, every token counted once{step}."
