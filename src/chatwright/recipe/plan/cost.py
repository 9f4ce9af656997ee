"""What a training costs: operations of a step and bytes at its peak, from the shape alone."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from chatwright.model.config import ModelConfig
from chatwright.model.network import Network
from chatwright.train.batches import MicroBatch
from chatwright.train.objectives import _MAX_SCORES, next_token

_FLOAT = 4  # bytes: weights, gradients and moments are float32
_NEWTON_SCHULZ_STEPS = 5


class Memory(NamedTuple):
    """Bytes at the peak of a training step, by what holds them."""

    weights: int
    gradients: int
    moments: int
    activations: int
    scores: int  # around the loss: its gradient over the vocabulary, twice
    process: int  # the program itself, before there is a network

    @property
    def total(self) -> int:
        """The larger of the step's two peaks: at the loss, and at the end of the backward pass."""
        at_loss = self.activations + self.scores
        at_end = self.gradients + self.activations // 8  # the first layers' are the last to go
        return self.process + self.weights + self.moments + max(at_loss, at_end)


def step_flops(shape: ModelConfig, tokens: int) -> float:
    """Operations of one optimizer step over so many tokens: the network's, and Muon's own."""
    return tokens * shape.flops_per_token() + muon_flops(shape)


def muon_flops(shape: ModelConfig) -> float:
    """Newton-Schulz: 4 m^2 n + 2 m^3 a round for a matrix of m by n, m the smaller (Jordan et al. 2024)."""
    total = 0.0
    for rows, columns in block_matrices(shape):
        small, large = min(rows, columns), max(rows, columns)
        total += _NEWTON_SCHULZ_STEPS * (4.0 * small * small * large + 2.0 * small**3)
    return shape.layers * total


def block_matrices(shape: ModelConfig) -> list[tuple[int, int]]:
    """Rows and columns of one layer's matrices."""
    inner, shared = shape.heads * shape.head_width, shape.key_heads * shape.head_width
    attention = [(inner, shape.width), (shared, shape.width), (shared, shape.width), (shape.width, inner)]
    return attention + [(shape.mlp_width, shape.width)] * 2 + [(shape.width, shape.mlp_width)]


def memory(shape: ModelConfig, *, micro_rows: int, precision: str, process: int = 0) -> Memory:
    """Bytes of a training step by Muon and AdamW.

    Activations are counted, not estimated: the network and its loss run once on tensors that have shapes and no
    memory, and what autograd keeps for the backward pass is added up. One layer and two are enough, the rest is equal.
    """
    total = shape.num_parameters()
    one, two = (_kept(shape, layers, micro_rows, precision) for layers in (1, 2))
    scores = 2 * _FLOAT * min(micro_rows * shape.context_length * shape.vocabulary_size, _MAX_SCORES)
    return Memory(
        weights=_FLOAT * total,
        gradients=_FLOAT * total,
        moments=static_bytes(shape) - 2 * _FLOAT * total,
        activations=one + (shape.layers - 1) * (two - one),
        scores=scores,
        process=process,
    )


def static_bytes(shape: ModelConfig) -> int:
    """Weights, gradients and moments: Muon keeps one moment for a matrix of the blocks, AdamW two for the rest."""
    by_muon = shape.layers * sum(rows * columns for rows, columns in block_matrices(shape))
    return _FLOAT * (4 * shape.num_parameters() - by_muon)


def _kept(shape: ModelConfig, layers: int, rows: int, precision: str) -> int:
    """Bytes that autograd keeps between forward and backward, weights left out, each storage once."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    def give(tensor: Any) -> Any:
        return tensor

    with FakeTensorMode():
        network = Network(shape.model_copy(update={"layers": layers}))
        ids_BT = torch.zeros(rows, shape.context_length, dtype=torch.long)
        low = precision != "float32"
        dtype = getattr(torch, precision) if low else torch.bfloat16
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, give)
        with hooks, torch.autocast("cpu", dtype=dtype, enabled=low):
            next_token(network, MicroBatch(ids_BT, ids_BT, ids_BT.numel()))
        own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
        return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own)
