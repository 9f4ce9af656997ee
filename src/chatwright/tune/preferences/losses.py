"""Preference losses as pure functions of log-probabilities; each names its paper and where it differs from it.

Not here: how log-probabilities are computed (scoring.py), and how pairs become batches (source.py).
Legend: P pairs, N answers, G groups, R answers of one group, B rows, T positions. All results are per pair, answer or
position; whoever calls sums them. "Sum" is a whole answer's log-probability, "mean" that divided by its tokens, "ratio"
the policy's minus the reference's.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def dpo(
    chosen_P: Float[Tensor, "P"], rejected_P: Float[Tensor, "P"], *, beta: float, label_smoothing: float = 0.0
) -> Float[Tensor, "P"]:
    """Direct preference optimisation: `-log sigmoid(beta (chosen - rejected))` (Rafailov et al. 2023, equation 7).

    With label smoothing e it is the conservative form `(1 - e) L(d) + e L(-d)`, for labels of which a share e is wrong
    (Mitchell 2023, "A note on DPO with noisy preferences", equation 3). Smoothing below a half keeps the order.

    Args:
        chosen_P: sum ratios of the preferred answers.
        rejected_P: sum ratios of the others.
        beta: strength of the pull towards the reference.
        label_smoothing: share of labels that are taken to be wrong.
    """
    margin_P = beta * (chosen_P - rejected_P)
    return -(1 - label_smoothing) * F.logsigmoid(margin_P) - label_smoothing * F.logsigmoid(-margin_P)


def ipo(chosen_P: Float[Tensor, "P"], rejected_P: Float[Tensor, "P"], *, beta: float) -> Float[Tensor, "P"]:
    """Identity preference optimisation: `(chosen - rejected - 1 / (2 beta))^2` (Azar et al. 2023, equation 17).

    Takes mean ratios, not sums: with sums the square grows with the answers' length. The paper does not say it; its
    authors' results are of this form.
    """
    return (chosen_P - rejected_P - 1 / (2 * beta)) ** 2


def simpo(
    chosen_P: Float[Tensor, "P"], rejected_P: Float[Tensor, "P"], *, beta: float, margin: float
) -> Float[Tensor, "P"]:
    """Simple preference optimisation: `-log sigmoid(beta (chosen - rejected) - margin)` (Meng et al. 2024, equation 6).

    Takes mean log-probabilities of the policy; there is no reference, so nothing holds the model but the margin.
    """
    return -F.logsigmoid(beta * (chosen_P - rejected_P) - margin)


def odds_ratio(chosen_P: Float[Tensor, "P"], rejected_P: Float[Tensor, "P"]) -> Float[Tensor, "P"]:
    """`-log sigmoid(log odds(chosen) - log odds(rejected))`, odds `p / (1 - p)` (Hong et al. 2024, equations 4 and 7).

    Takes mean log-probabilities of the policy. `log(1 - p)` is taken by `log1p` or `expm1`, whichever is exact there
    (Maechler 2012); the gradient at a probability of one stays finite.
    """
    return -F.logsigmoid((chosen_P - rejected_P) - (_log1mexp(chosen_P) - _log1mexp(rejected_P)))


def orpo(
    chosen_P: Float[Tensor, "P"], rejected_P: Float[Tensor, "P"], nats_P: Float[Tensor, "P"], *, beta: float
) -> Float[Tensor, "P"]:
    """Odds-ratio preference optimisation: `nats + beta * odds_ratio` (Hong et al. 2024, equation 6).

    Args:
        chosen_P: mean log-probabilities of the preferred answers.
        rejected_P: of the others.
        nats_P: the supervised loss on the preferred answers; the paper's is their mean cross-entropy, `-chosen`.
        beta: weight of the odds ratio, the paper's lambda.
    """
    return nats_P + beta * odds_ratio(chosen_P, rejected_P)


def kto(
    ratio_N: Float[Tensor, "N"],
    is_good_N: Bool[Tensor, "N"],
    *,
    baseline: Float[Tensor, ""],
    beta: float,
    good_weight: float = 1.0,
    bad_weight: float = 1.0,
) -> Float[Tensor, "N"]:
    """Kahneman-Tversky optimisation for thumbs without a pair (Ethayarajh et al. 2024, equation 8).

    `weight * (1 - sigmoid(beta (ratio - baseline)))` for good answers, the sign turned for bad ones.

    Args:
        ratio_N: sum ratios.
        is_good_N: thumb up.
        baseline: the reference point z, see `kto_baseline`; no gradient flows through it.
        beta: how soon a gain saturates.
        good_weight: the paper's lambda_D.
        bad_weight: lambda_U; `good_weight * goods` over `bad_weight * bads` should lie between 1 and 1.5.
    """
    gain_N = torch.where(is_good_N, 1.0, -1.0) * (ratio_N - baseline.detach())
    weight_N = torch.where(is_good_N, good_weight, bad_weight)
    return weight_N * (1 - torch.sigmoid(beta * gain_N))


def kto_baseline(mismatched_N: Float[Tensor, "N"]) -> Float[Tensor, ""]:
    """The reference point: mean ratio of answers under other questions, not below zero (section 3.2 there).

    It estimates the policy's divergence from the reference with answers that neither was asked for.
    """
    return mismatched_N.mean().clamp(min=0.0).detach()


def pairwise(
    chosen_P: Float[Tensor, "P"], rejected_P: Float[Tensor, "P"], *, label_smoothing: float = 0.0
) -> Float[Tensor, "P"]:
    """A reward model's loss, `-log sigmoid(chosen - rejected)`: Bradley and Terry 1952, as in Ouyang et al. 2022.

    Args:
        chosen_P: rewards of the preferred answers.
        rejected_P: of the others.
        label_smoothing: share of labels that are taken to be wrong; keeps rewards from growing without end.
    """
    return dpo(chosen_P, rejected_P, beta=1.0, label_smoothing=label_smoothing)


def group_advantages(rewards_GR: Float[Tensor, "G R"], *, by_deviation: bool) -> Float[Tensor, "G R"]:
    """Each answer's reward against those of the other answers to its prompt (Shao et al. 2024, section 4.1.2).

    A group whose answers are all worth the same teaches nothing and gets zeros.

    Args:
        rewards_GR: rewards by prompt.
        by_deviation: divide by the group's standard deviation, as the paper does; without it easy and hard prompts
            keep their weight (Liu et al. 2025, "Understanding R1-Zero-like training", section 3.2).
    """
    advantages_GR = rewards_GR - rewards_GR.mean(dim=1, keepdim=True)
    if not by_deviation:
        return advantages_GR
    return advantages_GR / (rewards_GR.std(dim=1, keepdim=True) + 1e-4)


def grpo(
    logprobs_BT: Float[Tensor, "B T"],
    old_BT: Float[Tensor, "B T"],
    reference_BT: Float[Tensor, "B T"],
    advantages_B: Float[Tensor, "B"],
    *,
    beta: float,
    clip: float = 0.2,
    is_kl_corrected: bool = True,
) -> Float[Tensor, "B T"]:
    """Group-relative policy optimisation, per token (Shao et al. 2024, equations 3 and 4).

    `-min(r A, clamp(r, 1 - clip, 1 + clip) A) + beta * kl`, r the ratio to the policy that wrote the answers and kl
    the estimate `exp(d) - d - 1`, d the reference's log-probability minus the policy's: never negative, and unbiased.

    Args:
        logprobs_BT: of the written tokens, with gradient.
        old_BT: of the same tokens when they were written.
        reference_BT: under the reference.
        advantages_B: one for each answer.
        beta: weight of the divergence from the reference.
        clip: how far the ratio may go before it earns nothing.
        is_kl_corrected: multiply the estimate by r, whose value is one on fresh answers but whose gradient is not: then
            the gradient is that of the divergence itself (DeepSeek-AI 2025, V3.2, section 3.1), not the paper's.
    """
    ratio_BT = torch.exp(logprobs_BT - old_BT)
    gain_BT = ratio_BT * advantages_B.unsqueeze(1)
    clipped_BT = ratio_BT.clamp(1 - clip, 1 + clip) * advantages_B.unsqueeze(1)
    away_BT = reference_BT - logprobs_BT
    kl_BT = torch.exp(away_BT) - away_BT - 1
    return -torch.minimum(gain_BT, clipped_BT) + beta * (kl_BT * ratio_BT if is_kl_corrected else kl_BT)


def _log1mexp(logprob: Tensor) -> Tensor:
    """`log(1 - exp(x))` for x < 0. A probability of one is read as one minus float32's last bit."""
    logprob = logprob.clamp(max=-torch.finfo(torch.float32).eps)
    near = torch.log(-torch.expm1(logprob))
    far = torch.log1p(-torch.exp(logprob.clamp(max=-0.1)))  # the branch that is not taken must not give NaN gradients
    return torch.where(logprob > -0.6931, near, far)
