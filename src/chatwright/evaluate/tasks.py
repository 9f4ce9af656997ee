"""Own tasks from JSON Lines, without any code: multiple choice, exact answers, free text.

A line is one item, its keys say what it is:
`question` (asked as a chat turn) or `prompt` (continued as plain text), and one of
`choices` with `answer` (position from 0, or the choice itself), `answer` (a text or a list of texts, any of them
right), `references` (a text or a list: scored by overlap). `topic` groups items. Unknown keys are refused.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chatwright.evaluate.likelihood import Row, score_rows
from chatwright.evaluate.metrics import same, text_scores, token_f1
from chatwright.feedback.conversations import Message
from chatwright.foundation import storage
from chatwright.foundation.errors import DataError
from chatwright.model.chat import ChatModel
from chatwright.model.generation import GenerationRequest, Sampling

MAX_ITEMS = 1_000_000
MAX_PROBLEMS_SHOWN = 20
_KEYS = frozenset({"question", "prompt", "choices", "answer", "references", "topic", "id"})

Kind = Literal["choice", "exact", "text"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One item of a task."""

    id: str
    kind: Kind
    asked: str
    is_chat: bool  # asked as a turn, not continued as plain text
    choices: tuple[str, ...] = ()
    right: int = -1  # position of the right choice
    accepted: tuple[str, ...] = ()  # answers or references
    topic: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A file of items of one kind."""

    name: str
    digest: str
    kind: Kind
    items: tuple[Item, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a model made of one item."""

    item: Item
    answer: str
    score: float  # 1 or 0 where there is right and wrong, word overlap for free text
    score_per_byte: float | None = None  # of choices: right if likelihood is divided by the choice's bytes


def read_task(path: Path) -> Task:
    """Read a task.

    Raises:
        DataError: the file is missing or empty, or items are unsound or of several kinds; all problems are counted.
    """
    if not path.is_file():
        raise DataError(f"there is no task file `{path}`")
    items: list[Item] = []
    problems: list[str] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                items.append(_item(line, f"{path.name}:{number}"))
            except (ValueError, RecursionError) as error:
                problems.append(f"{path}:{number}: {error}")
            if len(items) > MAX_ITEMS:
                raise DataError(f"`{path}` has more than {MAX_ITEMS} items", hint="split the file")
    kinds = sorted({item.kind for item in items})
    if len(kinds) > 1:
        problems.append(f"{path}: items of one kind were expected, met {', '.join(kinds)}; make a file of each")
    if problems:
        shown = "\n".join(f"  - {problem}" for problem in problems[:MAX_PROBLEMS_SHOWN])
        raise DataError(f"`{path}` has {len(problems)} problems:\n{shown}", kept="nothing of the file was used")
    if not items:
        raise DataError(f"`{path}` has no item", hint='a line reads {"question": "...", "answer": "..."}')
    return Task(name=path.stem, digest=storage.digest_file(path), kind=items[0].kind, items=tuple(items))


def _item(line: bytes, where: str) -> Item:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("expected one JSON object a line")
    unknown = sorted(value.keys() - _KEYS)
    if unknown:
        raise ValueError(f"`{unknown[0]}` is not a known key; known: {', '.join(sorted(_KEYS))}")
    asked = [key for key in ("question", "prompt") if key in value]
    if len(asked) != 1 or not isinstance(value[asked[0]], str) or not value[asked[0]].strip():
        raise ValueError("expected either `question` or `prompt`, a text")
    head: dict[str, Any] = {
        "id": str(value.get("id", where)),
        "asked": value[asked[0]],
        "is_chat": asked[0] == "question",
        "topic": str(value.get("topic", "")),
    }
    if "choices" in value:
        choices = _texts(value["choices"], "choices", least=2)
        return Item(kind="choice", choices=choices, right=_right_choice(value.get("answer"), choices), **head)
    if ("answer" in value) == ("references" in value):
        raise ValueError("expected one of `answer` and `references`")
    key = "answer" if "answer" in value else "references"
    kind: Kind = "exact" if key == "answer" else "text"
    return Item(kind=kind, accepted=_texts(value[key], key, least=1), **head)


def _texts(value: Any, key: str, *, least: int) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or len(listed) < least or not all(isinstance(t, str) and t for t in listed):
        raise ValueError(f"`{key}` must be {least} or more texts that are not empty")
    return tuple(listed)


