"""Own tasks: three kinds of item from JSON Lines, scored as anyone can check, every unsound line named."""

import json

import pytest

from chatwright.evaluate.likelihood import Row, score_rows
from chatwright.evaluate.measure import measure_tasks
from chatwright.evaluate.tasks import _continuation, read_task, run_task, task_figures
from chatwright.feedback.conversations import Message
from chatwright.foundation.errors import DataError, UsageError


def write(path, *items):
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


CHOICES = [
    {"prompt": "The ferry leaves at", "choices": [" nine", " the", " zwölf Minuten"], "answer": 0, "topic": "ferry"},
    {"prompt": "Tickets are sold on", "choices": [" board", " Monday"], "answer": " board", "topic": "tickets"},
    {"prompt": "Children ride", "choices": [" free", " 18:00"], "answer": 1, "topic": "tickets"},
]


def test_the_chosen_answer_is_the_likeliest_by_a_plain_computation(tmp_path, tiny_model):
    task = read_task(write(tmp_path / "ferry.jsonl", *CHOICES))
    outcomes = run_task(tiny_model, task, max_tokens=4)
    encode = tiny_model.tokenizer.encode
    for item, outcome in zip(CHOICES, outcomes, strict=True):
        totals = []
        for choice in item["choices"]:
            before, whole = encode(item["prompt"]), encode(item["prompt"] + choice)
            ids = whole[len(before) :]
            row = Row([tiny_model.tokenizer.begin_of_text, *before, *ids[:-1]], ids)
            totals.append(float(score_rows(tiny_model.network, [row])[0].logprobs.sum()))
        best = item["choices"][totals.index(max(totals))]
        right = item["choices"][item["answer"]] if isinstance(item["answer"], int) else item["answer"]
        assert outcome.answer == best
        assert outcome.score == float(best == right)
    figures = task_figures(outcomes)
    assert figures["value"] == pytest.approx(sum(outcome.score for outcome in outcomes) / 3, abs=1e-5)
    assert figures["chance"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3, abs=1e-5)
    assert figures["topics"]["tickets"]["items"] == 2


def test_a_space_at_the_end_of_a_prompt_belongs_to_the_first_word_of_a_choice(tmp_path, tiny_model):
    choices = ["nine", "the", "zwölf Minuten"]
    spaced = {"prompt": "The ferry leaves at ", "choices": choices, "answer": 0}
    joined = {"prompt": "The ferry leaves at", "choices": [f" {choice}" for choice in choices], "answer": 0}
    items = read_task(write(tmp_path / "ferry.jsonl", spaced, joined)).items
    found = [[_continuation(tiny_model, item, choice) for choice in item.choices] for item in items]
    assert found[0] == found[1]
    for choice, (prompt, ids) in zip(choices, found[0], strict=True):
        whole = tiny_model.tokenizer.encode(f"The ferry leaves at {choice}")
        assert [*prompt, *ids] == [tiny_model.tokenizer.begin_of_text, *whole]
        assert tiny_model.tokenizer.decode(ids) == f" {choice}"


def test_answers_and_free_text_are_asked_as_turns_and_scored(tmp_path, tiny_model):
    given = tiny_model.answers([[Message("user", "Hello")]], max_tokens=5)[0]
    exact = write(tmp_path / "exact.jsonl", {"question": "Hello", "answer": ["no", given or "x"]}, {"question": "Hello", "answer": "other"})  # fmt: skip
    free = write(tmp_path / "free.jsonl", {"question": "Hello", "references": f"{given} indeed"})
    record = measure_tasks(tiny_model, [str(exact), str(free)], model_path=tmp_path)
    assert record["result"]["tasks"]["exact"]["items"] == 2
    assert record["settings"]["generation"]["temperature"] == 0
    assert "bleu_signature" in record["result"]["tasks"]["free"]
    outcomes = run_task(tiny_model, read_task(exact), max_tokens=5)
    assert [outcome.score for outcome in outcomes] == [1.0, 0.0]


def test_every_unsound_line_is_named(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(
        '{"question": "a", "answer": "b"}\n{not json\n{"question": "a"}\n{"prompt": "a", "question": "b", "answer": "c"}\n'
        '{"prompt": "a", "choices": ["x", "y"], "answer": 2}\n{"prompt": "a", "choices": ["x"], "answer": 0}\n'
        '{"question": "a", "anwser": "b"}\n{"question": "a", "answer": true}\n'
    )
    with pytest.raises(DataError) as caught:
        read_task(path)
    told = str(caught.value)
    assert "has 7 problems" in told
    for number in range(2, 9):
        assert f"{path}:{number}:" in told


def test_items_of_two_kinds_an_empty_file_and_no_file_are_refused(tmp_path, tiny_model):
    with pytest.raises(DataError, match="items of one kind"):
        read_task(write(tmp_path / "two.jsonl", CHOICES[0], {"question": "a", "answer": "b"}))
    with pytest.raises(DataError, match="has no item"):
        read_task(write(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="no task file"):
        read_task(tmp_path / "nowhere.jsonl")
    with pytest.raises(UsageError, match="no task was named"):
        measure_tasks(tiny_model, [], model_path=tmp_path)
