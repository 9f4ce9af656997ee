"""How much of the machine a training uses: the model's arithmetic over what a plain matrix product reaches here.

The ceiling is measured on this machine when a run starts, not taken from a data sheet. Arithmetic is the model's own
(`ModelConfig.flops_per_token`): the optimizer's and recomputed activations are not counted as use
(Chowdhery et al. 2022, PaLM, appendix B: model FLOP utilisation).
"""

import time
from typing import NamedTuple

import torch

from chatwright.foundation.devices import Placement

_CPU_SIZE, _GPU_SIZE = 1024, 8192  # of square matrices: large enough for the best rate, small enough for a moment
_REPEATS = 8


class Meter(NamedTuple):
    """What turns tokens a second into a share of the ceiling."""

    flops_per_token: float
    ceiling: float  # operations a second, of all ranks together

    def share(self, tokens_per_second: float) -> float:
        """Model FLOP utilisation, 0 to 1."""
        return tokens_per_second * self.flops_per_token / self.ceiling


def measured_meter(flops_per_token: float | None, placement: Placement, *, num_ranks: int) -> Meter | None:
    """A meter for this machine; None where the arithmetic of a token is not known."""
    return None if flops_per_token is None else Meter(flops_per_token, num_ranks * measured_ceiling(placement))


def measured_ceiling(placement: Placement) -> float:
    """Operations a second of a square matrix product in the placement's precision, the best of some."""
    device = placement.device
    size = _GPU_SIZE if device.type == "cuda" else _CPU_SIZE
    dtype = placement.autocast_dtype or torch.float32
    left, right = torch.full((2, size, size), 0.5, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(_REPEATS):
        _wait(device)
        began = time.perf_counter()
        left @ right
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
