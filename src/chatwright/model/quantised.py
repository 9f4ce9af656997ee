"""A frozen base in few bits: linear layers whose weights are held as 8-bit whole numbers or 4-bit normal floats.

For training adapters on a model that would not fit in float32. A product takes the weights back to float32 for as long
as it lasts, in the backward pass again, so that nothing but the few bits stays in memory. (PyTorch's own products of
quantised weights keep the float weights for the backward pass; see docs/log.md.) Not for serving: engine/matrices.py.

Legend: O outputs, I inputs, N rows of anything, S groups of an output's weights.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatwright.model.config import ModelConfig
from chatwright.model.network import Network

Numbers = Literal["float32", "int8", "nf4"]

_INT8_MAX = 127
_GROUP = 64  # weights that share a scale in 4 bits (Dettmers et al. 2023, section 3)
_ROWS = 128  # of 4-bit weights that are looked up at once: the indices take as much memory as the result
_TAIL = 0.9677083  # of the normal distribution, where the outermost of the 16 levels stand (their appendix E)


def normal_levels() -> Tensor:
    """The 16 values of a normal float: quantiles of a normal distribution, zero among them, in [-1, 1]; (16,)."""
    above = _quantiles(8)
    below = -_quantiles(7)
    levels = torch.cat([below, torch.zeros(1, dtype=torch.float64), above]).sort().values
    return (levels / levels.abs().max()).float()


def _quantiles(count: int) -> Tensor:
    """So many positive quantiles, evenly spread in probability from the tail to the middle, which is left out."""
    shares = torch.linspace(_TAIL, 0.5, count + 1, dtype=torch.float64)[:-1]
    return torch.erfinv(2 * shares - 1) * 2**0.5


class _Packed(NamedTuple):
    """Weights in few bits, and what they are multiplied by."""

    values: Tensor
    scale: Tensor


def _pack_int8(weight_OI: Tensor) -> _Packed:
    scale_O1 = weight_OI.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / _INT8_MAX
    return _Packed((weight_OI / scale_O1).round_().to(torch.int8), scale_O1)


def _pack_nf4(weight_OI: Tensor) -> _Packed:
    levels = normal_levels().to(weight_OI.device)
    grouped = F.pad(weight_OI, (0, -weight_OI.shape[1] % _GROUP)).reshape(len(weight_OI), -1, _GROUP)
    scale_OS1 = grouped.abs().amax(dim=2, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    between = (levels[1:] + levels[:-1]) / 2
    numbers = torch.bucketize(grouped / scale_OS1, between).to(torch.uint8).flatten(1)
    return _Packed(numbers[:, ::2] << 4 | numbers[:, 1::2], scale_OS1)


class Workspace:
    """Memory for one matrix in float32, shared by all layers of a network: only one is multiplied at a time.

    Taken anew for each product it would leave holes that saved activations break up: measured, as much memory as the
    float weights themselves (docs/log.md).
    """

    def __init__(self) -> None:
        self._numbers = torch.empty(0)
        levels = normal_levels()
        self._pairs = torch.stack([levels.repeat_interleave(16), levels.repeat(16)], dim=1)

    def take(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """A matrix of anything, until the next call."""
        if self._numbers.numel() < rows * columns or self._numbers.device != device:
            with torch.inference_mode(False):  # or a measurement's memory could not be written in training
                self._numbers = torch.empty(rows * columns, device=device)
        return self._numbers[: rows * columns].view(rows, columns)

    def pairs(self, device: torch.device) -> Tensor:
        """The two weights that each byte of 4-bit numbers stands for; (256, 2)."""
        self._pairs = self._pairs.to(device)
        return self._pairs


class PackedLinear(nn.Module):
    """A frozen linear layer in few bits.

    Args:
        layer: whose weights are taken; its bias is shared.
        numbers: how they are held.
        workspace: of the network.
    """

    def __init__(self, layer: nn.Linear, numbers: Literal["int8", "nf4"], workspace: Workspace | None = None):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self._workspace = workspace or Workspace()
        weight_OI = layer.weight.detach().float()
        packed = _pack_int8(weight_OI) if numbers == "int8" else _pack_nf4(weight_OI)
        self.register_buffer("_values", packed.values)
        self.register_buffer("_scale", packed.scale)

    @property
    def weight(self) -> Tensor:
        """The weights that this layer computes with, in float32, in memory of their own; (O, I)."""
        return self._unpacked_weight().clone()

    def _unpacked_weight(self) -> Tensor:
        """The same in the workspace: good until another layer is multiplied."""
        if self._values.dtype == torch.int8:
            whole = self._workspace.take(self.out_features, self.in_features, self._values.device)
            return whole.copy_(self._values).mul_(self._scale)  # `mul` would convert into a matrix of its own first
        whole = self._workspace.take(self.out_features, 2 * self._values.shape[1], self._values.device)
        pairs = self._workspace.pairs(self._values.device)
        for start in range(0, self.out_features, _ROWS):
            rows = slice(start, start + _ROWS)
            torch.index_select(pairs, 0, self._values[rows].flatten().int(), out=whole[rows].view(-1, 2))
        whole.view(self.out_features, -1, _GROUP).mul_(self._scale)
        return whole[:, : self.in_features]

    def forward(self, x: Tensor) -> Tensor:
        """`x @ weight.T + bias`, with a gradient for `x`."""
        y: Tensor = _FrozenProduct.apply(x, self)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias

    def unpacked(self) -> nn.Linear:
        """A linear layer in float32 with the weights that this one computed with."""
        layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        layer.weight = nn.Parameter(self.weight.contiguous(), requires_grad=False)
        layer.bias = self.bias
        return layer

    _values: Tensor
    _scale: Tensor


class _FrozenProduct(torch.autograd.Function):
    """A product with frozen weights that keeps neither its input nor the weights for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer._unpacked_weight().to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.layer._unpacked_weight().to(gradient.dtype), None


