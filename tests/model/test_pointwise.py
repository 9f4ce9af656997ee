"""Gradients that are written out are autograd's own."""

import pytest
import torch
from torch.nn import functional as F

from chatwright.model.pointwise import is_worthwhile, root_mean_square_norm, rotation


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", [(7, 16), (2, 5, 3, 8), (1, 1)])
def test_the_norm_and_its_gradients_are_autograd_s(shape):
    x, weight = (3 * drawn(*shape)).float().requires_grad_(), drawn(shape[-1], seed=1).float().requires_grad_()
    gradient = drawn(*shape, seed=2).float()
    expected = F.rms_norm(x, (shape[-1],), weight, 1e-5)
    wanted = torch.autograd.grad(expected, (x, weight), gradient)
    found = root_mean_square_norm(x, weight, 1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(torch.autograd.grad(found, (x, weight), gradient), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_norm_gives_back_the_type_that_comes_in_and_leaves_a_frozen_weight_alone():
    x = drawn(4, 8).bfloat16().requires_grad_()
    found = root_mean_square_norm(x, torch.ones(8), 1e-6)
    assert found.dtype == torch.bfloat16
    found.sum().backward()
    assert x.grad.dtype == torch.bfloat16


def by_autograd(x, cosine, sine):
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rotation_and_its_gradient_are_autograd_s(dtype):
    x = drawn(2, 5, 3, 8).to(dtype).transpose(1, 2).requires_grad_()
    angles = drawn(2, 1, 5, 4, seed=1).float()
    gradient = drawn(2, 3, 5, 8, seed=2).float()
    expected, found = (turn(x, angles.cos(), angles.sin()) for turn in (by_autograd, rotation))
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected)
    wanted, got = (torch.autograd.grad(turned, x, gradient)[0] for turned in (expected, found))
    torch.testing.assert_close(got, wanted, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2)


def test_without_gradients_the_plain_way_is_taken():
    x = torch.zeros(2, 2)
    assert is_worthwhile(x)
    with torch.no_grad():
        assert not is_worthwhile(x)
