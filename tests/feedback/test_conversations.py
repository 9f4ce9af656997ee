"""Conversations are read in the usual shapes, and every unsound record is named with its line."""

import json
from pathlib import Path

import pytest

from chatwright.feedback.conversations import MAX_LINE_BYTES, MAX_PROBLEMS_SHOWN, Message, read_conversations
from chatwright.foundation.errors import DataError

PAIR = (Message("user", "Hi?"), Message("assistant", "Hello."))


def lines_file(tmp_path: Path, *records: object) -> Path:
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def raw_file(tmp_path: Path, data: bytes, name: str = "talk.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def turns(*roles: str) -> dict[str, object]:
    return {"messages": [{"role": role, "content": f"turn {index}"} for index, role in enumerate(roles)]}


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_conversations(path)
    return str(caught.value)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]},
        {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}]},
        {"instruction": "Hi?", "input": "", "output": "Hello."},
        {"instruction": "Hi?", "output": "Hello."},
        {"prompt": "Hi?", "completion": "Hello."},
        {"question": "Hi?", "answer": "Hello."},
    ],
    ids=["openai", "sharegpt", "alpaca", "alpaca-without-input", "prompt-completion", "question-answer"],
)
def test_every_usual_shape_gives_the_same_conversation(tmp_path: Path, record: dict[str, object]) -> None:
    path = lines_file(tmp_path, record, record)

    first, second = read_conversations(path)

    assert first.messages == second.messages == PAIR
    assert (first.source, second.source) == (f"{path}:1", f"{path}:2")
    assert first.label is None


def test_an_alpaca_input_follows_its_instruction(tmp_path: Path) -> None:
    (talk,) = read_conversations(
        lines_file(tmp_path, {"instruction": "Shorten.", "input": "A long text.", "output": "Text."})
    )
    assert talk.messages[0].content == "Shorten.\n\nA long text."


def test_csv_of_a_spreadsheet_with_semicolons_and_capitals(tmp_path: Path) -> None:
    path = tmp_path / "tickets.csv"
    path.write_text('Question;Answer;Label\n"Where, please; is it?";Here, at last.;place\n', encoding="utf-8")
    (found,) = read_conversations(path)
    assert [message.content for message in found.messages] == ["Where, please; is it?", "Here, at last."]
    assert found.label == "place"