def _right_choice(answer: Any, choices: tuple[str, ...]) -> int:
    if isinstance(answer, str) and choices.count(answer) == 1:
        return choices.index(answer)
    if type(answer) is int and 0 <= answer < len(choices):
        return answer
    raise ValueError(f"`answer` must be one of the choices, or a position from 0 to {len(choices) - 1}: {answer!r}")


def run_task(model: ChatModel, task: Task, *, max_tokens: int) -> list[Outcome]:
    """Put every item to the model. Answers are greedy; a choice is the one with the highest likelihood.

    Raises:
        UsageError: an item does not fit the model's context.
    """
    if task.kind == "choice":
        return _choose(model, task.items)
    answers = _answers(model, task.items, max_tokens=max_tokens)
    pairs = zip(task.items, answers, strict=True)
    return [Outcome(item=item, answer=answer, score=_judge(item, answer)) for item, answer in pairs]


def _judge(item: Item, answer: str) -> float:
    if item.kind == "exact":
        return float(any(same(answer, right) for right in item.accepted))
    return max(token_f1(answer, reference) for reference in item.accepted)


def _prompt(model: ChatModel, item: Item) -> list[int]:
    if item.is_chat:
        return model.encoder.prompt([Message("user", item.asked)])
    return [model.tokenizer.begin_of_text, *model.tokenizer.encode(item.asked)]


def _choose(model: ChatModel, items: Sequence[Item]) -> list[Outcome]:
    rows = []
    for item in items:
        for choice in item.choices:
            prompt, ids = _continuation(model, item, choice)
            rows.append(Row([*prompt, *ids[:-1]], ids))
    scored = iter(score_rows(model.network, rows))
    outcomes = []
    for item in items:
        totals = [float(next(scored).logprobs.sum()) for _ in item.choices]
        per_byte = [total / len(choice.encode()) for total, choice in zip(totals, item.choices, strict=True)]
        best = max(range(len(totals)), key=totals.__getitem__)
        fairest = max(range(len(totals)), key=per_byte.__getitem__)
        outcomes.append(
            Outcome(
                item=item,
                answer=item.choices[best],
                score=float(best == item.right),
                score_per_byte=float(fairest == item.right),
            )
        )
    return outcomes


def _continuation(model: ChatModel, item: Item, choice: str) -> tuple[list[int], list[int]]:
    """What is read before a choice, and the ids that are scored.

    Plain text is encoded as one, for words may join: a space at the end of what was asked belongs to the choice's first
    word, as in lm-evaluation-harness. What is scored begins where the ids first differ from those of the question.
    """
    if item.is_chat:
        return _prompt(model, item), [*model.tokenizer.encode(choice), model.encoder.end]
    prompt = [model.tokenizer.begin_of_text, *model.tokenizer.encode(item.asked.rstrip())]
    whole = [model.tokenizer.begin_of_text, *model.tokenizer.encode(item.asked + choice)]
    differs = (place for place, (one, other) in enumerate(zip(prompt, whole, strict=False)) if one != other)
    shared = min(next(differs, len(prompt)), len(whole) - 1)
    return whole[:shared], whole[shared:]


def _answers(model: ChatModel, items: Sequence[Item], *, max_tokens: int) -> list[str]:
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
    end = frozenset({model.tokenizer.end_of_text})
    requests = [
        GenerationRequest(
            prompt=tuple(_prompt(model, item)),
            sampling=sampling,
            stop_ids=model.encoder.stop_ids() if item.is_chat else end,
        )
        for item in items
    ]
    return [written.text.strip() for (written,) in model.engine.run(requests)]


def task_figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The figures of a task, and the mean score of each topic."""
    first = outcomes[0].item.kind
    topics: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.item.topic:
            topics.setdefault(outcome.item.topic, []).append(outcome.score)
    mean = sum(outcome.score for outcome in outcomes) / len(outcomes)
    names = {"choice": "accuracy", "exact": "exact match", "text": "token F1"}
    figures: dict[str, Any] = {"items": len(outcomes), "metric": names[first], "value": round(mean, 6)}
    if first == "choice":
        figures["accuracy_per_byte"] = round(sum(o.score_per_byte or 0.0 for o in outcomes) / len(outcomes), 6)
        figures["chance"] = round(sum(1 / len(o.item.choices) for o in outcomes) / len(outcomes), 6)
    else:
        figures |= text_scores([o.answer for o in outcomes], [o.item.accepted for o in outcomes])
    figures["topics"] = {
        name: {"items": len(values), "value": round(sum(values) / len(values), 4)}
        for name, values in sorted(topics.items())
    }
    return figures
