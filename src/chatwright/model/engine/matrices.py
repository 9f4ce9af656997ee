"""How a weight matrix is held for inference, and multiplied: the numbers of a network, laid out for few rows.

Not for training: what is made here is a copy that shares nothing with the parameters.
Legend: N rows (tokens), I inputs, O outputs.
"""

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

WeightFormat = Literal["float32", "int8"]

_ROWS_HINT = 32  # oneDNN lays weights out for about so many rows; below 8 it takes a kernel whose sums differ by row
_FEW_ROWS = 4  # up to so many rows the int8 kernel is faster than products in bfloat16
_ALIGNMENT = 32  # inputs; the int8 kernel reads past the end of rows that its vectors do not divide
_INT8_MAX = 127.0


class Matrix(ABC):
    """A weight matrix with what stands around it in a block."""

    dtype: torch.dtype  # of what comes in and goes out

    @abstractmethod
    def times(self, x_NI: Tensor) -> Tensor:
        """`x @ weight.T + bias`."""

    def gelu_times(self, x_NI: Tensor) -> Tensor:
        """`gelu(x @ weight.T + bias)`, in its tanh form."""
        return F.gelu(self.times(x_NI), approximate="tanh")

    def gated_times(self, x_NI: Tensor, gate: "Matrix") -> Tensor:
        """`silu(x @ gate.weight.T + gate.bias) * (x @ weight.T + bias)`."""
        return F.silu(gate.times(x_NI), inplace=True).mul_(self.times(x_NI))

    def times_onto(self, x_NI: Tensor, other_NO: Tensor) -> Tensor:
        """`(x @ weight.T + bias) + other`, in the type of `other`."""
        return other_NO + self.times(x_NI)


class PlainMatrix(Matrix):
    """PyTorch's own product: for accelerators, and where oneDNN is not built in."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None):
        self.dtype = weight_OI.dtype
        self._weight_OI, self._bias_O = weight_OI, bias_O

    def times(self, x_NI: Tensor) -> Tensor:
        """See `Matrix`."""
        return F.linear(x_NI, self._weight_OI, self._bias_O)


class PackedMatrix(Matrix):
    """Weights in oneDNN's blocked layout: two to five times `F.linear` from 1 to 32 rows, and never slower.

    Each row's sums are the same bits whatever rows stand beside it: that carries the engine's promise.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None):
        self.dtype = weight_OI.dtype
        self._packed = _mkldnn()._reorder_linear_weight(weight_OI.contiguous(), _ROWS_HINT)
        self._bias_O = bias_O
        self._product: Any = _mkldnn()._linear_pointwise.default
        self._product_with: Any = _mkldnn()._linear_pointwise.binary

    def times(self, x_NI: Tensor) -> Tensor:
        """See `Matrix`."""
        return self._product(x_NI, self._packed, self._bias_O, "none", [], "")  # type: ignore[no-any-return]

    def gated_times(self, x_NI: Tensor, gate: Matrix) -> Tensor:
        """See `Matrix`."""
        if not isinstance(gate, PackedMatrix):
            return super().gated_times(x_NI, gate)
        swish_NO = self._product(x_NI, gate._packed, gate._bias_O, "swish", [], "")
        return self._product_with(x_NI, swish_NO, self._packed, self._bias_O, "mul")  # type: ignore[no-any-return]

    def times_onto(self, x_NI: Tensor, other_NO: Tensor) -> Tensor:
        """See `Matrix`."""
        return self._product_with(x_NI, other_NO, self._packed, self._bias_O, "add")  # type: ignore[no-any-return]


class Int8Matrix(Matrix):
    """Weights as whole numbers of 8 bits with one scale an output (weight only); products in bfloat16.

    Few rows read the 8-bit numbers; more rows are bound by arithmetic, not by reading, and take the same whole
    numbers held in bfloat16, which holds them exactly, so both ways multiply by the same weights.
    """

    dtype = torch.bfloat16

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None):
        largest_O = weight_OI.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        # The kernel's scales are bfloat16: weights are rounded against that very scale, not against a finer one.
        self._scale_O = (largest_O / _INT8_MAX).bfloat16()
        wide_O1 = self._scale_O.float().unsqueeze(1)
        self._weight_OI = (weight_OI / wide_O1).round_().clamp_(-_INT8_MAX, _INT8_MAX).to(torch.int8)
        self._few_rows = _FEW_ROWS if weight_OI.shape[1] % _ALIGNMENT == 0 else 0
        self._many = PackedMatrix(self._weight_OI.to(many_rows_dtype()), None)
        self._bias_O = None if bias_O is None else bias_O.bfloat16()

    def times(self, x_NI: Tensor) -> Tensor:
        """See `Matrix`."""
        if len(x_NI) <= self._few_rows:
            y_NO = torch._weight_int8pack_mm(x_NI, self._weight_OI, self._scale_O)
        else:
            y_NO = self._many.times(x_NI.to(self._many.dtype)).mul_(self._scale_O).to(self.dtype)
        return y_NO if self._bias_O is None else y_NO.add_(self._bias_O)


def rounded_to_int8(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers of 8 bits, (O, I), and the scale of each output, (O): weights are nearly their product."""
    scale_O = weight_OI.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / _INT8_MAX
    return (weight_OI / scale_O.unsqueeze(1)).round_().clamp_(-_INT8_MAX, _INT8_MAX).to(torch.int8), scale_O


def many_rows_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies it itself; emulated, it is several times slower than float32."""
    has_bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def hold(weight_OI: Tensor, bias_O: Tensor | None, *, as_format: WeightFormat) -> Matrix:
    """A matrix in the layout that is fastest where it lies.

    Args:
        weight_OI: as a linear layer has it.
        bias_O: added to every row.
        as_format: whole numbers of 8 bits are for the CPU only; elsewhere the numbers stay as they are.
    """
    weight_OI = weight_OI.detach()
    bias_O = None if bias_O is None else bias_O.detach()
    if weight_OI.device.type != "cpu" or not has_onednn():
        return PlainMatrix(weight_OI, bias_O)
    return (Int8Matrix if as_format == "int8" else PackedMatrix)(weight_OI, bias_O)


def has_onednn() -> bool:
    """Whether PyTorch's build has oneDNN's packed products, which are no public interface of it."""
    return torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def _mkldnn() -> Any:
    return torch.ops.mkldnn
