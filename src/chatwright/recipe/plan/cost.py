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
# What counting tensors does not see, fitted to the peaks of ten trainings on a CPU (`bench/plan_memory.py`; docs/log.md
# has them): holes in the heap, a group of matrices stacked for Muon, the loss's copies, libraries loaded at first use.
_HELD_FACTOR = 1.17  # of weights, gradients and moments
_KEPT_FACTOR = 1.06  # of activations
_SCORE_COPIES = 3.7  # of the scores, beside the one that autograd keeps
FIRST_USE_BYTES = 117_000_000  # on a CPU
_NEWTON_SCHULZ_STEPS = 5


class Memory(NamedTuple):
    """Bytes at the peak of a training step, by what holds them."""

    weights: int
    gradients: int
    moments: int
    activations: int
    scores: int  # around the loss: copies of its scores over the vocabulary
    process: int  # the program itself, before there is a network

    @property
    def total(self) -> int:
        """At the loss, where all activations and the scores' copies are held together."""
        held = _HELD_FACTOR * (self.weights + self.gradients + self.moments)
        return round(self.process + held + _KEPT_FACTOR * self.activations + self.scores)


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
    scored = min(micro_rows * shape.context_length * shape.vocabulary_size, _MAX_SCORES)
    return Memory(
        weights=_FLOAT * total,
        gradients=_FLOAT * total,
        moments=static_bytes(shape) - 2 * _FLOAT * total,
        activations=one + (shape.layers - 1) * (two - one),
        scores=round(_SCORE_COPIES * _FLOAT * scored),
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
