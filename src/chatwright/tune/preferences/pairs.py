"""Preferences as data: pairs of answers, and single answers with a thumb; read from and written to JSON Lines.

Not for making them of people's feedback (harvest.py), and not for token ids (source.py).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.feedback.conversations import Message, Role
from chatwright.foundation import storage
from chatwright.foundation.errors import DataError

MAX_LINE_BYTES = 1 << 20
MAX_ROWS = 1_000_000  # all are held in memory
MAX_PROBLEMS_SHOWN = 20
_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
_PROMPT_KEYS = ("prompt", "question", "instruction")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two answers to the same conversation, the better one named."""

    messages: tuple[Message, ...]  # up to what the user said last
    chosen: str
    rejected: str
    weight: float = 1.0
    origin: str = "file"  # what it was made of: a choice, an edit, ratings, thumbs
    source: str = ""  # `file:line`, or the answers' ids


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One answer, and whether it was good: what a thumb says."""

    messages: tuple[Message, ...]
    answer: str
    is_good: bool
    weight: float = 1.0
    origin: str = "file"
    source: str = ""


class Preferences(NamedTuple):
    """Both kinds."""

    pairs: list[Pair]
    verdicts: list[Verdict]

    def conversations(self) -> list[tuple[Message, ...]]:
        """What was asked, of each."""
        return [pair.messages for pair in self.pairs] + [verdict.messages for verdict in self.verdicts]

    def as_verdicts(self) -> list[Verdict]:
        """All as single answers: a pair is a good one and a bad one."""
        both = [
            Verdict(messages=p.messages, answer=text, is_good=good, weight=p.weight, origin=p.origin, source=p.source)
            for p in self.pairs
            for text, good in ((p.chosen, True), (p.rejected, False))
        ]
        return [*self.verdicts, *both]


class _RecordError(Exception):
    """What is wrong with one record; collected, never shown on its own."""


def read_preferences(path: Path, *, max_rows: int = MAX_ROWS) -> Preferences:
    """Read pairs and verdicts from JSON Lines, one object a line; the shapes may be mixed.

    A pair has `chosen` and `rejected`: texts with a `prompt` (or `question`, or `instruction` with `input`), which is a
    text or a list of messages; or lists of messages that end with the two answers and share what comes before. A
    verdict has `prompt`, `completion` and a `label` that is true or false. `system` and `weight` may stand beside them.

    Args:
        path: the file, UTF-8.
        max_rows: refuse files with more.

    Raises:
        DataError: the file is missing or empty, or any record is unsound; all problems are counted, the first named.
    """
    problems: list[str] = []
    pairs: list[Pair] = []
    verdicts: list[Verdict] = []
    try:
        for number, raw in _lines(path):
            if len(pairs) + len(verdicts) == max_rows:
                problems.append(f"{path}:{number}: more than {max_rows} rows; split the file")
                break
            try:
                row = _row(_object(raw), f"{path}:{number}")
            except _RecordError as error:
                problems.append(f"{path}:{number}: {error}")
                continue
            if isinstance(row, Pair):
                pairs.append(row)
            else:
                verdicts.append(row)
    except OSError as error:
        raise DataError(f"`{path}` cannot be read: {error.strerror}", hint="give preferences as JSON Lines") from error
    if problems:
        raise _unsound(path, problems)
    if not pairs and not verdicts:
        raise DataError(f"`{path}` is empty: expected at least one pair or verdict", hint="check how it was made")
    return Preferences(pairs, verdicts)


def _unsound(path: Path, problems: list[str]) -> DataError:
    rest = len(problems) - MAX_PROBLEMS_SHOWN
    shown = [f"  - {text}" for text in problems[:MAX_PROBLEMS_SHOWN]] + ([f"  - and {rest} more"] if rest > 0 else [])
    return DataError(
        "\n".join([f"`{path}` has {len(problems)} problem{'s' * (len(problems) > 1)}:", *shown]),
        kept="nothing of the file was used",
        hint="correct the lines, or leave them out",
    )


def write_preferences(path: Path, preferences: Preferences) -> None:
    """Write JSON Lines that `read_preferences` and TRL read: `prompt` as messages, answers as lists of one message."""
    with storage.publish_file(path) as scratch, scratch.open("w", encoding="utf-8") as file:
        for record in as_records(preferences):
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def as_records(preferences: Preferences) -> Iterator[dict[str, Any]]:
    """Each pair and verdict as plain JSON."""
    for pair in preferences.pairs:
        yield {
            "prompt": _plain(pair.messages),
            "chosen": _plain([Message("assistant", pair.chosen)]),
            "rejected": _plain([Message("assistant", pair.rejected)]),
            **_notes(pair),
        }
    for verdict in preferences.verdicts:
        yield {
            "prompt": _plain(verdict.messages),
            "completion": _plain([Message("assistant", verdict.answer)]),
            "label": verdict.is_good,
            **_notes(verdict),
        }


def _notes(row: Pair | Verdict) -> dict[str, Any]:
    return {"weight": row.weight, "origin": row.origin, "source": row.source}


def _plain(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [dict(message._asdict()) for message in messages]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, blank ones left out; one that is too long comes cut, and is then refused."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            rest = raw
            while len(raw) > MAX_LINE_BYTES and rest and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE_BYTES)
            if raw.strip():
                yield number, raw


def _object(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_LINE_BYTES:
        raise _RecordError(f"the line is too long: expected at most {MAX_LINE_BYTES} bytes")
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _RecordError(f"expected one JSON object a line: {error}") from error
    if not isinstance(value, dict):
        raise _RecordError("expected one JSON object a line")
    return value


def _row(record: dict[str, Any], source: str) -> Pair | Verdict:
    prompt = _prompt(record)
    notes: dict[str, Any] = {"weight": _weight(record), "source": source}
    if isinstance(record.get("origin"), str):
        notes["origin"] = record["origin"]
    if "chosen" in record and "rejected" in record:
        (before, chosen), (other, rejected) = (_answer(record[key], key) for key in ("chosen", "rejected"))
        if before != other:
            raise _RecordError("expected `chosen` and `rejected` to answer the same messages")
        if chosen.strip() == rejected.strip():
            raise _RecordError("expected two different answers, met the same one twice")
        return Pair(messages=_whole(prompt, before), chosen=chosen, rejected=rejected, **notes)
    if "completion" in record and "label" in record:
        before, answer = _answer(record["completion"], "completion")
        if not isinstance(record["label"], bool):
            raise _RecordError("expected `label` to be true or false")
        return Verdict(messages=_whole(prompt, before), answer=answer, is_good=record["label"], **notes)
    raise _RecordError("expected `chosen` and `rejected`, or `completion` and `label`")


def in_turn(messages: Sequence[Message]) -> bool:
    """Whether user and assistant speak in turn, after a system turn if there is one, and the user last."""
    roles = [message.role for message in messages]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    return len(spoken) % 2 == 1 and spoken == [("user", "assistant")[place % 2] for place in range(len(spoken))]


def _whole(prompt: list[Message], before: list[Message]) -> tuple[Message, ...]:
    """The conversation before the answer; where both say it, as in some published sets, it stands once."""
    if prompt and before and before[-len(prompt) :] != prompt:
        raise _RecordError("expected the messages before the answers to end with `prompt`")
    messages = before or prompt
    if not in_turn(messages):
        raise _RecordError("expected user and assistant in turn before the answer, the user last")
    return tuple(messages)


def _prompt(record: dict[str, Any]) -> list[Message]:
    key = next((key for key in _PROMPT_KEYS if record.get(key) not in (None, "", [])), None)
    if key is None:
        return []
    value = record[key]
    if isinstance(value, list):
        messages = _messages(value, key)
    else:
        text = _text(value, key)
        if key == "instruction" and record.get("input") not in (None, ""):
            text += "\n\n" + _text(record["input"], "input")
        messages = [Message("user", text)]
    if record.get("system") not in (None, "") and messages[0].role != "system":
        messages.insert(0, Message("system", _text(record["system"], "system")))
    return messages


class _Answered(NamedTuple):
    before: list[Message]
    answer: str


def _answer(value: Any, key: str) -> _Answered:
    """An answer, and the messages that stand before it in the same list."""
    if not isinstance(value, list | dict):
        return _Answered([], _text(value, key))
    messages = _messages(value if isinstance(value, list) else [value], key)
    if messages[-1].role != "assistant":
        raise _RecordError(f"expected `{key}` to end with the assistant's message")
    return _Answered(messages[:-1], messages[-1].content)


def _messages(value: list[Any], key: str) -> list[Message]:
    messages = []
    for entry in value:
        role, content = (
            (entry.get("role", entry.get("from")), entry.get("content", entry.get("value")))
            if isinstance(entry, dict)
            else (None, None)
        )
        if not isinstance(role, str) or role not in _ROLES:
            raise _RecordError(f"expected messages with `role` and `content` in `{key}`")
        messages.append(Message(_ROLES[role], _text(content, key)))
    if not messages:
        raise _RecordError(f"expected at least one message in `{key}`")
    return messages


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _RecordError(f"expected text for `{key}`")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise _RecordError(f"expected sound Unicode without NUL for `{key}`")
    return value


def _weight(record: dict[str, Any]) -> float:
    value = record.get("weight", 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise _RecordError("expected `weight` to be a number above 0")
    return float(value)
