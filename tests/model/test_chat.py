"""The object behind `chatwright.load`: talk, continue, measure."""

import shutil
import threading

import pytest
import torch

import chatwright
from chatwright.feedback.conversations import Message
from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.model.chat import ChatModel
from chatwright.model.directory import LoadedModel
from chatwright.model.engine.engine import Engine, EngineSettings
from chatwright.model.generation import EngineLoad, Sampling

GREEDY = Sampling(max_tokens=8, temperature=0.0)
HI = [Message("user", "When does the ferry leave?")]


@pytest.fixture(scope="module")
def model(saved_once):
    return chatwright.load(saved_once())


def test_the_package_gives_the_model_by_name(model):
    assert isinstance(model, chatwright.ChatModel)
    assert not model.network.training
    assert len(model.digest) == 64


def test_a_model_is_called_by_its_run_and_stage(saved_once, tmp_path):
    for place, name in (("runs/demo/finetune/model", "demo-finetune"), ("Qwen3-0.6B", "Qwen3-0.6B")):
        shutil.copytree(saved_once(), tmp_path / place)
        assert chatwright.load(str(tmp_path / place)).name == name


def test_streaming_batches_and_whole_answers_say_the_same(model):
    pieces = list(model.stream(HI, GREEDY))
    assert pieces[-1].finish in ("stop", "length")
    assert pieces[-1].prompt_tokens == model.count(HI)
    text = "".join(piece.text for piece in pieces).strip()
    assert model.chat(HI, GREEDY) == text
    other = [Message("user", "Tickets?")]
    assert model.answers([other, HI], max_tokens=8) == [model.chat(other, GREEDY), text]
    assert model.answers([], max_tokens=8) == []


def test_plain_text_is_continued_and_not_repeated(model):
    text = model.generate("The ferry", GREEDY)
    ids = [model.tokenizer.end_of_text, *model.tokenizer.encode("The ferry")]
    with torch.inference_mode():
        first = int(model.network(torch.tensor([ids]))[0, -1].argmax())
    assert first != model.tokenizer.end_of_text
    assert text.startswith(model.tokenizer.decode([first]).rstrip("\ufffd"))


def test_log_probabilities_are_those_of_each_token_in_its_place(model):
    text = "The ferry leaves"
    ids = model.tokenizer.encode(text)
    values = model.logprobs(text)
    assert len(values) == len(ids)
    for position in range(len(ids)):
        context = torch.tensor([[model.tokenizer.end_of_text, *ids[:position]]])
        with torch.inference_mode():
            expected = torch.log_softmax(model.network(context)[0, -1], dim=-1)[ids[position]]
        assert values[position] == pytest.approx(float(expected), abs=1e-4)
    assert model.logprobs("") == []


def test_what_exceeds_the_context_is_refused_with_both_numbers(model):
    with pytest.raises(UsageError, match="context is 64"):
        model.chat([Message("user", "zwölf " * 60)])
    with pytest.raises(UsageError, match="context is 64"):
        model.logprobs("zwölf " * 60)


def test_a_directory_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(RefusedError, match="not a model directory"):
        chatwright.load(tmp_path)


@pytest.mark.parametrize("fields", [{}, {"tied": False}, {"family": "gpt2", "key_heads": 4}])
def test_a_model_that_only_writes_gives_up_its_networks_numbers_and_writes_the_same(
    make_network, tiny_tokenizer, fields
):
    texts = []
    for frees in (False, True):
        loaded = LoadedModel(make_network(**fields), tiny_tokenizer, {}, "digest")
        model = ChatModel(loaded, name="tiny", settings=EngineSettings(frees_network=frees))
        texts.append(model.generate("The ferry", Sampling(max_tokens=20, temperature=0.0)))
    assert texts[0] == texts[1]
    assert sum(parameter.numel() for parameter in loaded.network.parameters()) == 0
    with pytest.raises(ValueError, match="given up"):
        _ = model.network


def test_what_a_model_does_is_told_without_making_its_engine(make_network, tiny_tokenizer):
    model = ChatModel(LoadedModel(make_network(), tiny_tokenizer, {}, "digest"), name="tiny")
    assert model.load() == EngineLoad.nothing()
    assert model._engine is None
    model.generate("The ferry", GREEDY)
    assert model.load().completion_tokens > 0


def test_two_threads_that_ask_at_once_get_one_engine(make_network, tiny_tokenizer, monkeypatch):
    """Two engines made from one network that gives up its parameters would each have half of them."""
    began, met = threading.Event(), threading.Event()

    class Slow(Engine):
        def __init__(self, *args, **options):
            if began.is_set():
                met.set()
            began.set()
            met.wait(0.2)  # in which the other thread would come here, too
            super().__init__(*args, **options)

    monkeypatch.setattr("chatwright.model.chat.Engine", Slow)
    loaded = LoadedModel(make_network(), tiny_tokenizer, {}, "digest")
    model = ChatModel(loaded, name="tiny", settings=EngineSettings(frees_network=True))
    thread = threading.Thread(target=model.prepare)
    thread.start()
    assert began.wait(20)
    engine = model.engine
    thread.join(20)
    assert not met.is_set()
    assert model.engine is engine
