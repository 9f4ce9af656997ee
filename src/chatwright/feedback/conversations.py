"""Conversations as the system knows them: who said what, in order, and how to read them from files of the usual shapes.

Not for ratings, which `store` keeps, and not for turning turns into token ids, which the tuning stage does.
"""

import csv
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from chatwright.foundation.errors import DataError

MAX_LINE_BYTES = 1 << 20  # one conversation; a longer line is no conversation
MAX_CONVERSATIONS = 1_000_000  # all are held in memory
MAX_PROBLEMS_SHOWN = 20

Role = Literal["system", "user", "assistant"]

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_SHAREGPT_ROLES: dict[str, Role] = {**_ROLES, "human": "user", "gpt": "assistant"}
_LABEL_KEYS = ("label", "policy")
OUT_OF_SCOPE = "out-of-scope"  # the label of a question that the model is to decline
MORE_REFERENCES = "more_references"  # beside `messages`: further right answers
_MAX_REFERENCES = 64  # right answers of one question
# Keys of a message that would change what is learnt; dropping them quietly would train something else.
_UNSUPPORTED_KEYS = ("tool_calls", "function_call", "weight")


class Message(NamedTuple):
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """A sound conversation: an optional system turn, then user and assistant in turn, the assistant last."""

    messages: tuple[Message, ...]
    source: str  # `file:line`, so that whoever meets a difficulty later can name the sample
    label: str | None = None  # what the answer stands for, such as the policy of a help desk
    more_references: tuple[str, ...] = ()  # answers that would have been as right as the last turn; never learned

    @property
    def references(self) -> list[str]:
        """Every right answer to the last question, the conversation's own first."""
        return [self.messages[-1].content, *self.more_references]


class _RecordError(Exception):
    """What is wrong with one record; collected, never shown on its own."""


class _Problems:
    """Everything wrong with one file: the first ones in words, the rest as a count."""

    def __init__(self, path: Path):
        self._path = path
        self._shown: list[str] = []
        self._count = 0

    def add(self, line: int, text: str) -> None:
        self._count += 1
        if len(self._shown) < MAX_PROBLEMS_SHOWN:
            self._shown.append(f"  - {self._path}:{line}: {text}")

    def raise_if_any(self) -> None:
        if not self._count:
            return
        noun = "problem" if self._count == 1 else "problems"
        rest = self._count - len(self._shown)
        more = [f"  - and {rest} more"] if rest else []
        raise DataError(
            "\n".join([f"`{self._path}` has {self._count} {noun}:", *self._shown, *more]),
            kept="nothing of the file was used",
            hint="correct the lines, or leave them out",
        )


class _Shape(NamedTuple):
    """A layout of records that people use, recognised by the keys it cannot do without."""

    name: str
    keys: tuple[str, ...]
    turns: Callable[[dict[str, Any]], list[Message]]
    answer_key: str | None = None  # where the answer stands alone, and several right ones may stand in a list


def read_conversations(path: Path, *, max_conversations: int = MAX_CONVERSATIONS) -> list[Conversation]:
    """Read every conversation of a file: CSV or TSV if its name ends in `.csv` or `.tsv`, otherwise JSON Lines.

    JSON Lines hold one object a line in one of these shapes, the same for the whole file: `messages` with `role` and
    `content` (OpenAI), `conversations` with `from` and `value` (ShareGPT), `instruction`, `input`, `output` (Alpaca),
    `prompt` and `completion`, `question` and `answer`, `source` and `target` (sentence pairs). CSV and TSV have a
    header with the columns of one of the last three; CSV's may be parted by semicolons, TSV knows no quotes.
    `system` beside them becomes the first turn; `label` or `policy` becomes the label; other keys are passed over.
    Several right answers stand in a list in the answer's place, or in columns `answer2`, `answer3` (`target2` and so
    on): the first becomes the last turn. Beside `messages` and `conversations` the further ones stand in a list,
    `more_references`.

    Args:
        path: the file, UTF-8, with or without a byte order mark.
        max_conversations: refuse files with more.

    Raises:
        DataError: the file is missing or empty, or any record is unsound. All problems are counted, and the first
            ones named with file, line and what was expected; nothing is dropped quietly.
    """
    problems = _Problems(path)
    lines = _text_lines(path, problems)
    kind = path.suffix.lower()
    is_table = kind in (".csv", ".tsv")
    records = _table_records(lines, problems, is_tsv=kind == ".tsv") if is_table else _json_records(lines, problems)
    found: list[Conversation] = []
    try:
        for line, record, shape in records:
            if len(found) == max_conversations:
                problems.add(line, f"more than {max_conversations} conversations; split the file")
                break
            try:
                found.append(_conversation(record, shape, f"{path}:{line}"))
            except _RecordError as error:
                problems.add(line, str(error))
    except OSError as error:
        raise DataError(
            f"`{path}` cannot be read: {error.strerror}", hint="give a file in JSON Lines or CSV with conversations"
        ) from error
    problems.raise_if_any()
    if not found:
        raise DataError(f"`{path}:1` is empty: expected at least one conversation", hint="check how the file was made")
    return found


