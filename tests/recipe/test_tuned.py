"""A recipe from nothing but a model and conversations: its numbers follow their rules, and the same call goes on."""

import json
import shutil

import pytest
import torch

from chatwright.feedback.conversations import read_conversations
from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.model.adapter import Adapter, LoraConfig
from chatwright.model.config import ModelConfig
from chatwright.model.directory import save_model
from chatwright.model.network import Network
from chatwright.recipe import tuned
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.tuned import derived_recipe
from chatwright.tokens.tokenizer import load_tokenizer
from chatwright.tune.memory import foretold


@pytest.fixture
def model(make_network, tiny_tokenizer, tmp_path):
    save_model(tmp_path / "some" / "pretrain" / "model", make_network(), tiny_tokenizer, lineage={"stage": "pretrain"})
    return tmp_path / "some" / "pretrain" / "model"


def conversations(path, *, count, answers=7, words=1):
    lines = [
        {"question": f"Number {number}?", "answer": f"Kind {number % answers} of it. " + "and " * words, "label": f"k{number % answers}"}
        for number in range(count)
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


def derived(model, data, tmp_path, **fields):
    path = derived_recipe(model, data, test=fields.get("test"), name=fields.get("name"), runs=tmp_path / "runs")
    return path, load_recipe(path)


def test_every_setting_says_its_rule_and_the_recipe_is_sound(model, tmp_path):
    path, recipe = derived(model, conversations(tmp_path / "data.jsonl", count=300), tmp_path)
    assert path == tmp_path / "runs" / "some-data" / "finetune.toml"
    settings = [
        line
        for line in path.read_text().splitlines()
        if " = " in line and not line.startswith(("name", "runs", "model"))
    ]
    assert settings
    assert all("  # " in line for line in settings)
    assert recipe.finetune.keeping.patience > 0
    assert recipe.finetune.lora.targets == ("all", "embed_tokens")
    assert recipe.evaluate.answers == recipe.finetune.test


def test_test_questions_are_split_off_and_no_conversation_is_lost(model, tmp_path):
    data = conversations(tmp_path / "data.jsonl", count=300)
    _, recipe = derived(model, data, tmp_path)
    sides = [
        read_conversations(place)
        for place in (recipe.finetune.data, recipe.finetune.test)
        if True
        for place in [tmp_path / place]
    ]
    asked = [{item.messages[0].content for item in side} for side in sides]
    assert not asked[0] & asked[1]
    assert asked[0] | asked[1] == {item.messages[0].content for item in read_conversations(data)}
    assert 10 <= len(sides[1]) <= 60


def test_every_right_answer_of_a_test_question_is_kept(model, tmp_path):
    lines = [{"question": f"Number {n}?", "answer": [f"It is {n}.", f"{n}, of course."]} for n in range(80)]
    data = tmp_path / "several.jsonl"
    data.write_text("\n".join(map(json.dumps, lines)) + "\n")
    _, recipe = derived(model, data, tmp_path)
    tests = read_conversations(tmp_path / recipe.finetune.test)
    wanted = {item.messages[0].content: item.references for item in read_conversations(data)}
    assert tests
    assert all(item.references == wanted[item.messages[0].content] for item in tests)
    assert {len(item.references) for item in tests} == {2}


def test_a_test_file_of_ones_own_is_taken_and_few_conversations_are_not_split(model, tmp_path):
    few = derived(model, conversations(tmp_path / "few.jsonl", count=20), tmp_path)[1].finetune
    assert (few.test, few.validation_share, few.keeping.patience) == (None, 0.0, 0)
    assert few.epochs * 20 / few.batch_rows >= 150  # of a base that was pretrained here
    test = conversations(tmp_path / "test.jsonl", count=5)
    _, recipe = derived(model, conversations(tmp_path / "data.jsonl", count=300), tmp_path, test=test)
    assert recipe.finetune.test == str(test)
    assert recipe.finetune.data == str(tmp_path / "data.jsonl")


def test_the_same_call_finds_the_recipe_as_it_was_left(model, tmp_path):
    data = conversations(tmp_path / "data.jsonl", count=60)
    path, _ = derived(model, data, tmp_path)
    path.write_text(path.read_text().replace("patience = 3", "patience = 1"))
    again, recipe = derived(model, data, tmp_path)
    assert (again, recipe.finetune.keeping.patience) == (path, 1)
    with pytest.raises(UsageError, match="of other conversations"):
        derived(model, conversations(tmp_path / "data.jsonl", count=61), tmp_path)


def test_more_to_learn_gets_a_higher_rank_and_a_wider_network_a_lower_rate(make_network, tiny_tokenizer, tmp_path):
    rates, ranks = [], []
    for width in (16, 64):
        save_model(tmp_path / str(width), make_network(width=width), tiny_tokenizer, lineage={})
        _, recipe = derived(tmp_path / str(width), conversations(tmp_path / "d.jsonl", count=20), tmp_path)
        rates.append(recipe.finetune.optimizer.learning_rate)
    for answers in (1, 200):
        data = conversations(tmp_path / "d.jsonl", count=200, answers=answers, words=30)
        _, recipe = derived(tmp_path / "16", data, tmp_path, name=f"n{answers}")
        ranks.append(recipe.finetune.lora.rank)
    assert rates[0] > rates[1]
    assert ranks[0] < ranks[1]


def test_recurring_answers_are_learned_by_openings_that_tell_them_apart(model, tmp_path):
    data = conversations(tmp_path / "data.jsonl", count=700, answers=7)
    config = derived(model, data, tmp_path)[1].finetune
    tokenizer = load_tokenizer(model)
    openings = {tuple(tokenizer.encode(f"Kind {number} of it.")[: config.opening_tokens]) for number in range(7)}
    assert len(openings) == 7
    steps = config.epochs * 700 / config.batch_rows
    assert steps >= 1_400
    assert 16 <= config.whole_share * config.epochs * 700 / 7 <= 64  # times that each is read to its end
    assert config.replay_from is None


def test_answers_of_their_own_are_learned_whole(model, tmp_path):
    config = derived(model, conversations(tmp_path / "data.jsonl", count=300, answers=300), tmp_path)[1].finetune
    assert config.whole_share == 1.0
    assert 130 < config.epochs * 270 / config.batch_rows < 250  # passes enough for a base that was pretrained here


def test_a_base_pretrained_here_gets_a_higher_rank_than_the_same_from_elsewhere(model, tmp_path):
    data = conversations(tmp_path / "data.jsonl", count=60, answers=60)
    shutil.copytree(model, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "chatwright.json").unlink()
    young, old = (derived(place, data, tmp_path)[1].finetune.lora.rank for place in (model, tmp_path / "elsewhere"))
    assert young > old


@pytest.mark.parametrize("numbers", ["float32", "int8", "nf4"])
def test_fewer_bits_where_memory_is_short(monkeypatch, numbers):
    shape = ModelConfig(
        width=1280, layers=24, heads=20, key_heads=4, head_width=64, mlp_width=3840, vocabulary_size=32000
    )
    trained = 16 * tuned._trained_by_rank(shape)
    with torch.device("meta"):
        assert trained == Adapter(Network(shape), LoraConfig(rank=16)).num_parameters()
    needed = foretold(shape, numbers=numbers, trained=trained, is_beside=True, tokens=256).total
    monkeypatch.setattr(tuned, "available_bytes", lambda: int(needed / 0.6) + 1)
    assert tuned._fitting(shape, 16) == (numbers, 256)


def test_a_model_that_fits_in_no_way_is_refused(monkeypatch):
    monkeypatch.setattr(tuned, "available_bytes", lambda: 100 << 20)
    with pytest.raises(RefusedError, match="even in 4 bits: 100 MiB are free"):
        tuned._fitting(ModelConfig(width=64, layers=2, heads=2, key_heads=2, head_width=32, mlp_width=64), 8)
