"""Cross-entropy of an output projection that never holds all scores: gradients are taken piece by piece, in one pass.

The gradient of a piece follows from its scores alone, so it is computed while they are there, and nothing is kept or
computed again in the backward pass (the idea of Hsu et al. 2024, "Liger Kernel", section 3.2, in plain PyTorch).
Unlike theirs, the sum over pieces is kept in float32. Not for losses that need more than targets.
Legend: N positions, D width, V vocabulary, C positions of a piece.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Scores held at once: on a CPU what a core's caches hold, on a GPU what keeps its multiprocessors busy.
_CPU_SCORES = 4 << 20
_GPU_SCORES = 64 << 20
_LEAST_ROWS = 64  # of a piece; shorter matrices are slow


def summed_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """-log p of each target under softmax(hidden weight^T), summed, in nats; a scalar with a gradient.

    Equal to `F.cross_entropy(hidden @ weight.T, targets, reduction="sum")` up to rounding. Under autocast the matrices
    are multiplied in its type, the loss is float32.
    """
    return _Summed.apply(hidden_ND, weight_VD, targets_N)  # type: ignore[no-any-return, no-untyped-call]


def rows_at_once(vocabulary_size: int, device: torch.device) -> int:
    """Positions of a piece."""
    return max(_LEAST_ROWS, (_GPU_SCORES if device.type == "cuda" else _CPU_SCORES) // vocabulary_size)


class _Summed(torch.autograd.Function):
    """Forward computes the gradients too; backward scales them."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        kind = hidden_ND.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_ND.dtype
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        with torch.autocast(kind, enabled=False):
            low_VD = weight_VD.detach().to(dtype)
            grad_hidden_ND = torch.empty_like(hidden_ND) if wants_hidden else None
            grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if wants_weight else None
            total = torch.zeros((), device=hidden_ND.device)
            rows = rows_at_once(len(weight_VD), hidden_ND.device)
            for start in range(0, len(targets_N), rows):
                piece = slice(start, start + rows)
                low_CD = hidden_ND[piece].detach().to(dtype)
                scores_CV = (low_CD @ low_VD.T).float()
                targets_C1 = targets_N[piece].unsqueeze(1)
                log_CV = F.log_softmax(scores_CV, dim=1)
                total -= log_CV.gather(1, targets_C1).sum()
                if not (wants_hidden or wants_weight):
                    continue
                share_CV = log_CV.exp_()
                share_CV.scatter_add_(1, targets_C1, torch.full_like(targets_C1, -1.0, dtype=torch.float32))
                low_CV = share_CV.to(dtype)
                if grad_hidden_ND is not None:
                    grad_hidden_ND[piece] = low_CV @ low_VD
                if grad_weight_VD is not None:
                    _add_product(grad_weight_VD, low_CV, low_CD)
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        return (
            None if grad_hidden_ND is None else grad_hidden_ND * grads[0].to(grad_hidden_ND.dtype),
            None if grad_weight_VD is None else grad_weight_VD * grads[0],
            None,
        )


def _add_product(sum_VD: Tensor, left_CV: Tensor, right_CD: Tensor) -> None:
    """Add left^T right to the sum, in float32 whatever the factors' type."""
    if left_CV.dtype == sum_VD.dtype:
        sum_VD.addmm_(left_CV.T, right_CD)
    else:
        sum_VD += left_CV.T @ right_CD
