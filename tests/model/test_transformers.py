"""Our model directories open in transformers and theirs open here, with the same numbers and the same text."""

import json
import random

import pytest
import torch

from chatwright.feedback.conversations import Message
from chatwright.foundation.errors import RefusedError
from chatwright.model.chat import ChatModel, load
from chatwright.model.config import Llama3Scaling as RopeScaling
from chatwright.model.directory import LINEAGE, load_model
from chatwright.model.engine.engine import Engine, EngineSettings
from chatwright.model.export.hugging_face import check_with_transformers
from chatwright.model.generation import GenerationRequest, Sampling
from chatwright.model.prompts import ChatEncoder
from chatwright.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer

TOLERANCE = 1e-4
SHAPES = {
    "qwen3 tied, shared keys": {"family": "qwen3", "tied": True},
    "qwen3 untied, own keys": {"family": "qwen3", "tied": False, "key_heads": 4},
    "llama untied, shared keys": {"family": "llama", "tied": False, "key_heads": 1},
    "llama tied, own keys": {"family": "llama", "tied": True, "key_heads": 4, "rope_base": 500_000.0},
    "llama 3 scaling": {
        "family": "llama",
        "tied": True,
        "rope_scaling": RopeScaling(
            factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context_length=16
        ),
    },
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())

PROMPTS = [
    "The ferry", "Tickets", "def area(", "Wie weit", "Opening hours:", "Questions?", "12", " ", "\n\n", "a",
    "The ferry leaves at nine in the morning", "children ride free.", "zwölf", "😀", "It leaves", "return",
    "Monday to Saturday. Questions? Write to us", "user", "nine nine nine", "...",
]  # fmt: skip

CHATS = [
    [Message("user", "When does the ferry leave?")],
    [Message("system", "Be brief."), Message("user", "Zwölf?\n\nReally 😀?")],
    [Message("user", "Hi"), Message("assistant", "Hello! How can I help?"), Message("user", " The ferry ")],
    [Message("user", "trailing line\n"), Message("assistant", "ok\n\n"), Message("user", "1234567")],
]


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def some_ids(size: int, *, rows: int = 3, time: int = 40) -> torch.Tensor:
    return torch.randint(0, size, (rows, time), generator=torch.Generator().manual_seed(11))


def theirs(directory):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@shapes
def test_our_directory_gives_their_logits(saved_once, shape):
    directory = saved_once(**shape)
    network, model = load_model(directory).network, theirs(directory)
    ids = some_ids(network.config.vocabulary_size)
    with torch.inference_mode():
        torch.testing.assert_close(network(ids), model(ids).logits, atol=TOLERANCE, rtol=0)


@shapes
@pytest.mark.parametrize("shard_size", ["1GB", "20KB"], ids=["one file", "shards"])
def test_their_directory_gives_their_logits(saved_once, tiny_tokenizer, tmp_path, shape, shard_size):
    model = theirs(saved_once(**shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)), alpha=0.02)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    tiny_tokenizer.save(tmp_path)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard_size == "20KB")
    loaded = load_model(tmp_path)
    assert loaded.lineage == {}
    ids = some_ids(tiny_tokenizer.size)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.network(ids), model(ids).logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_their_half_precision_is_opened_in_float32(saved_once, tiny_tokenizer, tmp_path, dtype):
    theirs(saved_once()).to(dtype).save_pretrained(tmp_path)
    tiny_tokenizer.save(tmp_path)
    network = load_model(tmp_path).network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    ids = some_ids(tiny_tokenizer.size)
    with torch.inference_mode():
        torch.testing.assert_close(network(ids), theirs(tmp_path)(ids).logits, atol=TOLERANCE, rtol=0)


def hundred_prompts(tokenizer) -> list[list[int]]:
    """Short and long, alone of their kind and with beginnings in common that fill whole blocks."""
    chance = random.Random(3)
    short = [tokenizer.encode(text) for text in PROMPTS]
    long = [[chance.randrange(3, tokenizer.size) for _ in range(chance.randrange(1, 200))] for _ in range(40)]
    common = [chance.randrange(3, tokenizer.size) for _ in range(140)]
    alike = [
        common[: chance.choice((64, 65, 128, 140))] + [chance.randrange(3, 300) for _ in range(9)] for _ in range(40)
    ]
    return short + long + alike


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [SHAPES["qwen3 tied, shared keys"], SHAPES["llama 3 scaling"]], ids=["qwen3", "llama"]
)
def test_greedy_text_is_theirs_on_a_hundred_prompts_alone_in_batches_and_with_shared_beginnings(saved_once, shape):
    from transformers import AutoTokenizer

    directory = saved_once(**{**shape, "context_length": 256})
    loaded, model = load_model(directory), theirs(directory)
    network, tokenizer = loaded.network, loaded.tokenizer
    their_tokenizer = AutoTokenizer.from_pretrained(directory)
    stop_ids = frozenset({tokenizer.end_of_text, ChatEncoder(tokenizer).end})
    prompts = hundred_prompts(tokenizer)
    assert prompts[: len(PROMPTS)] == [their_tokenizer(text)["input_ids"] for text in PROMPTS]
    expected = []
    for prompt in prompts:
        made = model.generate(torch.tensor([prompt]), max_new_tokens=10, attention_mask=torch.ones(1, len(prompt)))
        expected.append(their_tokenizer.decode(made[0, len(prompt) :], skip_special_tokens=True))
    sampling = Sampling(max_tokens=10, temperature=0)
    requests = [GenerationRequest(prompt=tuple(ids), sampling=sampling, stop_ids=stop_ids) for ids in prompts]
    for shared_blocks in (0, None):
        engine = Engine(network, tokenizer, settings=EngineSettings(shared_blocks=shared_blocks))
        assert [row.text for (row,) in engine.run(requests)] == expected
        assert [engine.run([request])[0][0].text for request in requests] == expected
        assert (engine.load().shared_tokens > 0) == (shared_blocks is None)


