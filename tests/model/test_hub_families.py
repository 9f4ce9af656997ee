"""Models of every family, made by transformers at random, give their numbers here; what we write gives ours there."""

import json

import pytest
import torch
from greedy import greedy_rows

from chatwright.model.directory import LINEAGE, load_model, save_model
from chatwright.model.engine.memory import RowMemory
from chatwright.model.engine.planning import NextToken, Stretch
from chatwright.model.engine.runner import Runner

TOLERANCE = 1e-4
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
FAMILIES = {
    "gpt2": ("gpt2", GPT2),
    "gpt2 untied, own inner width": ("gpt2", {**GPT2, "n_inner": 40, "tie_word_embeddings": False}),
    "llama 2": ("llama", {**SIZES, "num_key_value_heads": 4}),
    "llama 3": ("llama", {**SIZES, "num_key_value_heads": 2, "rope_parameters": {**LLAMA3, "rope_theta": 500_000.0}}),
    "llama, linear": ("llama", {**SIZES, "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}}),
    "llama with biases": ("llama", {**SIZES, "attention_bias": True, "mlp_bias": True}),
    "llama, wide heads": ("llama", {**SIZES, "num_key_value_heads": 1, "head_dim": 20}),
    "smollm 2": ("llama", {**SIZES, "num_key_value_heads": 2, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "smollm 3": ("smollm3", {**SIZES, "num_key_value_heads": 2, "no_rope_layers": [1, 0, 1]}),
    "qwen2": ("qwen2", {**SIZES, "num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2 tied, yarn": (
        "qwen2", {**SIZES, "num_key_value_heads": 2, "tie_word_embeddings": True, "rope_parameters": {**YARN, "rope_theta": 1e6}},
    ),
    "qwen2, sliding from layer 1": (
        "qwen2", {**SIZES, "num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {**SIZES, "num_key_value_heads": 2, "head_dim": 16}),
    "qwen3 tied with biases, yarn": (
        "qwen3", {
            **SIZES, "num_key_value_heads": 2, "head_dim": 16, "attention_bias": True, "tie_word_embeddings": True,
            "rope_parameters": {**YARN, "rope_theta": 1e6, "attention_factor": 1.3, "beta_fast": 8.0, "truncate": False},
        },
    ),
    "mistral": ("mistral", {**SIZES, "num_key_value_heads": 2, "sliding_window": None}),
    "mistral with a window": ("mistral", {**SIZES, "num_key_value_heads": 2, "sliding_window": 7, "head_dim": 12}),
}  # fmt: skip
every_family = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@pytest.fixture(scope="module")
def made(tiny_tokenizer, tmp_path_factory):
    """Their model of a name with all weights drawn at random, saved once in shards, and its directory."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kept = {}

    def make(name):
        if name not in kept:
            kind, sizes = FAMILIES[name]
            ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
            config = AutoConfig.for_model(kind, vocab_size=tiny_tokenizer.size, **ends, **sizes)
            model = AutoModelForCausalLM.from_config(config).eval()
            generator = torch.Generator().manual_seed(4)
            with torch.no_grad():
                for part in model.parameters():
                    centre = float(part.ndim == 1 and bool((part == 1).all()))
                    part.copy_(torch.randn(part.shape, generator=generator) * 0.2 + centre)
            directory = tmp_path_factory.mktemp("theirs") / "model"
            model.save_pretrained(directory, max_shard_size="20KB")
            tiny_tokenizer.save(directory)
            kept[name] = (model, directory)
        return kept[name]

    return make


def some_ids(size: int, *, rows: int = 2, time: int = 40) -> torch.Tensor:
    return torch.randint(0, size, (rows, time), generator=torch.Generator().manual_seed(11))


@every_family
def test_a_model_of_theirs_gives_their_logits(made, name):
    model, directory = made(name)
    network = load_model(directory).network
    ids = some_ids(network.config.vocabulary_size)
    with torch.inference_mode():
        expected = model(ids).logits
        assert expected.std() > 0.1
        torch.testing.assert_close(network(ids), expected, atol=TOLERANCE, rtol=0)
    assert network.config.num_parameters() == sum(part.numel() for part in network.parameters())


@every_family
def test_token_by_token_the_engine_gives_the_same(made, name):
    network = load_model(made(name)[1]).network
    ids = some_ids(network.config.vocabulary_size, time=24)
    runner = Runner(network)
    memory = RowMemory(runner.shape, total_blocks=4)
    rows = sorted(row for row in (memory.take(24), memory.take(24)) if row is not None)
    states = [runner.read(memory, [], [Stretch(row, 0, ids[n, :10].tolist()) for n, row in enumerate(rows)])]
    for at in range(10, 24):
        states.append(runner.read(memory, [NextToken(row, at, int(ids[n, at])) for n, row in enumerate(rows)], []))
    scores = [runner.scores(each).unflatten(0, (2, -1)) for each in states]
    with torch.inference_mode():
        torch.testing.assert_close(torch.cat(scores, dim=1), network(ids), atol=TOLERANCE, rtol=0)


@every_family
def test_greedy_tokens_of_a_batch_are_theirs_alone(made, name, tiny_tokenizer):
    model, directory = made(name)
    network = load_model(directory).network
    prompts = [[5, 9, 23], [7] * 12, [40, 41, 42, 43, 44, 45, 46, 47]]
    rows = greedy_rows(network, tiny_tokenizer, prompts, max_tokens=12, stop_ids={0})
    for prompt, row in zip(prompts, rows, strict=True):
        told = torch.tensor([prompt])
        made_ids = model.generate(told, attention_mask=torch.ones_like(told), max_new_tokens=12, do_sample=False)
        assert row == [token for token in made_ids[0, len(prompt) :].tolist() if token != 0]


@every_family
def test_what_we_write_of_it_opens_there_with_the_same_logits(made, name, tiny_tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM

    network = load_model(made(name)[1]).network
    save_model(tmp_path / "ours", network, tiny_tokenizer, lineage={})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    ids = some_ids(tiny_tokenizer.size)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(ids).logits, network(ids), atol=TOLERANCE, rtol=0)
    again = load_model(tmp_path / "ours").network
    assert again.config == network.config
    assert all(torch.equal(part, again.state_dict()[name]) for name, part in network.state_dict().items())


def test_the_first_gpt_2_files_without_prefix_and_with_masks_open_too(made, tmp_path, tiny_tokenizer):
    from safetensors.torch import save_file

    model, directory = made("gpt2")
    weights = {name.removeprefix("transformer."): part.clone() for name, part in model.state_dict().items()}
    for layer in range(3):
        weights[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 64, 64)
        weights[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    del weights["lm_head.weight"]
    tmp_path.joinpath("config.json").write_text((directory / "config.json").read_text())
    save_file(weights, tmp_path / "model.safetensors")
    tiny_tokenizer.save(tmp_path)
    opened, expected = load_model(tmp_path).network.state_dict(), load_model(directory).network.state_dict()
    assert all(torch.equal(part, expected[name]) for name, part in opened.items())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_written_as_asked_and_read_in_float32(made, tiny_tokenizer, tmp_path, dtype):
    network = load_model(made("gpt2")[1]).network
    save_model(tmp_path / "half", network, tiny_tokenizer, lineage={}, dtype=dtype)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["torch_dtype"] == dtype
    opened = load_model(tmp_path / "half").network.state_dict()
    for name, part in network.state_dict().items():
        assert torch.equal(opened[name], part.to(getattr(torch, dtype)).float())


def test_a_model_of_theirs_may_lie_in_the_hubs_cache(made, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(made("qwen2")[1].iterdir())):
        (blobs / str(number)).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert not (snapshot / LINEAGE).exists()
    load_model(snapshot)


@pytest.mark.parametrize("name", ["gpt2", "mistral with a window", "smollm 3", "qwen2, sliding from layer 1"])
def test_documents_that_share_a_row_are_read_as_if_alone(made, name):
    network = load_model(made(name)[1]).network
    ids = some_ids(network.config.vocabulary_size, rows=1, time=30)
    documents = torch.tensor([[0] * 11 + [1] * 19])
    with torch.inference_mode():
        together = network.hidden(ids, documents_BT=documents)
        alone = torch.cat([network.hidden(ids[:, :11]), network.hidden(ids[:, 11:])], dim=1)
    torch.testing.assert_close(together, alone, atol=TOLERANCE, rtol=0)
