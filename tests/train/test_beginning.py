"""What a pretraining begins with: the same values whole and in shards, of which no rank ever holds all."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sharded_beginning import SEED, SHAPE
from test_sharding import run_on_ranks

from chatwright.foundation.errors import RefusedError
from chatwright.model.config import ModelConfig
from chatwright.model.directory import LINEAGE, WEIGHTS, save_model
from chatwright.train.beginning import begin

PROGRAM = Path(__file__).with_name("sharded_beginning.py")
EMBEDDING = "model.embed_tokens.weight"
KINDS = {
    "tied": {},
    "untied": {"tied": False, "family": "qwen2"},
    "gpt2": {"family": "gpt2", "key_heads": 4},  # its files hold matrices transposed, and three in one
}


def both(tokenizer, config=SHAPE, base=None):
    """The weights of a network that begins whole, and those that one in shards is filled with."""
    whole = begin(config, tokenizer, seed=SEED, base=base, in_shards=False)
    assert whole.values is None
    network, values = begin(config, tokenizer, seed=SEED, base=base, in_shards=True)
    assert all(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()])
    assert network.config == whole.network.config
    return dict(whole.network.named_parameters()), dict(values)


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_drawn_one_by_one_are_those_of_a_whole_network(tiny_tokenizer, kind):
    sizes = {"width": 32, "layers": 2, "heads": 4, "key_heads": 2, "head_width": 8, "mlp_width": 48}
    assert same_bits(*both(tiny_tokenizer, ModelConfig(**{**sizes, **KINDS[kind]})))


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_that_is_read_tensor_by_tensor_is_the_one_that_is_read_whole(
    tmp_path, make_network, tiny_tokenizer, kind
):
    save_model(tmp_path / "base", make_network(**KINDS[kind]), tiny_tokenizer, lineage={})
    assert same_bits(*both(tiny_tokenizer, base=tmp_path / "base"))


def foreign(directory, network, tokenizer, change):
    """A model of nobody's lineage whose weights were changed."""
    save_model(directory, network, tokenizer, lineage={})
    (directory / LINEAGE).unlink()
    weights = {name: tensor.clone() for name, tensor in load_file(directory / WEIGHTS).items()}
    change(weights)
    save_file(weights, directory / WEIGHTS)
    return directory


@pytest.mark.parametrize(
    ("problem", "change"),
    [
        ("ties input and output", lambda weights: weights.update({"lm_head.weight": weights[EMBEDDING] + 1})),
        ("not finite", lambda weights: weights["model.norm.weight"].fill_(torch.inf)),
        ("do not fit", lambda weights: weights.pop("model.norm.weight")),
    ],
)
def test_a_base_that_is_refused_whole_is_refused_in_shards(tmp_path, make_network, tiny_tokenizer, problem, change):
    base = foreign(tmp_path / "base", make_network(), tiny_tokenizer, change)
    for in_shards in (False, True):
        with pytest.raises(RefusedError, match=problem):
            dict(begin(SHAPE, tiny_tokenizer, seed=SEED, base=base, in_shards=in_shards).values)


def on_two_ranks(phase, directory, tokenizer, *base):
    """What each rank of `sharded_beginning.py` tells."""
    for name in ("shards", "tokenizer"):
        (directory / name).mkdir(exist_ok=True)
    tokenizer.save(directory / "tokenizer")
    told = run_on_ranks(PROGRAM, phase, directory / "shards", directory / "tokenizer", *base, ranks=2)
    return [json.loads(printed) for printed in told]


@pytest.mark.slow
def test_of_two_ranks_none_holds_the_network_whole_as_it_begins_or_goes_on(tmp_path, tiny_tokenizer):
    first = on_two_ranks("first", tmp_path, tiny_tokenizer)
    whole, _ = both(tiny_tokenizer)
    assert same_bits(load_file(tmp_path / "shards" / "first.safetensors"), whole)
    again = on_two_ranks("again", tmp_path, tiny_tokenizer)
    assert [rank["digest"] for rank in again] == [rank["digest"] for rank in first]
    assert all(0.5 < rank["copies"] < 0.6 for rank in first)  # a half of the weights, and one tensor
    assert all(2.0 < rank["copies"] < 2.1 for rank in again)  # halves of the weights, two moments and an average


@pytest.mark.slow
def test_of_two_ranks_none_holds_a_base_whole(tmp_path, make_network, tiny_tokenizer):
    sizes = SHAPE.model_dump(include={"width", "layers", "heads", "key_heads", "head_width", "mlp_width"})
    save_model(tmp_path / "base", make_network(**sizes), tiny_tokenizer, lineage={})
    told = on_two_ranks("first", tmp_path, tiny_tokenizer, tmp_path / "base")
    whole, _ = both(tiny_tokenizer, base=tmp_path / "base")
    assert same_bits(load_file(tmp_path / "shards" / "first.safetensors"), whole)
    # A half, one tensor, and what looking at a piece of it for numbers that are not finite takes.
    assert all(0.5 < rank["copies"] < 0.7 for rank in told), told
