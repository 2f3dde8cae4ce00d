"""Factors and the gradient behind them against autograd in float64 through embeddings that are rescaled in earnest."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core.contrast import factored as module
from lightning_normdyn.core.contrast.factored import factored
from lightning_normdyn.core.contrast.similarity import rescale


def in_earnest(x, exponent, scale, gradient):
    """Rescaled embeddings, and what autograd makes of their gradient for x, exponent and scale."""
    leaves = [value.double().requires_grad_() for value in (x, exponent, scale)]
    squares = (leaves[0] * leaves[0]).sum(-1, keepdim=True)
    norms = torch.where(squares > 0, squares, 1).sqrt()  # of a zero vector it is one
    made = leaves[2] * leaves[0] / norms ** leaves[1]
    return made.detach(), torch.autograd.grad(made, leaves, gradient)


@given(
    n=st.integers(1, 9),
    d=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    exponent=st.floats(0, 1),
    scale=st.floats(0.1, 100),
    length=st.floats(-8, 8),
    strip=st.sampled_from([1, 20, 10**6]),
)
@settings(max_examples=60)
def test_factors_and_gradients_are_those_of_rescaled_embeddings(n, d, seed, exponent, scale, length, strip):
    generator = torch.Generator().manual_seed(seed)
    x, gradient = torch.randn(2, n, d, generator=generator)
    x = x * torch.tensor(length).exp()
    x[::4] = 0
    leaves = [value.requires_grad_() for value in (x, torch.tensor(exponent), torch.tensor(scale))]
    expected, gradients = in_earnest(*(leaf.detach() for leaf in leaves), gradient.double())
    usual, module._STRIP = module._STRIP, strip
    try:
        made = factored(*leaves)
        factors = made.factors.double()[:, None]
        found = torch.autograd.grad(made.place, leaves, (factors * gradient).float())
    finally:
        module._STRIP = usual
    assert float((factors * made.rows - expected).norm()) <= 1e-6 * float(expected.norm())
    terms = float((expected * gradient).abs().sum())  # which may cancel in what the scalars get
    assert float((found[0].double() - gradients[0]).norm()) <= 1e-5 * float((factors * gradient).norm()) + 1e-12
    assert abs(float(found[1]) - float(gradients[1])) <= 1e-5 * terms * (1 + abs(length) + n) + 1e-12
    assert abs(float(found[2]) - float(gradients[2])) <= 1e-5 * terms / scale + 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype):
    x, gradient = torch.randn(2, 64, 100, generator=torch.Generator().manual_seed(0)).to(dtype)
    x.requires_grad_()
    made = factored(x, 1.0)
    (found,) = torch.autograd.grad(made.place, x, made.factors[:, None] * gradient.float())
    one = torch.tensor(1.0)
    _, (expected, *_) = in_earnest(x.detach(), one, one, gradient.double())
    assert found.dtype == dtype
    error, rounding = (float((value.double() - expected).norm()) for value in (found, expected.to(dtype)))
    assert error <= 1.001 * rounding


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_factors_are_those_of_rescale(exponent):
    x = torch.randn(5, 7).bfloat16()
    made = factored(x, exponent, 3.0)
    assert not made.rows.requires_grad
    assert made.place.untyped_storage().nbytes() == 4
    torch.testing.assert_close(made.factors[:, None] * made.rows, rescale(x, exponent, 3.0), rtol=1e-6, atol=0)
