"""What a training costs: operations of a step and bytes at its peak, from the shape alone."""

from typing import NamedTuple

from chatwright.model.config import ModelConfig
from chatwright.train.footprint import FLOAT_BYTES, block_matrices, kept_bytes, static_bytes
from chatwright.train.objectives import _MAX_SCORES

# What counting tensors does not see, fitted to the peaks of ten trainings on a CPU (`bench/plan_memory.py`; docs/log.md
# has them): holes in the heap, a group of matrices stacked for Muon, the loss's copies, libraries loaded at first use.
_HELD_FACTOR = 1.17  # of weights, gradients and moments
_KEPT_FACTOR = 1.06  # of activations
_SCORE_COPIES = 3.7  # of the scores, beside the one that autograd keeps
MEMORY_SHARE = 0.7  # of what is free that a plan may take: the rest is the system's and our error's
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
    gathered: int = 0  # whole parameters that a device has for a while where the model lies in shards

    @property
    def total(self) -> int:
        """At the loss, where all activations and the scores' copies are held together."""
        held = _HELD_FACTOR * (self.weights + self.gradients + self.moments)
        return round(self.process + held + _KEPT_FACTOR * self.activations + self.scores) + self.gathered


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


def memory(shape: ModelConfig, *, micro_rows: int, precision: str, process: int = 0) -> Memory:
    """Bytes of a training step by Muon and AdamW.

    Activations are counted, not estimated (`train/footprint.py`).
    """
    total = shape.num_parameters()
    scored = min(micro_rows * shape.context_length * shape.vocabulary_size, _MAX_SCORES)
    return Memory(
        weights=FLOAT_BYTES * total,
        gradients=FLOAT_BYTES * total,
        moments=static_bytes(shape) - 2 * FLOAT_BYTES * total,
        activations=kept_bytes(shape, rows=micro_rows, precision=precision),
        scores=round(_SCORE_COPIES * FLOAT_BYTES * scored),
        process=process,
    )