def test_csv_may_call_its_columns_prompt_and_completion(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,completion\nHow?,So.\n", encoding="utf-8")
    assert [message.content for message in read_conversations(path)[0].messages] == ["How?", "So."]


def test_csv_with_a_byte_order_mark_quotes_and_line_breaks(tmp_path: Path) -> None:
    header = b"\xef\xbb\xbfQuestion,Answer,policy\r\n"
    data = header + b'Hi?,Hello.,greet\r\n"Two\r\nlines, one comma","He said ""yes"".",\r\n\r\n'
    path = raw_file(tmp_path, data, "faq.csv")

    first, second = read_conversations(path)

    assert (first.messages, first.label, first.source) == (PAIR, "greet", f"{path}:2")
    assert second.messages == (Message("user", "Two\r\nlines, one comma"), Message("assistant", 'He said "yes".'))
    assert (second.label, second.source) == (None, f"{path}:3")


def test_a_system_turn_and_several_turns_are_kept(tmp_path: Path) -> None:
    talk, from_key = read_conversations(
        lines_file(
            tmp_path,
            turns("system", "user", "assistant", "user", "assistant"),
            {**turns("user", "assistant"), "system": "Be kind.", "policy": "p1"},
        )
    )
    assert [message.role for message in talk.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert from_key.messages[0] == Message("system", "Be kind.")
    assert from_key.label == "p1"


def test_blank_lines_and_a_missing_last_line_break_do_no_harm(tmp_path: Path) -> None:
    line = json.dumps({"question": "Hi?", "answer": "Hello."}).encode()
    path = raw_file(tmp_path, b"\xef\xbb\xbf" + line + b"\n\n  \n" + line)
    assert [talk.source for talk in read_conversations(path)] == [f"{path}:1", f"{path}:4"]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (turns("user", "user", "assistant"), "expected `assistant` as turn 2, met `user`"),
        (turns("assistant", "user"), "expected `user` as turn 1, met `assistant`"),
        (turns("user", "system", "assistant"), "expected `assistant` as turn 2, met `system`"),
        ({**turns("system", "user", "assistant"), "system": "Twice."}, "expected `user` as turn 2, met `system`"),
        (turns("user", "assistant", "user"), "last turn to be the assistant's"),
        (turns("system"), "at least one question and its answer"),
        ({"messages": []}, "at least one question and its answer"),
        ({"messages": "Hi"}, "expected an array for `messages`, met a string"),
        ({"messages": ["Hi"]}, "expected an object with `role` and `content` as turn 1, met a string"),
        (turns("user", "tool"), "`role` of turn 2 to be one of system, user, assistant, met `tool`"),
        ({"messages": [{"content": "Hi"}]}, "`role` of turn 1 to be one of system, user, assistant, met null"),
        ({"messages": [{"role": "user"}]}, "expected a string for `content` of turn 1, met null"),
        ({"messages": [{"role": "user", "content": "x", "weight": 0}]}, "expected turn 1 without `weight`"),
        ({"question": " \n", "answer": "x"}, "expected text for `question`, met an empty string"),
        ({"question": "x", "answer": 3}, "expected a string for `answer`, met a number"),
        ({"question": "x", "answer": True}, "expected a string for `answer`, met true"),
        ({"question": "x\0", "answer": "y"}, "expected text for `question`, met a NUL character"),
        ({"question": "x", "answer": "\ud800"}, "expected Unicode text for `answer`, met a lone surrogate"),
        ({"question": "x", "answer": "y", "label": ["a"]}, "expected a string for the label, met an array"),
        ({"text": "x"}, "expected the keys of one of the known shapes: `messages`; `conversations`;"),
        ([1], "expected one JSON object a line, met an array"),
    ],
)
def test_an_unsound_record_is_refused_with_what_was_expected(tmp_path: Path, record: object, expected: str) -> None:
    path = lines_file(tmp_path, record)
    message = refused(path)
    assert f"{path}:1: " in message
    assert expected in message


def test_all_problems_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    good = {"question": "Hi?", "answer": "Hello."}
    path = raw_file(
        tmp_path,
        b"\n".join([json.dumps(good).encode(), b"{", b'{"prompt": "a", "completion": "b"}', b"\xff\xfe", b"{}"]),
    )

    message = refused(path)

    assert f"`{path}` has 4 problems:" in message
    assert f"{path}:2: expected one JSON object a line" in message
    assert f"{path}:3: expected `question`, as the earlier lines have the shape question and answer" in message
    assert f"{path}:4: expected UTF-8" in message
    assert f"{path}:5: expected `question`" in message


def test_many_problems_are_shown_in_part_and_counted_in_full(tmp_path: Path) -> None:
    path = lines_file(tmp_path, *[{"question": "", "answer": "x"}] * 30)
    message = refused(path)
    assert "has 30 problems" in message
    assert message.count("expected text for `question`") == MAX_PROBLEMS_SHOWN
    assert "and 10 more" in message


def test_a_line_over_the_limit_is_named_and_the_lines_after_it_keep_their_numbers(tmp_path: Path) -> None:
    path = raw_file(tmp_path, b"x" * (2 * MAX_LINE_BYTES + 10) + b"\n{}\n")
    message = refused(path)
    assert f"{path}:1: the line is too long: expected at most {MAX_LINE_BYTES} bytes" in message
    assert f"{path}:2: expected the keys" in message


def test_a_line_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    frame = b'{"question": "%s", "answer": "y"}\n'
    path = raw_file(tmp_path, frame % (b"x" * (MAX_LINE_BYTES - len(frame) + 2)))
    assert path.stat().st_size == MAX_LINE_BYTES
    assert len(read_conversations(path)) == 1


def test_more_conversations_than_the_limit_are_refused(tmp_path: Path) -> None:
    path = lines_file(tmp_path, *[{"question": "Hi?", "answer": "Hello."}] * 4)
    assert len(read_conversations(path, max_conversations=4)) == 4
    with pytest.raises(DataError, match=r":4: more than 3 conversations"):
        read_conversations(path, max_conversations=3)


