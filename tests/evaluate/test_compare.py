"""Two models on the same data: differences with their significance, and a record that names both."""

import json

import pytest

from chatwright.evaluate.compare import Compared, CompareOn, compare, sign_test
from chatwright.foundation.errors import UsageError
from chatwright.model.chat import ChatModel
from chatwright.model.directory import LoadedModel


def test_models_are_compared_on_texts_answers_and_tasks(tmp_path, tiny_model, make_network, tiny_tokenizer):
    other = ChatModel(LoadedModel(make_network(seed=5, std=0.02), tiny_tokenizer, {}, "other"), name="other")
    (tmp_path / "texts").mkdir()
    for number in range(6):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"The ferry number {number} leaves at nine. " * 5)
    (tmp_path / "chats.jsonl").write_text(
        "".join(json.dumps({"question": f"{n}?", "answer": ["At nine.", "At 9."][: n + 1]}) + "\n" for n in range(3))
    )
    (tmp_path / "task.jsonl").write_text('{"prompt": "At", "choices": [" nine", " six"], "answer": 0}\n')
    models = [Compared("one", tiny_model, tmp_path), Compared("two", other, tmp_path)]
    on = CompareOn(tmp_path / "texts", tmp_path / "chats.jsonl", (tmp_path / "task.jsonl",), 4)
    record = compare(models, on)
    told = record["result"]
    assert {name: facts["digest"] for name, facts in told["models"].items()} == {"one": "digest", "two": "other"}
    bits = {name: values["domains"]["all"]["bits_per_byte"] for name, values in told["texts"].items()}
    assert told["texts"]["two"]["difference"] == pytest.approx(bits["two"] - bits["one"], abs=1e-5)
    assert told["texts"]["two"]["p_value"] < 0.05  # wide random weights are worse than near-uniform ones, everywhere
    assert told["texts"]["one"]["p_value"] is None
    assert set(told["answers"]["two"]["p_values"]) == {"bleu", "chrf", "ter", "exact"}
    assert all(set(sample["answers"]) == {"one", "two"} for sample in told["answers"]["side_by_side"])
    assert set(told["tasks"]["task"]) == {"one", "two"}
    assert json.dumps(record)


def test_of_one_text_and_one_answer_no_significance_is_told(tmp_path, tiny_model, make_network, tiny_tokenizer):
    other = ChatModel(LoadedModel(make_network(seed=5), tiny_tokenizer, {}, "other"), name="other")
    (tmp_path / "text.txt").write_text("The ferry leaves at nine. " * 5)
    (tmp_path / "chats.jsonl").write_text('{"question": "When?", "answer": "At nine."}\n')
    models = [Compared("one", tiny_model, tmp_path), Compared("two", other, tmp_path)]
    told = compare(models, CompareOn(tmp_path / "text.txt", tmp_path / "chats.jsonl", (), 4))["result"]
    assert (told["texts"]["two"]["p_value"], told["texts"]["two"]["difference_95"]) == (None, None)
    assert told["answers"]["two"]["p_values"] == {"bleu": None, "chrf": None, "ter": None, "exact": 1.0}


def test_the_sign_test_is_exact():
    assert sign_test([0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]) == pytest.approx(2 / 64)
    assert sign_test([0, 1, 0, 1], [1, 0, 0, 1]) == 1.0
    assert sign_test([1.0], [1.0]) == 1.0


def test_one_model_or_nothing_to_compare_on_is_refused(tmp_path, tiny_model):
    one = Compared("one", tiny_model, tmp_path)
    with pytest.raises(UsageError, match="two models"):
        compare([one], CompareOn(tmp_path))
    with pytest.raises(UsageError, match="a name of its own"):
        compare([one, one], CompareOn(tmp_path))
    with pytest.raises(UsageError, match="what to compare on"):
        compare([one, one._replace(name="two")], CompareOn())
