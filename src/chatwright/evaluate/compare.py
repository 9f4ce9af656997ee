"""Models side by side: the same texts, answers and tasks, with the significance of every difference from the first."""

from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.evaluate.answers import ask
from chatwright.evaluate.metrics import paired_bootstrap, same, text_scores
from chatwright.evaluate.perplexity import Windows, by_domain, loss_difference, text_losses
from chatwright.evaluate.records import model_facts, new_record
from chatwright.evaluate.tasks import read_task, run_task, task_figures
from chatwright.evaluate.texts import read_texts
from chatwright.feedback.conversations import read_conversations
from chatwright.foundation.errors import UsageError
from chatwright.foundation.storage import digest_file, digest_json
from chatwright.model.chat import ChatModel

_SAMPLES = 20


class Compared(NamedTuple):
    """A model under its name in the comparison."""

    name: str
    model: ChatModel
    path: Path


class CompareOn(NamedTuple):
    """What models are compared on; any of them."""

    texts: Path | None = None
    answers: Path | None = None
    tasks: tuple[Path, ...] = ()
    max_tokens: int = 96
    beams: int = 1  # 1 for greedy answers
    split: str | None = None  # of a corpus directory


def compare(models: Sequence[Compared], on: CompareOn) -> dict[str, Any]:
    """Compare models, as a record whose model is the first.

    Raises:
        UsageError: fewer than two models, two of one name, or nothing to compare on.
    """
    if len(models) < 2 or len({model.name for model in models}) != len(models):
        raise UsageError("a comparison needs two models or more, each with a name of its own")
    if on.texts is None and on.answers is None and not on.tasks:
        raise UsageError("say what to compare on", hint="`--texts`, `--answers` or `--tasks`")
    result: dict[str, Any] = {"models": {model.name: model_facts(model.model, model.path) for model in models}}
    digests: dict[str, str] = {}
    if on.texts is not None:
        result["texts"], digests["texts"] = _on_texts(models, on.texts, split=on.split)
    if on.answers is not None:
        result["answers"] = _on_answers(models, on.answers, on)
        digests["answers"] = digest_file(on.answers)
    for path in on.tasks:
        task = read_task(path)
        digests[task.name] = task.digest
        outcomes = {m.name: run_task(m.model, task, max_tokens=on.max_tokens) for m in models}
        scores = {name: [outcome.score for outcome in listed] for name, listed in outcomes.items()}
        result.setdefault("tasks", {})[task.name] = {
            name: {**task_figures(listed), "p_value": sign_test(scores[models[0].name], scores[name])}
            for name, listed in outcomes.items()
        }
    paths = [str(path) for path in (on.texts, on.answers, *on.tasks) if path is not None]
    return new_record(
        "comparison",
        model=model_facts(models[0].model, models[0].path),
        data={"path": ",".join(paths), "digest": digest_json(digests)},
        settings={"split": on.split, "generation": {"temperature": 0, "beams": on.beams, "max_tokens": on.max_tokens}},
        result=result,
    )


def _on_texts(models: Sequence[Compared], path: Path, *, split: str | None) -> tuple[dict[str, Any], str]:
    texts = read_texts(path, split=split)
    losses = {m.name: text_losses(m.model, texts.texts, windows=Windows.of(m.model)) for m in models}
    first = losses[models[0].name]
    told = {}
    for name, measured in losses.items():
        found = loss_difference(first, measured)
        told[name] = {
            "domains": by_domain(measured),
            "difference": round(found.difference, 6),
            "difference_95": found.interval.rounded(6) if len(first) > 1 else None,  # one text cannot be resampled
            "p_value": None if name == models[0].name or len(first) < 2 else round(found.p_value, 5),
        }
    return told, texts.digest


def _on_answers(models: Sequence[Compared], path: Path, on: CompareOn) -> dict[str, Any]:
    conversations = read_conversations(path)
    given = {
        m.name: [a.answer for a in ask(m.model, conversations, max_tokens=on.max_tokens, beams=on.beams)]
        for m in models
    }
    references = [conversation.references for conversation in conversations]
    tested = paired_bootstrap(given, references)
    first = models[0].name
    exact = {name: _is_exact(listed, references) for name, listed in given.items()}
    told: dict[str, Any] = {
        name: {
            **text_scores(listed, references),
            "p_values": {metric: systems[name].p_value for metric, systems in tested.items()}
            | {"exact": sign_test(exact[first], exact[name])},
        }
        for name, listed in given.items()
    }
    different = [n for n in range(len(conversations)) if len({listed[n] for listed in given.values()}) > 1]
    told["side_by_side"] = [
        {
            "question": conversations[n].messages[-2].content,
            "reference": references[n][0],
            "answers": {name: listed[n] for name, listed in given.items()},
        }
        for n in different[:: max(1, len(different) // _SAMPLES)][:_SAMPLES]
    ]
    return told


def _is_exact(answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    pairs = zip(answers, references, strict=True)
    return [float(any(same(answer, right) for right in several)) for answer, several in pairs]


def sign_test(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Two-sided exact sign test on items where the scores differ (McNemar's, exact); None for a model and itself."""
    if first is second:
        return None
    better = sum(other > one for one, other in zip(first, second, strict=True))
    worse = sum(other < one for one, other in zip(first, second, strict=True))
    number = better + worse
    if number == 0:
        return 1.0
    tail = sum(comb(number, k) for k in range(min(better, worse) + 1))
    return float(min(1.0, 2 * tail / 2**number))
