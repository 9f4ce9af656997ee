"""Products in 8-bit floats: as near as the format allows, never quiet about what it cannot hold, nothing else touched."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from chatwright.foundation import devices
from chatwright.foundation.errors import UsageError
from chatwright.model.config import ModelConfig
from chatwright.model.float8 import Float8Linear, multiply_in_float8
from chatwright.model.network import Network

SHAPE = {"width": 32, "layers": 2, "heads": 2, "key_heads": 1, "head_width": 16, "mlp_width": 48, "context_length": 16}
PRECISE, WIDE = 2.0**-4, 2.0**-3  # half a unit in the last place of e4m3 and e5m2, relative to the number


def layer_with(*, seed=0, bias=True):
    generator = torch.Generator().manual_seed(seed)
    plain = nn.Linear(64, 48, bias=bias)
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return plain, torch.randn(3, 7, 64, generator=generator), torch.randn(3, 7, 48, generator=generator)


def results(layer, x, gradient):
    """The product and its gradients by input, weight and bias."""
    x = x.clone().requires_grad_()
    y = layer(x)
    return [y.detach(), *torch.autograd.grad(y, (x, *layer.parameters()), gradient.to(y.dtype))]


def network_of(**fields):
    network = Network(ModelConfig(**SHAPE | fields, vocabulary_size=50))
    network.initialise(torch.Generator().manual_seed(0))
    return network


def error_of(one, other):
    return float((one.float() - other).norm() / other.norm())


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
def test_product_and_gradients_are_as_near_as_their_formats(scale):
    plain, x, gradient = layer_with(bias=False)
    wanted = results(plain, x * scale, gradient / scale)
    found = results(Float8Linear(plain), x * scale, gradient / scale)
    y, to_x, to_weight = map(error_of, found, wanted)
    # Roundings are independent: their mean square is a third of the bound, and a product has two of them.
    assert 1e-3 < y < PRECISE
    assert 1e-3 < to_x < WIDE
    assert 1e-3 < to_weight < WIDE


def test_a_bias_is_added_in_the_type_of_the_result():
    plain, x, gradient = layer_with()
    y, *_, to_bias = results(Float8Linear(plain), x, gradient)
    wanted, *_, wanted_to_bias = results(plain, x, gradient)
    assert error_of(y, wanted) < PRECISE
    assert error_of(to_bias, wanted_to_bias) < 1e-6


def test_numbers_that_eight_bits_hold_are_multiplied_exactly():
    plain, x, gradient = layer_with(bias=False)
    with torch.no_grad():
        plain.weight.copy_(torch.randint(-7, 8, (48, 64)))
        plain.weight[0, 0] = 7.0
    x = torch.randint(-7, 8, x.shape).float()
    x[0, 0, 0] = 7.0
    gradient = torch.randint(-3, 4, gradient.shape).float()
    gradient[0, 0, 0] = 3.5
    for one, other in zip(results(Float8Linear(plain), x, gradient), results(plain, x, gradient), strict=True):
        assert error_of(one, other) < 1e-6  # 448 / 7 and 57344 / 3.5 are powers of two, so nothing is rounded


def test_results_have_the_types_of_autocast_and_of_the_parameters():
    plain, x, gradient = layer_with()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, to_x, to_weight, to_bias = results(Float8Linear(plain), x, gradient)
    assert y.dtype == torch.bfloat16
    assert {to_x.dtype, to_weight.dtype, to_bias.dtype} == {torch.float32}


def test_a_layer_that_evaluates_is_a_plain_one():
    plain, x, _ = layer_with()
    assert torch.equal(Float8Linear(plain).eval()(x), F.linear(x, plain.weight, plain.bias))


def test_zeros_stay_zeros_with_gradients():
    plain, x, gradient = layer_with(bias=False)
    nn.init.zeros_(plain.weight)  # as output projections begin
    y, to_x, to_weight = results(Float8Linear(plain), x, gradient)
    assert not y.any()
    assert not to_x.any()
    assert error_of(to_weight, results(plain, x, gradient)[2]) < WIDE


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["input", "weight", "gradient"])
def test_what_is_not_finite_is_never_rounded_away(where, value):
    plain, x, gradient = layer_with(bias=False)
    with torch.no_grad():
        {"input": x, "weight": plain.weight, "gradient": gradient}[where].view(-1)[5] = value
    y, to_x, to_weight = results(Float8Linear(plain), x, gradient)
    struck = [to_x, to_weight] if where == "gradient" else [y]
    assert not any(bool(one.isfinite().all()) for one in struck)


def test_only_the_blocks_change_and_parameters_stay_the_same_ones():
    network = network_of()
    before = dict(network.named_parameters())
    multiply_in_float8(network)
    after = dict(network.named_parameters())
    assert list(before) == list(after)
    assert all(before[name] is after[name] for name in before)
    changed = [name for name, module in network.named_modules() if isinstance(module, Float8Linear)]
    assert len(changed) == 2 * 7
    assert all(name.startswith("model.layers.") for name in changed)
    multiply_in_float8(network)  # as a second training of the same network does
    assert changed == [name for name, module in network.named_modules() if isinstance(module, Float8Linear)]


def test_sizes_that_cannot_be_multiplied_are_all_named():
    with pytest.raises(UsageError, match="16 divides") as caught:
        multiply_in_float8(network_of(mlp_width=40, head_width=8))
    for part in (
        "`k_proj` has 32 inputs and 8 outputs",
        "`gate_proj` has 32 inputs and 40",
        "`down_proj` has 40 inputs",
    ):
        assert part in caught.value.cause
    assert "q_proj" not in caught.value.cause


def test_frozen_blocks_are_refused():
    with pytest.raises(UsageError, match="not adapters or heads"):
        multiply_in_float8(network_of().requires_grad_(False))


def test_a_cpu_says_that_it_emulates():
    placement = devices.place(device="cpu", precision="float8", threads=1, keeps_freed_memory=False)
    assert placement.autocast_dtype == torch.bfloat16
    assert "emulated" in placement.reason


@pytest.mark.parametrize(
    ("hip", "capability", "lacking"),
    [
        (None, (8, 0), "capability 8.0, float8 begins at 8.9"),
        (None, (8, 9), None),
        (None, (9, 0), None),
        (None, (10, 0), None),
        ("6.4", (9, 4), "ROCm 6.4"),
    ],
)
def test_gpus_without_float8_are_refused_by_what_they_lack(hip, capability, lacking):
    found = devices._float8_lacks(hip, capability)
    assert found is None if lacking is None else lacking in found
