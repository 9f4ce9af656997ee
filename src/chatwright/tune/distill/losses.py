"""How far a student is from its teacher: divergences between next-token distributions, mixed with the plain loss.

Pure functions; not for where the teacher's scores come from (teacher.py).
Legend: N positions, V vocabulary, K the likeliest tokens that were kept. Divergences are in nats, per position.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from chatwright.foundation.config import Config

_MAX_EXPONENT = 80.0  # beyond it e^x leaves float32; the share that it stands for is nothing
_SMALLEST_REST = 1e-12  # shares below it are float32's noise


def forward_kl(student_NV: Float[Tensor, "N V"], teacher_NV: Float[Tensor, "N V"]) -> Float[Tensor, "N"]:
    """`KL(teacher || student)` of log-probabilities: the student covers all that the teacher may say (Hinton 2015)."""
    return (teacher_NV.exp() * (teacher_NV - student_NV)).sum(dim=-1)


def reverse_kl(student_NV: Float[Tensor, "N V"], teacher_NV: Float[Tensor, "N V"]) -> Float[Tensor, "N"]:
    """`KL(student || teacher)`: the student keeps to what the teacher is sure of (Gu et al. 2023, MiniLLM)."""
    return (student_NV.exp() * (student_NV - teacher_NV)).sum(dim=-1)


def generalised_jsd(
    student_NV: Float[Tensor, "N V"], teacher_NV: Float[Tensor, "N V"], *, beta: float
) -> Float[Tensor, "N"]:
    """The generalised Jensen-Shannon divergence (Agarwal et al. 2023, GKD, equation 1), divided by `beta (1 - beta)`.

    With the mixture `M = beta T + (1 - beta) S`, `JSD = beta KL(T || M) + (1 - beta) KL(S || M)`. It vanishes towards
    both ends like `beta KL(T || S)` and `(1 - beta) KL(S || T)`, so that a sweep of beta would sweep the learning rate
    with it. Divided as here it goes over into `forward_kl` at 0 and `reverse_kl` at 1, without a jump.

    Args:
        student_NV: log-probabilities.
        teacher_NV: log-probabilities.
        beta: 0 is the forward divergence, 1 the reverse.
    """
    if beta == 0:
        return forward_kl(student_NV, teacher_NV)
    if beta == 1:
        return reverse_kl(student_NV, teacher_NV)
    if beta <= 0.5:
        return _jsd_from(student_NV, teacher_NV, share=beta)
    return _jsd_from(teacher_NV, student_NV, share=1 - beta)


def _jsd_from(near: Tensor, far: Tensor, *, share: float) -> Tensor:
    """The same with the mixture held against its heavier side, `near`: `log M - log near = log1p(share (e^d - 1))`.

    Taken as a difference of logarithms it would be noise divided by `share`.
    """
    apart = far - near
    shift = torch.log1p(share * torch.expm1(apart.clamp(max=_MAX_EXPONENT)))
    return (far.exp() * (apart - shift)).sum(dim=-1) / (1 - share) - (near.exp() * shift).sum(dim=-1) / share


class DistilSettings(Config):
    """Which divergence, how soft, and how much of it."""

    beta: float = Field(default=0.0, ge=0, le=1)  # 0: forward KL, 1: reverse KL, between: generalised JSD
    temperature: float = Field(default=1.0, gt=0)  # of both distributions; the soft loss is multiplied by its square
    soft_share: float = Field(default=1.0, gt=0, le=1)  # of the loss that is the teacher's; the rest is the plain one


class TopShares(NamedTuple):
    """What was kept of a teacher's distributions: the likeliest tokens and their log-probabilities."""

    ids_NK: Int[Tensor, "N K"]  # noqa: N815 - the shape suffix of this file's legend
    logprobs_NK: Float[Tensor, "N K"]  # noqa: N815


def top_shares(scores_NV: Float[Tensor, "N V"], *, kept: int, temperature: float = 1.0) -> TopShares:
    """The `kept` likeliest tokens of each distribution."""
    top = F.log_softmax(scores_NV.float() / temperature, dim=-1).topk(kept, dim=-1)
    return TopShares(top.indices, top.values)


def with_rest(logprobs_NK: Float[Tensor, "N K"]) -> Float[Tensor, "N K+1"]:
    """The kept shares and, last, all others as one: a whole distribution again.

    A divergence of such distributions is at most the true one, and equal to it where all tokens are kept.
    """
    rest_N = -torch.expm1(torch.logsumexp(logprobs_NK.double(), dim=-1).clamp(max=0.0))
    log_rest_N = rest_N.clamp(min=_SMALLEST_REST).log().to(logprobs_NK.dtype)
    return torch.cat([logprobs_NK, log_rest_N.unsqueeze(-1)], dim=-1)


def soft_loss(
    student_NV: Float[Tensor, "N V"], teacher_NV: Float[Tensor, "N V"], settings: DistilSettings
) -> Float[Tensor, "N"]:
    """The divergence of two sets of scores (not log-probabilities), both softened by the temperature.

    Multiplied by the temperature's square, since the gradient shrinks by it (Hinton et al. 2015, section 2).
    """
    student_NV = F.log_softmax(student_NV.float() / settings.temperature, dim=-1)
    teacher_NV = F.log_softmax(teacher_NV.float() / settings.temperature, dim=-1)
    return generalised_jsd(student_NV, teacher_NV, beta=settings.beta) * settings.temperature**2


def top_loss(student_NV: Float[Tensor, "N V"], teacher: TopShares, settings: DistilSettings) -> Float[Tensor, "N"]:
    """The same against what was kept of a teacher; its log-probabilities are softened already."""
    student_NV = F.log_softmax(student_NV.float() / settings.temperature, dim=-1)
    student_NK = with_rest(student_NV.gather(-1, teacher.ids_NK))
    divergence_N = generalised_jsd(student_NK, with_rest(teacher.logprobs_NK), beta=settings.beta)
    return divergence_N * settings.temperature**2


def mixed(soft_N: Float[Tensor, "N"], hard_N: Float[Tensor, "N"], settings: DistilSettings) -> Float[Tensor, "N"]:
    """`soft_share` of the teacher's loss and the rest of the plain one."""
    return settings.soft_share * soft_N + (1 - settings.soft_share) * hard_N


def summed_in_chunks(piece: Callable[[slice], Tensor], count: int, *, rows: int) -> Tensor:
    """Sum of `piece` over `range(count)`, `rows` at a time; what a piece computed is computed again for its gradient.

    So scores of the vocabulary's width, the teacher's and the student's, never stand whole.
    """
    total = torch.zeros(())
    for start in range(0, count, rows):
        part = checkpoint(piece, slice(start, min(count, start + rows)), use_reentrant=False)
        total = part if start == 0 else total + part
    return total