@shapes
def test_log_probabilities_are_theirs(saved_once, shape):
    directory = saved_once(**shape)
    loaded, model = load_model(directory), theirs(directory)
    ids = some_ids(loaded.tokenizer.size, rows=1, time=50)
    sampling = Sampling(max_tokens=0, temperature=0, top_logprobs=0)
    request = GenerationRequest(prompt=tuple(ids[0].tolist()), sampling=sampling, echo=True)
    ((written,),) = Engine(loaded.network, loaded.tokenizer).run([request])
    with torch.inference_mode():
        expected = torch.log_softmax(model(ids).logits[0], -1)
    found = [scored.token.logprob for scored in written.tokens[1:]]
    wanted = [float(expected[place, token]) for place, token in enumerate(ids[0, 1:].tolist())]
    assert found == pytest.approx(wanted, abs=TOLERANCE)


@pytest.mark.parametrize("chat", CHATS)
def test_a_chat_has_their_templates_ids(saved_once, tiny_tokenizer, chat):
    from transformers import AutoTokenizer

    their_tokenizer = AutoTokenizer.from_pretrained(saved_once())
    messages = [{"role": message.role, "content": message.content} for message in chat]
    encoder = ChatEncoder(tiny_tokenizer)
    prompt = their_tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert encoder.prompt(chat) == prompt
    assert encoder.conversation(chat).ids == their_tokenizer.apply_chat_template(messages, return_dict=False)


def test_chat_answers_are_theirs(saved_once):
    from transformers import AutoTokenizer

    directory = saved_once()
    chat_model, model, tokenizer = load(directory), theirs(directory), AutoTokenizer.from_pretrained(directory)
    chat = CHATS[0]
    ids = tokenizer.apply_chat_template(
        [{"role": message.role, "content": message.content} for message in chat],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    made = model.generate(**ids, max_new_tokens=12)
    text = tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert isinstance(chat_model, ChatModel)
    assert chat_model.chat(chat, Sampling(max_tokens=12, temperature=0)) == text
    assert chat_model.answers([chat], max_tokens=12) == [text]


@pytest.mark.parametrize("kind", ["bpe", "words"])
def test_their_tokenizer_reads_and_writes_like_ours(tmp_path, kind):
    from transformers import AutoTokenizer

    texts = [*PROMPTS, "The ferry leaves, and children ride free; zwölf Minuten zu Fuß."]
    tokenizer: Tokenizer = train_tokenizer(texts, TokenizerConfig(kind=kind, vocabulary_size=320))
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    their_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*texts, "an unknown wörd"]:
        ids = tokenizer.encode(text)
        assert their_tokenizer(text)["input_ids"] == ids
        assert their_tokenizer.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)


def test_a_directory_holds_what_others_look_for_and_nothing_else(saved_once):
    from transformers import AutoConfig, GenerationConfig

    directory = saved_once()
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        [
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            LINEAGE,
        ]
    )
    config, generation = AutoConfig.from_pretrained(directory), GenerationConfig.from_pretrained(directory)
    assert config.architectures == ["Qwen3ForCausalLM"]
    assert generation.eos_token_id == config.eos_token_id == [2, 0]
    assert generation.do_sample is False


def test_an_export_that_transformers_computes_otherwise_is_refused(saved_once, make_network, tiny_tokenizer):
    with pytest.raises(RefusedError, match=r"computes other logits: .* apart"):
        check_with_transformers(saved_once(), make_network(seed=9), tiny_tokenizer, tolerance=TOLERANCE)


def test_an_export_that_transformers_reads_otherwise_is_refused(saved_once, tiny_network, word_tokenizer):
    with pytest.raises(RefusedError, match="reads .* as other ids"):
        check_with_transformers(saved_once(), tiny_network, word_tokenizer, tolerance=TOLERANCE)
