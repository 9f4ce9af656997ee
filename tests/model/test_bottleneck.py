"""Bottleneck adapters change nothing at first, fold into the MLP exactly, and come out of it again."""

import pytest
import torch

from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.model.adapter_files import load_adapter
from chatwright.model.bottleneck import BottleneckConfig, Bottlenecks
from chatwright.model.directory import load_model, save_model

IDS = torch.arange(3, 35).reshape(2, 16)
SAME = {"atol": 1e-5, "rtol": 0}
shapes = pytest.mark.parametrize(
    "fields",
    [{}, {"tied": False}, {"family": "llama", "key_heads": 1, "mlp_bias": True}, {"family": "gpt2", "key_heads": 4}],
)


def trained(network, *, width=8, tokens=()):
    """As training would leave them: every number away from zero."""
    made = Bottlenecks(network, BottleneckConfig(width=width), trained_tokens=tokens)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.1, generator=generator)
    return made


@shapes
def test_the_first_forward_is_the_bases_own(make_network, fields):
    network = make_network(**fields)
    expected = network(IDS)
    made = Bottlenecks(network, BottleneckConfig(width=8), trained_tokens=(3,))
    made.initialise(torch.Generator().manual_seed(0))
    made.attach(network)
    torch.testing.assert_close(network(IDS), expected)


@shapes
def test_merged_equals_attached_and_comes_out_again(make_network, fields):
    network = make_network(std=0.1, **fields)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    plain, made = network(IDS), trained(network, tokens=(3, 9))
    handles = made.attach(network)
    attached = network(IDS)
    assert float((attached - plain).abs().max().detach()) > 1e-3
    for handle in handles:
        handle.remove()
    made.merge(network)
    torch.testing.assert_close(network(IDS), attached, **SAME)
    made.unmerge(network)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=0)


def test_a_merged_one_is_a_plain_model_directory(make_network, tiny_tokenizer, tmp_path):
    network = make_network()
    trained(network).merge(network)
    save_model(tmp_path / "model", network, tiny_tokenizer, lineage={})
    opened = load_model(tmp_path / "model").network
    assert opened.config.mlp_width == make_network().config.mlp_width + 8
    torch.testing.assert_close(opened(IDS), network(IDS))


def test_only_the_bottlenecks_get_a_gradient(make_network):
    network = make_network().requires_grad_(False)
    made = trained(network, tokens=(3,))
    made.attach(network)
    network(IDS).square().mean().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_switched_off_the_network_is_its_base(make_network):
    network = make_network(std=0.1)
    expected, made = network(IDS), trained(network, tokens=(3,))
    made.attach(network)
    with made.switched_off():
        torch.testing.assert_close(network(IDS), expected)


def test_a_saved_one_comes_back_on_its_base_only(make_network, tmp_path):
    network = make_network()
    made = trained(network, tokens=(4,))
    made.save(tmp_path / "adapter", base_digest="b" * 64)
    loaded = load_adapter(tmp_path / "adapter", network, base_digest="b" * 64)
    assert isinstance(loaded, Bottlenecks)
    assert loaded.record() == made.record()
    for name, tensor in made.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    with pytest.raises(RefusedError, match="another base"):
        load_adapter(tmp_path / "adapter", network, base_digest="c" * 64)


def test_taking_out_more_than_there_is_is_refused(make_network):
    with pytest.raises(UsageError, match="no adapter of 9999 neurons"):
        Bottlenecks(make_network(), BottleneckConfig(width=9999)).unmerge(make_network())
