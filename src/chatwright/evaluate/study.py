"""Items for people to judge: from the answers that a run's models gave, or from a file; with attention checks."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from chatwright.feedback.conversations import Message
from chatwright.feedback.study import FINISHES, StudyItem, in_one_text
from chatwright.foundation import storage
from chatwright.foundation.errors import DataError, UsageError
from chatwright.foundation.streams import Permutation, seed_for


def items_of_run(run: Path, *, count: int, as_pairs: bool, seed: int = 1) -> list[StudyItem]:
    """Test questions with the answers of the run's models, drawn at random.

    Args:
        run: a run with `evaluate/samples.json`.
        count: questions at most.
        as_pairs: two models' answers side by side, where they differ; otherwise each answer by itself.
        seed: of the draw.

    Raises:
        UsageError: the run has no answers, or pairs are asked for and only one model answered.
    """
    answered = _answers_of_run(run, least=2 if as_pairs else 1)
    size = min(len(answers) for answers in answered.values())
    order = Permutation(size, seed_for(seed, "rated questions"))
    items: list[StudyItem] = []
    for position in range(size):
        number = order[position]
        given = {name: answers[number] for name, answers in answered.items()}
        items += _pair(number, given) if as_pairs else _singles(number, given)
        if len(items) >= count:
            break
    return items[:count]


def _answers_of_run(run: Path, *, least: int) -> dict[str, list[dict[str, Any]]]:
    """The answers of each model, all to the same questions."""
    path = run / "evaluate" / "samples.json"
    if not path.is_file():
        raise UsageError(f"`{run}` has no answers to rate", hint="run its stage `evaluate` with test questions first")
    answered = {name: value["answers"] for name, value in storage.read_json(path).items() if value.get("answers")}
    if len(answered) < least:
        raise UsageError(f"`{run}` has answers of {len(answered)} models", hint="pairs need two, scales one")
    return answered


def _pair(number: int, given: dict[str, dict[str, Any]]) -> list[StudyItem]:
    """The first two models' answers side by side; none where they are the same."""
    (one, first), (other, second) = list(given.items())[:2]
    if first["answer"] == second["answer"]:
        return []
    answers, models = (first["answer"], second["answer"]), (one, other)
    ends = _finishes(first, second)
    return [StudyItem(id=f"q{number}", answers=answers, models=models, finishes=ends, **_question(first))]


def _singles(number: int, given: dict[str, dict[str, Any]]) -> list[StudyItem]:
    """Each model's answer by itself."""
    first = next(iter(given.values()))
    return [
        StudyItem(
            id=f"q{number}-{place}",
            answers=(item["answer"],),
            models=(name,),
            finishes=_finishes(item),
            reference=str(item.get("reference", "")),
            **_question(first),
        )
        for place, (name, item) in enumerate(given.items())
    ]


def _finishes(*given: dict[str, Any]) -> tuple[str, ...]:
    """How each answer ended; nothing where the run was evaluated by a version that did not note it."""
    return tuple(one["finish"] for one in given) if all("finish" in one for one in given) else ()


def _question(item: dict[str, Any]) -> dict[str, Any]:
    """What was asked, as raters read it and in its turns, and what it is about."""
    turns = tuple(Message(message["role"], message["content"]) for message in item["messages"])
    return {"asked": in_one_text(turns), "messages": turns, "topic": str(item.get("expected") or "")}


def items_of_file(path: Path) -> list[StudyItem]:
    """Items from JSON Lines: `asked`, `answers` (one or two) and `models`.

    A line may have `id`, `topic`, `check`, `reference`, and `finishes`: of each answer `stop`, or `length` where it was
    cut at its most tokens.

    Raises:
        DataError: a line that is no item, with its number, or a file that is no text.
    """
    items = []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"`{path}` is not UTF-8: byte {error.start} cannot be read") from error
    for number, line in enumerate(text.split("\n"), start=1):  # `splitlines` would cut at a text's own U+2028, too
        if not line.strip():
            continue
        try:
            items.append(_item(json.loads(line), f"item{number}"))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(f"`{path}:{number}` is no item: {error}") from error
    return items


def _item(value: Any, number: str) -> StudyItem:
    if not isinstance(value, dict) or not isinstance(value.get("asked"), str):
        raise ValueError("expected an object with `asked`, a text")
    answers, models = value["answers"], value["models"]
    for name, texts in (("answers", answers), ("models", models)):
        if not isinstance(texts, list) or len(texts) not in (1, 2) or not all(isinstance(t, str) for t in texts):
            raise ValueError(f"`{name}` must be one or two texts")
    finishes = value.get("finishes", [])
    if not isinstance(finishes, list) or not all(one in FINISHES for one in finishes):
        raise ValueError(f"`finishes` must be of {', '.join(FINISHES)}, one for each answer")
    return StudyItem(
        id=str(value.get("id", number)),
        asked=value["asked"],
        answers=tuple(answers),
        models=tuple(models),
        check=value.get("check"),
        topic=str(value.get("topic", "")),
        reference=str(value.get("reference", "")),
        finishes=tuple(finishes),
    )


def with_checks(items: list[StudyItem], *, count: int, seed: int = 1) -> list[StudyItem]:
    """The items and `count` attention checks among them: an answer whose words are shuffled.

    Whoever reads gives it a coherence of 2 at most, or prefers the answer as it was.
    """
    long_enough = [item for item in items if len(item.answers[0].split()) >= 6]
    checks = []
    for number, item in enumerate(long_enough[:count]):
        words = item.answers[0].split()
        shuffled = np.random.Generator(np.random.PCG64(seed_for(seed, "check", number))).permutation(words)
        broken = " ".join(str(word) for word in shuffled)
        if len(item.answers) == 1:
            answers: tuple[str, ...] = (broken,)
            models: tuple[str, ...] = ("(check)",)
            check: dict[str, Any] = {"at_most": {"coherence": 2}}
        else:
            answers, models, check = (broken, item.answers[0]), ("(check)", "(check)"), {"choice": "second"}
        checks.append(StudyItem(id=f"c{number}", asked=item.asked, answers=answers, models=models, check=check))
    return [*items, *checks]