def _text_lines(path: Path, problems: _Problems) -> Iterator[str]:
    """Lines of UTF-8 text. One that is too long or not UTF-8 is noted and comes as blank: the numbers stay right."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                problems.add(number, f"the line is too long: expected at most {MAX_LINE_BYTES} bytes")
                while raw and not raw.endswith(b"\n"):
                    raw = file.readline(MAX_LINE_BYTES)
                yield "\n"
                continue
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                met = f"met {error.reason} at byte {error.start + 1} of the line"
                problems.add(number, f"expected UTF-8 (as which spreadsheets and editors can save), {met}")
                yield "\n"


def _json_records(lines: Iterator[str], problems: _Problems) -> Iterator[tuple[int, dict[str, Any], _Shape]]:
    """Objects with their line number and the shape of the file, which the first recognised object decides."""
    shape: _Shape | None = None
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            problems.add(number, f"expected one JSON object a line: {error}")
            continue
        if not isinstance(record, dict):
            problems.add(number, f"expected one JSON object a line, met {_kind(record)}")
            continue
        known = shape or next((shape for shape in _SHAPES if all(key in record for key in shape.keys)), None)
        if known is None:
            expected = "; ".join(" and ".join(f"`{key}`" for key in shape.keys) for shape in _SHAPES)
            problems.add(number, f"expected the keys of one of the known shapes: {expected}")
            continue
        shape = known
        missing = [key for key in shape.keys if key not in record]
        if missing:
            problems.add(number, f"expected `{missing[0]}`, as the earlier lines have the shape {shape.name}")
            continue
        yield number, record, shape


def _table_records(
    lines: Iterator[str], problems: _Problems, *, is_tsv: bool
) -> Iterator[tuple[int, dict[str, Any], _Shape]]:
    """Rows with the number of the line on which each begins; a field in quotes may run over several lines."""
    first = next(lines, "")
    lines = itertools.chain([first], lines)
    if is_tsv:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:  # spreadsheets of countries with a decimal comma part their columns by semicolons
        reader = csv.reader(lines, delimiter=";" if first.count(";") > first.count(",") else ",", strict=True)
    shape = _QUESTION_ANSWER
    header: list[str] | None = None
    began = 1
    try:
        for row in reader:
            line, began = began, reader.line_num + 1
            if not row:
                continue
            if header is None:
                header = [name.strip().lower() for name in row]
                shape = next((known for known in _TABLE_SHAPES if set(known.keys) <= set(header)), shape)
                if not set(shape.keys) <= set(header) or len(set(header)) != len(header):
                    met = ", ".join(f"`{name}`" for name in header)[:200]
                    problems.add(
                        line, f"expected a header with the columns `question` and `answer`, each once, met {met}"
                    )
                    return
            elif len(row) != len(header):
                problems.add(line, f"expected {len(header)} columns, met {len(row)}")
            else:
                yield line, _row_record(dict(zip(header, row, strict=True)), shape), shape
    except csv.Error as error:
        problems.add(began, f"expected sound CSV: {error}; the rest of the file was not read")


def _row_record(cells: dict[str, str], shape: _Shape) -> dict[str, Any]:
    """An empty cell is how a table says "none"; only the question and the answer must be there."""
    answer = shape.keys[-1]
    numbered = re.compile(rf"{answer}[ _]?\d{{1,3}}")
    more = [cell for name, cell in cells.items() if cell and numbered.fullmatch(name)]
    record: dict[str, Any] = {name: cell for name, cell in cells.items() if cell or name in shape.keys}
    return {**record, answer: [record[answer], *more]} if more else record


def _conversation(record: dict[str, Any], shape: _Shape, source: str) -> Conversation:
    """Make one conversation and hold it to the rules.

    Raises:
        _RecordError: with what was expected.
    """
    more: list[str] = []
    if shape.answer_key is not None:
        right, *more = _right_answers(record, shape.answer_key)
        record = {**record, shape.answer_key: right}
    elif record.get(MORE_REFERENCES) not in (None, []):
        more = _right_answers(record, MORE_REFERENCES)
    messages = shape.turns(record)
    if record.get("system") not in (None, ""):
        messages.insert(0, Message("system", _text(record["system"], "`system`")))
    _check_order(messages)
    label = next((record[key] for key in _LABEL_KEYS if record.get(key) is not None), None)
    return Conversation(
        messages=tuple(messages),
        source=source,
        label=None if label is None else _text(label, "the label"),
        more_references=tuple(more),
    )


def _right_answers(record: dict[str, Any], key: str) -> list[str]:
    """What stands under `key`: one text, or a list of texts that are all right, each once."""
    several = record[key] if isinstance(record[key], list) else [record[key]]
    if not 1 <= len(several) <= _MAX_REFERENCES:
        raise _RecordError(f"expected between 1 and {_MAX_REFERENCES} texts for `{key}`, met {len(several)}")
    names = (
        [f"`{key}`"] if len(several) == 1 else [f"text {number} of `{key}`" for number in range(1, len(several) + 1)]
    )
    return list(dict.fromkeys(_text(text, name) for text, name in zip(several, names, strict=True)))


def _check_order(messages: list[Message]) -> None:
    """An optional system turn, then user and assistant in turn, the assistant last."""
    turns = [message.role for message in messages]
    first = 1 if turns[:1] == ["system"] else 0
    for position in range(first, len(turns)):
        expected = "assistant" if (position - first) % 2 else "user"
        if turns[position] != expected:
            raise _RecordError(f"expected `{expected}` as turn {position + 1}, met `{turns[position]}`")
    if len(turns) == first:
        raise _RecordError("expected at least one question and its answer, met no turn of a user")
    if turns[-1] != "assistant":
        raise _RecordError("expected the last turn to be the assistant's, met `user`: there is no answer to learn")


def _text(value: Any, where: str) -> str:
    """A string that has something in it and that UTF-8 can carry."""
    if not isinstance(value, str):
        raise _RecordError(f"expected a string for {where}, met {_kind(value)}")
    if not value.strip():
        raise _RecordError(f"expected text for {where}, met an empty string")
    if "\0" in value:
        raise _RecordError(f"expected text for {where}, met a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _RecordError(f"expected Unicode text for {where}, met a lone surrogate")
    return value


def _kind(value: Any) -> str:
    """The kind of a JSON value, as JSON names it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names = (("an object", dict), ("an array", list), ("a string", str))
    return next((name for name, kind in names if isinstance(value, kind)), "a number")