def test_nesting_that_would_exhaust_the_stack_is_a_problem_of_its_line(tmp_path: Path) -> None:
    assert ":1: expected one JSON object a line" in refused(raw_file(tmp_path, b"[" * 100_000))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"question|answer\na|b\n", ":1: expected a header with the columns `question` and `answer`"),
        (b"question,answer,answer\na,b,c\n", ":1: expected a header"),
        (b"question,answer\na,b\nc\n", ":3: expected 2 columns, met 1"),
        (b"question,answer\n,b\n", ":2: expected text for `question`"),
        (b'question,answer\na,b\n"c,d\n', ":3: expected sound CSV"),
        (b'question,answer\na,"b"c\n', ":2: expected sound CSV"),
        (b"question,answer\na,\xff\n", ":2: expected UTF-8"),
        (b"question,answer\n", ":1` is empty"),
    ],
)
def test_unsound_csv_is_refused_with_its_line(tmp_path: Path, data: bytes, expected: str) -> None:
    assert expected in refused(raw_file(tmp_path, data, "faq.csv"))


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["talk.jsonl", "faq.csv"])
def test_an_empty_file_is_refused(tmp_path: Path, data: bytes, name: str) -> None:
    assert "is empty: expected at least one conversation" in refused(raw_file(tmp_path, data, name))


def test_a_missing_file_and_a_directory_are_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        message = refused(path)
        assert f"`{path}` cannot be read" in message
        assert "next:" in message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", 'source\ttarget\nA "dog\tUn "chien\nA cat\tUn chat\n'),
        ("a.csv", 'source,target\n"A ""dog","Un ""chien"\nA cat,Un chat\n'),
        ("a.jsonl", '{"source": "A \\"dog", "target": "Un \\"chien"}\n{"source": "A cat", "target": "Un chat"}\n'),
    ],
)
def test_sentence_pairs_are_read_from_tables_and_lines(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    found = read_conversations(tmp_path / name)
    assert [[turn.content for turn in conversation.messages] for conversation in found] == [
        ['A "dog', 'Un "chien'],
        ["A cat", "Un chat"],
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "a.tsv",
            "source\ttarget\ttarget2\ttarget_3\tnote\nA dog\tUn chien\tLe chien\tUn chien\tx\nA cat\tUn chat\t\t\t\n",
        ),
        ("a.csv", "question,answer 2,answer\nA dog,Le chien,Un chien\nA cat,,Un chat\n"),
        (
            "a.jsonl",
            '{"prompt": "A dog", "completion": ["Un chien", "Le chien"]}\n{"prompt": "A cat", "completion": "Un chat"}\n',
        ),
    ],
)
def test_several_right_answers_are_read_and_the_first_is_the_turn(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    dog, cat = read_conversations(tmp_path / name)
    assert dog.references == ["Un chien", "Le chien"]
    assert dog.messages[-1].content == "Un chien"
    assert cat.references == ["Un chat"]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], "between 1 and 64 texts for `answer`, met 0"),
        (["a"] * 65, "between 1 and 64 texts for `answer`, met 65"),
        (["a", 1], "expected a string for text 2 of `answer`, met a number"),
        (["a", " "], "text 2 of `answer`, met an empty string"),
    ],
)
def test_unsound_lists_of_right_answers_are_refused(tmp_path, answers, expected):
    assert expected in refused(lines_file(tmp_path, {"question": "Hi?", "answer": answers}))


def test_further_right_answers_stand_beside_messages_and_are_held_to_the_same_rules(tmp_path):
    turns = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "At nine."}]
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"messages": turns, "more_references": ["Nine.", "At 9."]}) + "\n")
    (item,) = read_conversations(path)
    assert item.references == ["At nine.", "Nine.", "At 9."]
    path.write_text(json.dumps({"messages": turns, "more_references": ["Nine.", 9]}) + "\n")
    with pytest.raises(DataError, match="text 2 of `more_references`"):
        read_conversations(path)
