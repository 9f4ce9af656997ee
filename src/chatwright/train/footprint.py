"""Bytes that a training step takes, counted on tensors that have shapes and no memory. Not for what is measured.

`fitting` finds what fits by trying; this is for before there is a network.
"""

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from chatwright.foundation.devices import autocast_dtype
from chatwright.model.config import ModelConfig
from chatwright.model.network import Network
from chatwright.train.batches import MicroBatch
from chatwright.train.objectives import next_token

FLOAT_BYTES = 4  # weights, gradients and moments are float32


def block_matrices(shape: ModelConfig) -> list[tuple[int, int]]:
    """Rows and columns of one layer's matrices."""
    inner, shared = shape.heads * shape.head_width, shape.key_heads * shape.head_width
    attention = [(inner, shape.width), (shared, shape.width), (shared, shape.width), (shape.width, inner)]
    inward = 1 if shape.is_gpt2 else 2  # without a gate, or with one
    return attention + [(shape.mlp_width, shape.width)] * inward + [(shape.width, shape.mlp_width)]


def static_bytes(shape: ModelConfig) -> int:
    """Weights, gradients and moments: Muon keeps one moment for a matrix of the blocks, AdamW two for the rest."""
    by_muon = shape.layers * shape.block_matrices()
    return FLOAT_BYTES * (4 * shape.num_parameters() - by_muon)


def kept_bytes(shape: ModelConfig, *, rows: int, precision: str) -> int:
    """Bytes that autograd keeps between forward and backward for so many rows of the context, weights left out.

    The network and its loss run once on tensors without memory. One layer and two are enough, the rest is equal.
    """
    one, two = (_kept(shape, layers, rows, precision) for layers in (1, 2))
    return one + (shape.layers - 1) * (two - one)


def _kept(shape: ModelConfig, layers: int, rows: int, precision: str) -> int:
    """The same for so many layers, each storage once."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    def give(tensor: Any) -> Any:
        return tensor

    with FakeTensorMode():
        network = Network(shape.model_copy(update={"layers": layers}))
        ids_BT = torch.zeros(rows, shape.context_length, dtype=torch.long)
        dtype = autocast_dtype(precision)  # of float8, too, whose inputs take less: an upper bound
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, give)
        with hooks, torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            next_token(network, MicroBatch(ids_BT, ids_BT, ids_BT.numel()))
        own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
        return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own)
