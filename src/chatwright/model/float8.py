"""Products of the blocks' matrices in 8-bit floats while a network learns: twice the rate of bfloat16 on GPUs that can.

Inputs and weights are rounded to e4m3, gradients to e5m2 (Micikevicius et al. 2022, "FP8 formats for deep learning",
section 3), each tensor with one scale that is measured as it is used: "tensorwise" in torchao's terms. Parameters keep
name, type and place, so optimizers, shards, checkpoints and exports notice nothing. Unlike torchao, the input is kept
for the backward pass in 8 bits, a weight's gradient is summed in its own type, and only training rounds: what is
measured between steps is what will be saved. Head and embeddings are left as they are.
Not for weights that are held in few bits (quantised.py), nor for answering.

Legend: N rows of anything, I inputs, O outputs.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatwright.foundation.errors import UsageError
from chatwright.model.network import Network
from chatwright.model.quantised import packs

_PRECISE = torch.float8_e4m3fn  # 3 bits of mantissa: inputs and weights
_WIDE = torch.float8_e5m2  # 5 bits of exponent: gradients
_MULTIPLE = 16  # the kernels multiply numbers of 8 bits only in rows of this many
_LEAST = 2.0**-100  # taken for the largest number of a tensor of zeros; scale and its inverse stay normal floats


class _Rounded(NamedTuple):
    """A tensor in 8 bits, and what it is multiplied by to be what it was."""

    values: Tensor
    scale: Tensor  # one float32


def _rounded(x: Tensor, dtype: torch.dtype, scale: Tensor | None = None) -> _Rounded:
    """The nearest 8-bit floats, the largest number at the end of their range. What is not finite makes all of it so."""
    if scale is None:
        scale = x.detach().abs().amax().float().clamp(min=_LEAST) / torch.finfo(dtype).max
    return _Rounded((x.detach().float() / scale).to(dtype), scale)


def _product(left: _Rounded, right: _Rounded, dtype: torch.dtype, *, is_fast: bool = False) -> Tensor:
    """`left @ right` in another type. The kernels read `left` along its rows and `right` along its columns.

    Args:
        left: (N, K).
        right: (K, M).
        dtype: of the result.
        is_fast: sums in fewer bits on the GPU, as torchao has it forward.
    """
    return torch._scaled_mm(
        left.values.contiguous(),
        right.values.t().contiguous().t(),
        scale_a=left.scale,
        scale_b=right.scale,
        out_dtype=dtype,
        use_fast_accum=is_fast,
    )


class _Float8Product(torch.autograd.Function):
    """`x @ weight.T` and its two gradients, all three in float8."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor, dtype: torch.dtype) -> Tensor:
        x, weight = _rounded(x_NI, _PRECISE), _rounded(weight_OI, _PRECISE)
        # The weight itself and not its 8 bits: what is gathered from shards can be let go until it is needed again.
        ctx.save_for_backward(*x, weight_OI, weight.scale)
        ctx.input_dtype = x_NI.dtype
        return _product(x, _Rounded(weight.values.t(), weight.scale), dtype, is_fast=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_values, x_scale, weight_OI, weight_scale = ctx.saved_tensors
        gradient = _rounded(gradients[0], _WIDE)
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            to_x = _product(gradient, _rounded(weight_OI, _PRECISE, weight_scale), ctx.input_dtype)
        if ctx.needs_input_grad[1]:
            columns = _Rounded(_whole_rows(gradient.values).t(), gradient.scale)
            to_weight = _product(columns, _Rounded(_whole_rows(x_values), x_scale), weight_OI.dtype)
        return to_x, to_weight, None


def _whole_rows(values: Tensor) -> Tensor:
    """Rows of zeros added up to a number that the kernels sum over: a weight's gradient is a sum over rows."""
    missing = -len(values) % _MULTIPLE
    if not missing:
        return values
    whole = values.new_zeros(len(values) + missing, values.shape[1])
    whole[: len(values)] = values  # `cat` refuses 8 bits within autocast
    return whole


class Float8Linear(nn.Linear):
    """A linear layer that multiplies in float8 while it learns; evaluating, it is a plain one.

    Args:
        layer: whose parameters are shared, not copied.
    """

    def __init__(self, layer: nn.Linear):
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the parameter's name in `nn.Linear`
        """`input @ weight.T + bias`, in the type of autocast, or the input's where there is none."""
        if not self.training:
            return F.linear(input, self.weight, self.bias)
        kind = input.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
        rows_NI = input.reshape(-1, self.in_features)
        y_NO: Tensor = _Float8Product.apply(rows_NI, self.weight, dtype)  # type: ignore[no-untyped-call]
        y = y_NO.view(*input.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(dtype)


def multiply_in_float8(network: Network) -> None:
    """Let all of a network's block matrices multiply in float8 while it learns, in place.

    Raises:
        UsageError: blocks that do not learn, or sizes that the kernels cannot multiply; all of them are named.
    """
    layers = _block_layers(network)
    if not any(parameter.requires_grad for parameter in network.model.layers.parameters()):
        raise UsageError(
            '`precision = "float8"` trains networks, not adapters or heads on frozen ones',
            hint='set `precision = "bfloat16"` or `"auto"`',
        )
    problems = [
        f"`{name.rpartition('.')[2]}` has {layer.in_features} inputs and {layer.out_features} outputs"
        for name, layer in layers.items()
        if layer.in_features % _MULTIPLE or layer.out_features % _MULTIPLE
    ]
    if problems:
        raise UsageError(
            f'`precision = "float8"` multiplies only sizes that {_MULTIPLE} divides',
            cause="; ".join(dict.fromkeys(problems)),  # once for all blocks
            hint="choose such `width`, `mlp_width`, `heads`, `key_heads` and `head_width`, or another `precision`",
        )
    for name, layer in layers.items():
        place, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(place), leaf, Float8Linear(layer))


def _block_layers(network: Network) -> dict[str, nn.Linear]:
    """The blocks' linear layers by name; those that multiply in float8 already are left out."""
    return {
        name: module
        for name, module in network.named_modules()
        if type(module) is nn.Linear and packs(f"{name}.weight")
    }
