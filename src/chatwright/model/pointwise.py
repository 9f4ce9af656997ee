"""Norm and rotation with their gradients written out: on a CPU fewer passes over memory than autograd's own.

Not for accelerators, where a compiler joins the passes. Gradients of gradients are not to be had.
Legend: D width, K head width, R = K / 2.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def is_worthwhile(x: Tensor) -> bool:
    """Whether gradients are wanted of numbers on a CPU, outside of what is being compiled."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class _RootMeanSquareNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        wide = x.float()  # below, the operations of `F.rms_norm` in its order: the same bits with gradients and without
        inverse = wide.pow(2).mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        unit = wide * inverse
        ctx.save_for_backward(unit, inverse, weight_D)
        ctx.dtype = x.dtype
        return torch.mul(unit, weight_D).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        unit, inverse, weight_D = ctx.saved_tensors
        wide = gradient.float()
        product = wide * unit
        is_frozen = not ctx.needs_input_grad[1]
        weight_gradient_D = None if is_frozen else product.flatten(0, -2).sum(0).to(weight_D.dtype)
        share = torch.matmul(product, weight_D.float()).mul_(1 / unit.shape[-1]).unsqueeze(-1)
        found = torch.mul(wide, weight_D, out=product).addcmul_(unit, share, value=-1).mul_(inverse)
        return found.to(ctx.dtype), weight_gradient_D, None


def root_mean_square_norm(x: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    """Divided by the root of the mean square plus epsilon, times the weight (Zhang and Sennrich 2019), in float32.

    With u = x / rms and g = dL/dy, dL/dx = (g w - u mean(g w u)) / rms and dL/dw = sum(g u).

    Args:
        x: any shape that ends in D.
        weight_D: of the norm.
        epsilon: added to the mean square.

    Returns:
        The shape and type of `x`.
    """
    return _RootMeanSquareNorm.apply(x, weight_D, epsilon)  # type: ignore[no-any-return, no-untyped-call]


def _turned(x: Tensor, cosine: Tensor, sine: Tensor, *, back: bool) -> Tensor:
    """Pairs (i, i + R) turned by their angles, or back, in the wider of both types."""
    found = torch.empty_like(x, dtype=torch.promote_types(x.dtype, cosine.dtype))
    first, second = x.chunk(2, dim=-1)
    first_found, second_found = found.chunk(2, dim=-1)
    sine = -sine if back else sine
    torch.mul(first, cosine, out=first_found).sub_(second * sine)
    torch.mul(second, cosine, out=second_found).add_(first * sine)
    return found


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        ctx.dtype = x.dtype
        return _turned(x, cosine, sine, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _turned(gradient, cosine, sine, back=True).to(ctx.dtype), None, None


def rotation(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Each pair (i, i + R) of the last dimension turned by its angle; the gradient is the turn back.

    Args:
        x: (..., K).
        cosine: of the angles, (..., R), as broadcasting wants it; no gradient flows there.
        sine: the same.
    """
    return _Rotation.apply(x, cosine, sine)  # type: ignore[no-any-return, no-untyped-call]
