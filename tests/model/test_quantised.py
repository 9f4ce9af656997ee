"""A base in few bits: near the weights, the same gradients as its unpacked self, and little memory."""

import pytest
import torch
from torch import nn

from chatwright.foundation.errors import UsageError
from chatwright.model.adapter import Adapter, LoraConfig
from chatwright.model.directory import load_model, save_model
from chatwright.model.quantised import PackedLinear, normal_levels, pack, unpack, weight_bytes

IDS = torch.arange(3, 35).reshape(2, 16)
numbers_of_each_kind = pytest.mark.parametrize("numbers", ["int8", "nf4"])
shapes = pytest.mark.parametrize("fields", [{}, {"family": "gpt2", "key_heads": 4}, {"family": "qwen2"}])


def layer_of(inputs, outputs, *, bias=False):
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias)


def test_the_sixteen_levels_are_those_of_the_paper():
    told = [-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0]
    told += [0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0]
    torch.testing.assert_close(normal_levels(), torch.tensor(told), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("numbers", "share"), [("int8", 1 / 250), ("nf4", 0.16)])
@pytest.mark.parametrize("inputs", [64, 100])
def test_no_weight_is_further_off_than_half_a_step(numbers, share, inputs):
    layer = layer_of(inputs, 24)
    packed = PackedLinear(layer, numbers)
    largest = layer.weight.detach().abs().amax(dim=1, keepdim=True)
    assert bool(((packed.weight - layer.weight.detach()).abs() <= share * largest).all())


def test_four_bits_are_nearer_by_levels_of_a_normal_than_by_even_steps():
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    layer = nn.Linear(256, 64, bias=False)
    layer.weight.data.copy_(weight)
    grouped = weight.view(64, 4, 64)
    scale = grouped.abs().amax(2, keepdim=True) / 7
    even = ((grouped / scale).round() * scale).view_as(weight)
    assert (PackedLinear(layer, "nf4").weight - weight).norm() < 0.95 * (even - weight).norm()


@numbers_of_each_kind
def test_product_and_gradient_are_those_of_the_unpacked_layer(numbers):
    packed = PackedLinear(layer_of(64, 24, bias=True), numbers)
    plain = packed.unpacked()
    x = torch.randn(5, 3, 64, generator=torch.Generator().manual_seed(2))
    found, expected = [], []
    for layer, taken in ((packed, found), (plain, expected)):
        given = x.clone().requires_grad_()
        y = layer(given)
        y.square().sum().backward()
        taken += [y.detach(), given.grad]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@shapes
@numbers_of_each_kind
def test_a_model_read_in_few_bits_is_the_packed_one(make_network, tiny_tokenizer, tmp_path, fields, numbers):
    network = make_network(std=0.1, **fields)
    save_model(tmp_path / "model", network, tiny_tokenizer, lineage={})
    read = load_model(tmp_path / "model", numbers=numbers).network
    pack(network, numbers)
    assert sum(isinstance(module, PackedLinear) for module in read.modules()) >= 12
    assert torch.equal(read(IDS), network(IDS))
    unpack(read)
    torch.testing.assert_close(read(IDS), network(IDS))


@shapes
def test_lora_learns_on_a_packed_base_and_merges_into_it_unpacked(make_network, fields):
    network = make_network(std=0.1, **fields).requires_grad_(False)
    pack(network, "int8")
    adapter = Adapter(network, LoraConfig(rank=2))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    handles = adapter.attach(network)
    attached = network(IDS)
    attached.square().mean().backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in adapter.parameters())
    for handle in handles:
        handle.remove()
    unpack(network)
    adapter.merge(network)
    torch.testing.assert_close(network(IDS), attached, atol=1e-5 * float(attached.detach().abs().max()), rtol=0)


def test_dora_on_few_bits_is_refused(make_network):
    network = make_network()
    pack(network, "int8")
    with pytest.raises(UsageError, match="DoRA needs its base in float32"):
        Adapter(network, LoraConfig(rank=2, magnitudes=True))


@numbers_of_each_kind
def test_the_bytes_foretold_are_those_held(make_network, numbers):
    network = make_network(width=128, head_width=32, mlp_width=256)
    pack(network, numbers)
    held = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in network.state_dict().values()}
    assert sum(held.values()) == pytest.approx(weight_bytes(network.config, numbers), rel=0.03)
