"""Divergences by hand, at their ends, in pieces; top shares bounded by the whole."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from chatwright.tune.distill import losses
from chatwright.tune.distill.losses import DistilSettings

STUDENT = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)
TEACHER = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)


def drawn(seed, *, rows=6, tokens=9):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, rows, tokens, generator=generator, dtype=torch.float64) * 2


def log_shares(seed):
    student, teacher = F.log_softmax(drawn(seed), dim=-1)
    return student, teacher


def test_the_two_divergences_have_the_values_of_their_sums():
    forward = 0.7 * math.log(0.7 / 0.5) + 0.2 * math.log(0.2 / 0.25) + 0.1 * math.log(0.1 / 0.25)
    reverse = 0.5 * math.log(0.5 / 0.7) + 0.25 * math.log(0.25 / 0.2) + 0.25 * math.log(0.25 / 0.1)
    assert losses.forward_kl(STUDENT.log(), TEACHER.log()).item() == pytest.approx(forward)
    assert losses.reverse_kl(STUDENT.log(), TEACHER.log()).item() == pytest.approx(reverse)


def test_half_way_it_is_four_times_jensen_and_shannon():
    mixture = (STUDENT + TEACHER) / 2
    jsd = 0.5 * (TEACHER * (TEACHER / mixture).log()).sum() + 0.5 * (STUDENT * (STUDENT / mixture).log()).sum()
    value = losses.generalised_jsd(STUDENT.log(), TEACHER.log(), beta=0.5)
    assert value.item() == pytest.approx(4 * jsd.item())
    assert jsd.item() <= math.log(2)


def gap(value, expected):
    return float((value - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize(("end", "limit"), [(0.0, losses.forward_kl), (1.0, losses.reverse_kl)])
@pytest.mark.parametrize("seed", range(3))
def test_towards_its_ends_it_becomes_the_two_divergences_in_value_and_gradient(end, limit, seed):
    scores, teacher = drawn(seed)[0].requires_grad_(), F.log_softmax(drawn(seed)[1], dim=-1)
    expected = limit(F.log_softmax(scores, dim=-1), teacher)
    wanted = torch.autograd.grad(expected.sum(), scores)[0]
    values, gradients = [], []
    for step in (1e-2, 1e-4, 1e-6, 0.0):
        value = losses.generalised_jsd(F.log_softmax(scores, dim=-1), teacher, beta=abs(end - step))
        values.append(gap(value, expected))
        gradients.append(gap(torch.autograd.grad(value.sum(), scores)[0], wanted))
    for gaps in (values, gradients):
        assert gaps == sorted(gaps, reverse=True)  # no jump on the way
        assert gaps[2] < 0.01
        assert gaps[3] == 0.0


@given(st.floats(0.0, 1.0), st.integers(0, 50))
def test_it_is_nothing_between_equals_and_never_negative(beta, seed):
    student, teacher = log_shares(seed)
    assert losses.generalised_jsd(student, student, beta=beta).abs().max() < 1e-6
    assert losses.generalised_jsd(student, teacher, beta=beta).min() > -1e-9


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_what_was_kept_says_at_most_what_the_whole_says_and_all_of_it_where_all_is_kept(beta):
    student, teacher = drawn(4)
    settings = DistilSettings(beta=beta, temperature=2.0)
    whole = losses.soft_loss(student, teacher, settings)
    previous = torch.zeros_like(whole)
    for kept in (1, 3, 6, 9):
        top = losses.top_loss(student, losses.top_shares(teacher, kept=kept, temperature=2.0), settings)
        assert (top <= whole + 1e-5).all()
        assert (top >= previous - 1e-5).all()
        previous = top
    assert top.tolist() == pytest.approx(whole.tolist(), rel=1e-4, abs=1e-5)


def test_the_gradient_of_a_soft_loss_keeps_its_size_as_the_temperature_rises():
    norms = []
    for temperature in (20.0, 40.0):
        scores = drawn(1)[0].float().requires_grad_()
        losses.soft_loss(scores, drawn(1)[1].float(), DistilSettings(temperature=temperature)).sum().backward()
        norms.append(float(scores.grad.norm()))
    assert norms[1] == pytest.approx(norms[0], rel=0.1)


def test_the_mixture_of_soft_and_hard_is_by_shares():
    value = losses.mixed(torch.tensor([2.0]), torch.tensor([6.0]), DistilSettings(soft_share=0.25))
    assert value.item() == pytest.approx(0.25 * 2 + 0.75 * 6)


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_a_sum_in_chunks_has_the_value_and_the_gradient_of_the_whole_and_holds_no_more_than_a_chunk(rows):
    student, teacher = drawn(7, rows=10)
    student.requires_grad_()
    seen = []

    def piece(part):
        seen.append(part.stop - part.start)
        return losses.soft_loss(student[part], teacher[part], DistilSettings()).sum()

    total = losses.summed_in_chunks(piece, 10, rows=rows)
    gradient = torch.autograd.grad(total, student)[0]
    whole = losses.soft_loss(student, teacher, DistilSettings()).sum()
    assert total.item() == pytest.approx(whole.item(), rel=1e-6)
    assert torch.allclose(gradient, torch.autograd.grad(whole, student)[0], rtol=1e-6, atol=1e-9)
    assert max(seen) <= rows
