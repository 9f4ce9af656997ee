"""What a fine-tune trains is what its setting names, under the network's own names, and nothing else."""

import pytest
import torch

from chatwright.foundation import config as configuration
from chatwright.foundation.errors import ConfigError, UsageError
from chatwright.model.selection import select
from chatwright.tune.finetune_settings import FinetuneConfig

IDS = torch.arange(3, 35).reshape(2, 16)


@pytest.mark.parametrize(
    ("method", "fields", "test"),
    [
        ("last-1", {}, lambda name: name.startswith(("model.layers.1.", "model.norm."))),
        ("last-2", {}, lambda name: name.startswith(("model.layers.", "model.norm."))),
        ("biases", {"family": "qwen2"}, lambda name: name.endswith(".bias")),
        ("biases", {"family": "gpt2", "key_heads": 4}, lambda name: name.endswith(".bias")),
        ("embeddings-and-norms", {"tied": False}, lambda name: "proj" not in name),
        (
            "pattern:layers\\.0\\..*(q|v)_proj",
            {},
            lambda name: ".0.self_attn.q_proj" in name or ".0.self_attn.v_proj" in name,
        ),
    ],
)
def test_only_what_is_named_gets_a_gradient(make_network, method, fields, test):
    network = make_network(**fields)
    selected = select(network, method)
    network(IDS).square().mean().backward()
    with_gradient = {name for name, part in network.named_parameters() if part.grad is not None}
    assert with_gradient == {name for name, _ in network.named_parameters() if test(name)}
    assert with_gradient == {name for name, _ in selected.named_parameters()}
    own = dict(network.named_parameters())
    assert all(part is own[name] for name, part in selected.named_parameters())


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("biases", "names no parameter of this network .family `qwen3`"),
        ("last-9", "more layers than the network has: 2"),
        ("pattern:nothing_here", "names no parameter"),
        ("pattern:(", "is not a regular expression"),
    ],
)
def test_a_setting_that_would_train_nothing_is_refused(make_network, method, said):
    with pytest.raises(UsageError, match=said):
        select(make_network(), method)


@pytest.mark.parametrize("method", ["lora", "all", "last-2", "biases", "embeddings-and-norms", "pattern:norm"])
def test_the_settings_of_a_recipe(method):
    assert configuration.validate(FinetuneConfig, {"data": "x", "method": method}, where="x").method == method


@pytest.mark.parametrize("method", ["last-0", "last-", "bias", "pattern:", "LORA", ""])
def test_a_setting_that_means_nothing_is_refused(method):
    with pytest.raises(ConfigError, match="method"):
        configuration.validate(FinetuneConfig, {"data": "x", "method": method}, where="x")
