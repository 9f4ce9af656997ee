"""A reward model: what it learns, that transformers opens it, that it judges a policy, and that damage is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file

from chatwright.feedback.conversations import Message
from chatwright.foundation.config import validate
from chatwright.foundation.errors import RefusedError
from chatwright.foundation.stage import StageContext
from chatwright.model.directory import load_model, save_model
from chatwright.model.prompts import ChatEncoder
from chatwright.tune.preferences import align, reward_stage
from chatwright.tune.preferences.reward_model import RewardModel, RewardObjective, load_reward_model, pair_batch
from chatwright.tune.preferences.reward_stage import RewardTrainingConfig
from chatwright.tune.preferences.settings import AlignConfig
from chatwright.tune.preferences.source import encode_answer

QUICK = {"device": "cpu", "precision": "float32", "threads": 1, "batch_rows": 8, "micro_rows": 8}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_network, tiny_tokenizer):
    """On pairs where the polite answer is preferred: the folder and the stage's report."""
    folder = tmp_path_factory.mktemp("reward")
    save_model(folder / "base", make_network(std=0.1), tiny_tokenizer, lineage={"stage": "finetune"})
    rows = [{"prompt": f"When, {n}?", "chosen": f"At nine, {n % 5}.", "rejected": f"No, {n % 7}."} for n in range(120)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "data": str(folder / "pairs.jsonl"),
        "epochs": 2.0,
        "heldout_share": 0.2,
        "optimizer": {"learning_rate": 3e-3},
    }
    config = validate(RewardTrainingConfig, settings | QUICK, where="recipe")
    (folder / "out").mkdir()
    report = reward_stage.run(
        StageContext(config=config, inputs={"base": folder / "base"}, output=folder / "out", seed=1)
    )
    return folder, report


def test_a_fresh_one_finds_all_answers_the_same_and_a_pair_costs_log_two(make_network, tiny_tokenizer):
    encoder = ChatEncoder(tiny_tokenizer)
    answers = [encode_answer([], text, encoder) for text in ("At nine.", "No.")]
    model = RewardModel(make_network())
    batch = pair_batch(answers[:1], answers[1:], [2.0])
    assert RewardObjective(model)(model.network, batch).item() == pytest.approx(2 * 0.693147, rel=1e-5)
    assert model.judge(answers, rows=1) == [0.0, 0.0]


def test_it_tells_held_out_pairs_apart_and_says_how_far_it_can_be_believed(trained):
    found = trained[1]["calibration"]
    assert found["pairs"] > 10
    assert found["accuracy"] > 0.9
    assert found["nats"] < 0.5
    assert 0 <= found["error_after"] <= 0.5


def test_rewards_do_not_depend_on_what_stands_beside_an_answer(trained, tiny_tokenizer):
    model = load_reward_model(trained[0] / "out" / "model")
    encoder = ChatEncoder(tiny_tokenizer)
    answers = [
        encode_answer([], text, encoder) for text in ("At nine.", "No.", "At nine in the morning, by the first ferry.")
    ]
    assert model.judge(answers, rows=3) == pytest.approx(model.judge(answers, rows=1), abs=1e-5)


def test_transformers_opens_it_and_gives_the_same_rewards(trained, tiny_tokenizer):
    transformers = pytest.importorskip("transformers")
    place = trained[0] / "out" / "model"
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(place, dtype=torch.float32).eval()
    answered = encode_answer([], "At nine.", ChatEncoder(tiny_tokenizer))
    ids = torch.tensor([[*answered.prompt, *answered.answer]])
    with torch.inference_mode():
        value = theirs(input_ids=ids).logits.item()
    assert load_reward_model(place).judge([answered], rows=1)[0] == pytest.approx(value, abs=1e-4)


def test_a_policy_learns_from_it(trained, tmp_path):
    folder, _ = trained
    rewards = [{"kind": "model", "model": str(folder / "out" / "model")}]
    tasks = [{"question": f"When, {n}?", "answer": "At nine."} for n in range(10)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tasks))
    settings = {"objective": "grpo", "data": str(tmp_path / "tasks.jsonl"), "rewards": rewards, "answers_per_prompt": 2}
    config = validate(AlignConfig, {**settings, **QUICK, "max_answer_tokens": 6, "heldout_share": 0.3}, where="recipe")
    (tmp_path / "out").mkdir()
    report = align.run(StageContext(config=config, inputs={"base": folder / "base"}, output=tmp_path / "out", seed=1))
    assert 0 < report["evaluation"]["reward"] < 1
    assert load_model(tmp_path / "out" / "model").network is not None


def test_a_changed_file_and_another_kind_of_model_are_refused(trained, tmp_path):
    folder, _ = trained
    with pytest.raises(RefusedError, match="is not what chatwright writes"):
        load_reward_model(folder / "base")
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in (folder / "out" / "model").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert "score.weight" in load_file(copy / "model.safetensors")
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    with pytest.raises(RefusedError, match=r"config.json.* was changed"):
        load_reward_model(copy)


@pytest.mark.parametrize("over", [0, 1])
def test_a_pair_as_long_as_the_context_is_learned_from_and_one_token_more_is_left_out(
    tmp_path, make_network, tiny_tokenizer, over
):
    encoder = ChatEncoder(tiny_tokenizer)
    row = {"prompt": "When?", "chosen": "At nine" + " and six" * 5 + ".", "rejected": "No."}
    answered = encode_answer([Message("user", row["prompt"])], row["chosen"], encoder)
    length = len(answered.prompt) + len(answered.answer) - over
    save_model(tmp_path / "base", make_network(context_length=length), tiny_tokenizer, lineage={})
    rows = [row, {"prompt": "Where?", "chosen": "Here.", "rejected": "No."}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    settings = {"data": str(tmp_path / "pairs.jsonl"), "test": str(tmp_path / "test.jsonl"), "epochs": 1.0, **QUICK}
    (tmp_path / "test.jsonl").write_text(json.dumps({**row, "prompt": "When, then?"}) + "\n")
    (tmp_path / "out").mkdir()
    config = validate(RewardTrainingConfig, settings, where="recipe")
    inputs = {"base": tmp_path / "base"}
    report = reward_stage.run(StageContext(config=config, inputs=inputs, output=tmp_path / "out", seed=1))
    assert report["rows"] == 2 - over
    assert report["dropped"].get("longer than the model's context", 0) == over