def _turns(record: dict[str, Any], key: str, *, role_key: str, text_key: str, roles: dict[str, Role]) -> list[Message]:
    """Turns from a list of objects that have a role and a text."""
    entries = record[key]
    if not isinstance(entries, list):
        raise _RecordError(f"expected an array for `{key}`, met {_kind(entries)}")
    messages = []
    for position, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise _RecordError(
                f"expected an object with `{role_key}` and `{text_key}` as turn {position}, met {_kind(entry)}"
            )
        unsupported = next((name for name in _UNSUPPORTED_KEYS if entry.get(name) is not None), None)
        if unsupported:
            raise _RecordError(f"expected turn {position} without `{unsupported}`, which is not supported")
        role = entry.get(role_key)
        if not isinstance(role, str) or role not in roles:
            met = f"`{role[:40]}`" if isinstance(role, str) else _kind(role)
            raise _RecordError(f"expected `{role_key}` of turn {position} to be one of {', '.join(roles)}, met {met}")
        messages.append(Message(roles[role], _text(entry.get(text_key), f"`{text_key}` of turn {position}")))
    return messages


def _openai(record: dict[str, Any]) -> list[Message]:
    return _turns(record, "messages", role_key="role", text_key="content", roles=_ROLES)


def _sharegpt(record: dict[str, Any]) -> list[Message]:
    return _turns(record, "conversations", role_key="from", text_key="value", roles=_SHAREGPT_ROLES)


def _alpaca(record: dict[str, Any]) -> list[Message]:
    """The input, where there is one, follows the instruction after an empty line."""
    question = _text(record["instruction"], "`instruction`")
    if record.get("input") not in (None, ""):
        question += "\n\n" + _text(record["input"], "`input`")
    return [Message("user", question), Message("assistant", _text(record["output"], "`output`"))]


def _pair(record: dict[str, Any], *, question: str, answer: str) -> list[Message]:
    asked, answered = _text(record[question], f"`{question}`"), _text(record[answer], f"`{answer}`")
    return [Message("user", asked), Message("assistant", answered)]


def _pair_shape(question: str, answer: str) -> _Shape:
    turns = functools.partial(_pair, question=question, answer=answer)
    return _Shape(f"{question} and {answer}", (question, answer), turns, answer)


_QUESTION_ANSWER = _pair_shape("question", "answer")
_SOURCE_TARGET = _pair_shape("source", "target")
_PROMPT_COMPLETION = _pair_shape("prompt", "completion")
_TABLE_SHAPES = (_QUESTION_ANSWER, _PROMPT_COMPLETION, _SOURCE_TARGET)
# In order of how much they can say: a record with both `messages` and `prompt` is read as messages.
_SHAPES = (
    _Shape("messages", ("messages",), _openai),
    _Shape("ShareGPT", ("conversations",), _sharegpt),
    _Shape("Alpaca", ("instruction", "output"), _alpaca, "output"),
    _PROMPT_COMPLETION,
    _QUESTION_ANSWER,
    _SOURCE_TARGET,
)