def packs(name: str) -> bool:
    """Whether the weights of this name are held in few bits: the blocks' matrices; embeddings and norms are not."""
    return ".layers." in f".{name}" and name.endswith("_proj.weight")


def pack_layer(network: Network, weight: str, numbers: Literal["int8", "nf4"], workspace: Workspace) -> None:
    """Hold one layer in few bits from now on, named by its weight."""
    place, _, leaf = weight.removesuffix(".weight").rpartition(".")
    parent = network.get_submodule(place)
    layer = getattr(parent, leaf)
    setattr(parent, leaf, PackedLinear(layer, numbers, workspace))


def pack(network: Network, numbers: Literal["int8", "nf4"]) -> None:
    """Hold all of a network's block matrices in few bits; nothing of them can be trained then."""
    workspace = Workspace()
    for name in [name for name, _ in network.named_parameters() if packs(name)]:
        pack_layer(network, name, numbers, workspace)


def unpack(network: Network) -> None:
    """Back to float32, with the very weights that the few bits stood for. Without effect on a plain network."""
    names = [name for name, module in network.named_modules() if isinstance(module, PackedLinear)]
    for name in names:  # one at a time, so that what is unpacked is not held twice
        place, _, leaf = name.rpartition(".")
        parent = network.get_submodule(place)
        setattr(parent, leaf, getattr(parent, leaf).unpacked())


def weight_bytes(config: ModelConfig, numbers: Numbers) -> int:
    """Memory of a network's weights when its block matrices are held so."""
    total = config.num_parameters()
    if numbers == "float32":
        return 4 * total
    blocks = config.layers * config.block_matrices()
    # A scale for each output row is little beside the rows; for each group of 64 it is a sixteenth of a byte a weight.
    per_weight = 1.0 if numbers == "int8" else 0.5 + 4 / _GROUP
    return int(4 * (total - blocks) + per_weight * blocks)
