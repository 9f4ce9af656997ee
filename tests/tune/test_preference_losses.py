"""Every preference loss has the value that its paper's formula gives by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chatwright.tune.preferences import losses
from chatwright.tune.preferences.calibration import calibrate, calibration_error


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def row(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_dpo_of_a_pair_that_is_not_moved_yet_costs_log_two():
    assert losses.dpo(row(0.0), row(0.0), beta=0.1).item() == pytest.approx(math.log(2))


def test_dpo_has_the_value_of_its_formula():
    value = losses.dpo(row(1.5), row(-0.5), beta=0.3).item()
    assert value == pytest.approx(-math.log(sigmoid(0.3 * 2.0)))


def test_smoothed_dpo_is_the_mixture_of_both_labels():
    value = losses.dpo(row(1.0), row(0.0), beta=0.5, label_smoothing=0.2).item()
    assert value == pytest.approx(-0.8 * math.log(sigmoid(0.5)) - 0.2 * math.log(sigmoid(-0.5)))


def test_smoothed_dpo_is_least_where_the_model_is_as_sure_as_the_labels_are():
    margins = torch.linspace(-5, 5, 10_001, dtype=torch.float64)
    values = losses.dpo(margins, torch.zeros_like(margins), beta=1.0, label_smoothing=0.2)
    assert margins[values.argmin()].item() == pytest.approx(math.log(0.8 / 0.2), abs=1e-3)


def test_ipo_is_least_at_the_margin_that_beta_asks_for():
    assert losses.ipo(row(5.0), row(0.0), beta=0.1).item() == pytest.approx(0.0, abs=1e-12)
    assert losses.ipo(row(1.0), row(0.5), beta=0.25).item() == pytest.approx((0.5 - 2.0) ** 2)


def test_simpo_has_the_value_of_its_formula():
    value = losses.simpo(row(-0.4), row(-0.9), beta=2.0, margin=0.5).item()
    assert value == pytest.approx(-math.log(sigmoid(2.0 * 0.5 - 0.5)))


def test_the_odds_ratio_has_the_value_of_its_formula():
    chosen, rejected = 0.6, 0.2
    odds = (chosen / (1 - chosen)) / (rejected / (1 - rejected))
    value = losses.odds_ratio(row(math.log(chosen)), row(math.log(rejected))).item()
    assert value == pytest.approx(-math.log(sigmoid(math.log(odds))))
    assert losses.orpo(row(math.log(chosen)), row(math.log(rejected)), row(3.0), beta=0.5).item() == pytest.approx(
        3.0 + 0.5 * value
    )


def test_the_odds_of_a_certain_answer_have_a_finite_gradient():
    chosen = torch.tensor([0.0], requires_grad=True)
    losses.odds_ratio(chosen, torch.tensor([-1e-9])).sum().backward()
    assert torch.isfinite(chosen.grad).all()


def test_kto_has_the_value_of_its_formula_on_both_sides():
    values = losses.kto(
        row(0.7, 0.7),
        torch.tensor([True, False]),
        baseline=torch.tensor(0.2, dtype=torch.float64),
        beta=2.0,
        good_weight=1.5,
        bad_weight=0.5,
    )
    assert values.tolist() == pytest.approx([1.5 * (1 - sigmoid(1.0)), 0.5 * (1 - sigmoid(-1.0))])


def test_the_baseline_of_kto_is_a_mean_that_is_never_negative():
    assert losses.kto_baseline(row(0.5, 1.5)).item() == 1.0
    assert losses.kto_baseline(row(-3.0, 1.0)).item() == 0.0


def test_the_reward_loss_is_that_of_bradley_and_terry():
    assert losses.pairwise(row(2.0), row(0.5)).item() == pytest.approx(-math.log(sigmoid(1.5)))


def test_advantages_are_deviations_within_a_group():
    rewards = row(1.0, 0.0, 0.0, 1.0).reshape(1, 4)
    plain = losses.group_advantages(rewards, by_deviation=False)
    assert plain.flatten().tolist() == [0.5, -0.5, -0.5, 0.5]
    scaled = losses.group_advantages(rewards, by_deviation=True)
    assert scaled.flatten().tolist() == pytest.approx([x / (math.sqrt(1 / 3) + 1e-4) for x in plain.flatten().tolist()])


def test_a_group_of_equal_rewards_teaches_nothing():
    assert losses.group_advantages(row(0.3, 0.3, 0.3).reshape(1, 3), by_deviation=True).abs().sum() == 0


def test_grpo_on_its_own_fresh_answers_is_minus_the_advantage_with_the_gradient_of_the_policy():
    logprobs = row(-1.0, -2.0).reshape(1, 2).requires_grad_()
    value = losses.grpo(logprobs, logprobs.detach(), logprobs.detach(), row(0.7), beta=0.1)
    assert value.flatten().tolist() == pytest.approx([-0.7, -0.7])
    value.sum().backward()
    assert logprobs.grad.flatten().tolist() == pytest.approx([-0.7, -0.7])


@pytest.mark.parametrize(
    ("ratio", "advantage", "paid"), [(1.5, 1.0, 1.2), (0.5, 1.0, 0.5), (0.5, -1.0, -0.8), (1.5, -1.0, -1.5)]
)
def test_grpo_pays_no_more_than_the_clipped_ratio(ratio, advantage, paid):
    old = row(-1.0).reshape(1, 1)
    value = losses.grpo(old + math.log(ratio), old, old, row(advantage), beta=0.0, clip=0.2)
    assert value.item() == pytest.approx(-paid)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8))
def test_the_divergence_in_grpo_is_never_negative_and_has_the_value_of_its_formula(away):
    logprobs = torch.zeros(1, len(away), dtype=torch.float64)
    value = losses.grpo(logprobs, logprobs, row(*away).reshape(1, -1), row(0.0), beta=1.0)
    assert value.flatten().tolist() == pytest.approx([math.exp(x) - x - 1 for x in away], abs=1e-12)
    assert (value >= -1e-12).all()


def test_the_corrected_divergence_has_the_gradient_of_the_divergence_itself():
    # Two tokens: averaged over what the policy writes, the estimate's gradient is that of KL(policy || reference).
    scores = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)
    policy, reference = scores.log_softmax(0), torch.tensor([0.2, 0.8], dtype=torch.float64).log()
    exact = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), scores, retain_graph=True)[0]
    estimate = torch.zeros((), dtype=torch.float64)
    for token in range(2):
        logprob, share = policy[token].reshape(1, 1), policy[token].exp().detach()
        kl = losses.grpo(logprob, logprob.detach(), reference[token].reshape(1, 1), row(0.0), beta=1.0)
        estimate = estimate + share * kl.sum()
    assert torch.allclose(torch.autograd.grad(estimate, scores)[0], exact)


@given(st.floats(-4, 4), st.floats(-4, 4))
def test_turning_a_pair_around_turns_the_gradient_around(chosen, rejected):
    pair = torch.tensor([chosen, rejected], dtype=torch.float64, requires_grad=True)
    losses.dpo(pair[:1], pair[1:], beta=0.5).sum().backward()
    assert pair.grad[0].item() == pytest.approx(-pair.grad[1].item())
    assert pair.grad[0] < 0 < pair.grad[1]


def test_margins_that_say_what_they_mean_are_calibrated():
    # Of a hundred pairs that claim three to one, seventy-five come out.
    margin = math.log(3)
    margins = [margin] * 75 + [-margin] * 25
    found = calibrate(margins)
    assert found.error == pytest.approx(0.0, abs=1e-9)
    assert found.temperature == pytest.approx(1.0, abs=1e-3)
    assert found.accuracy == 0.75


def test_margins_that_are_too_sure_are_found_and_cooled():
    margin = 3 * math.log(3)
    found = calibrate([margin] * 75 + [-margin] * 25)
    assert found.error == pytest.approx(sigmoid(margin) - 0.75)
    assert found.temperature == pytest.approx(3.0, abs=1e-2)
    assert found.error_after == pytest.approx(0.0, abs=1e-3)


def test_no_opinion_counts_half():
    assert calibrate([0.0, 0.0]).accuracy == 0.5
    assert calibration_error([0.0]) == pytest.approx(0.0)
    with pytest.raises(ValueError, match="no held-out pair"):
        calibrate([])
