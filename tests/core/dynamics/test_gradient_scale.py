import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from walks import random_rows, tangential_noise

from lightning_normdyn import scale_gradient

PROPERTY = settings(derandomize=True, max_examples=40)


def rows(*norms, dtype=torch.float64):
    x = torch.randn(len(norms), 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (x / x.norm(dim=-1, keepdim=True) * torch.tensor(norms).unsqueeze(-1)).to(dtype).requires_grad_()


def cosine_loss(x, target):
    return -F.cosine_similarity(x, target, dim=-1).sum()


@PROPERTY
@given(power=st.floats(-2, 3), seed=st.integers(0, 100))
def test_the_gradient_is_autograds_times_the_power_of_the_norm(power, seed):
    generator = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    x.requires_grad_()
    (plain,) = torch.autograd.grad((x.sin() * w).sum(), x)
    scaled_x = scale_gradient(x, power)
    assert torch.equal(scaled_x, x)
    (scaled,) = torch.autograd.grad((scaled_x.sin() * w).sum(), x)
    for index in [(a, b) for a in range(3) for b in range(4)]:
        length = math.sqrt(math.fsum(value * value for value in x[index].tolist()))
        torch.testing.assert_close(scaled[index], plain[index] * length**power, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_norm_is_not_squared_in_half_precision(dtype):
    x = torch.full((1, 4), 300.0, dtype=dtype, requires_grad=True)  # 300² overflows float16
    scale_gradient(x, 1.0).backward(torch.full_like(x, 0.5))
    assert x.grad.dtype == dtype
    torch.testing.assert_close(x.grad.float(), torch.full((1, 4), 300.0), rtol=1e-2, atol=0)


@pytest.mark.parametrize("power", [-1.0, 0.0, 1.0, 2.0])
def test_a_zero_vector_passes_its_gradient_on(power):
    x = torch.zeros(2, 3, requires_grad=True)
    scale_gradient(x, power).sum().backward()
    assert torch.equal(x.grad, torch.ones(2, 3))


def test_it_cannot_be_derived_twice():
    x = rows(0.5, 2.0)
    (gradient,) = torch.autograd.grad(scale_gradient(x, 1.5).pow(3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def steps_to_align(norm, power, lr=0.02, wanted=0.9, most=100_000):
    """Steps of SGD until a row of this norm, at a right angle to its target, points along it."""
    x = torch.tensor([norm, 0.0], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0.0, 1.0], dtype=torch.float64)
    optimizer = torch.optim.SGD([x], lr=lr)
    for step in range(most):
        loss = cosine_loss(scale_gradient(x, power), target)
        if -loss.item() > wanted:
            return step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError("it never aligned")


def test_the_time_to_align_does_not_depend_on_the_norm_at_power_two():
    times = [steps_to_align(norm, power=2.0) for norm in (0.1, 1.0, 10.0)]
    assert max(times) - min(times) <= 1


def test_the_time_to_align_grows_with_the_norm_at_power_one_and_with_its_square_at_power_zero():
    for power in (0.0, 1.0):
        short, long = (steps_to_align(norm, power) for norm in (2.0, 6.0))
        assert long / short == pytest.approx(3 ** (2 - power), rel=0.03)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_a_table_under_sgd_settles_at_another_power_of_the_norm(power):
    lr, decay, dim, spread = 0.1, 1e-2, 64, 1.0
    v2 = spread**2 * (dim - 1)
    exponent = 4 - 2 * power
    predicted = (lr * v2 / (2 * decay)) ** (1 / exponent)
    x = random_rows(torch.full((48,), predicted), dim)
    optimizer, generator = torch.optim.SGD([x], lr=lr, weight_decay=decay), torch.Generator().manual_seed(1)
    norms = []
    for step in range(3000):
        gradient = tangential_noise(x.detach(), spread, generator)
        optimizer.zero_grad()
        scale_gradient(x, power).backward(gradient)
        optimizer.step()
        if step >= 1000:
            norms.append(x.detach().norm(dim=-1))
    measured = torch.stack(norms).pow(exponent).mean() ** (1 / exponent)
    assert measured.item() == pytest.approx(predicted, rel=0.02)
    assert abs(measured.item() / (lr * v2 / (2 * decay)) ** 0.25 - 1) > 0.2


@pytest.mark.parametrize("power", [math.inf, math.nan, "1"])
def test_a_power_that_is_no_number_is_named(power):
    with pytest.raises(ValueError, match="power: expected a finite number, got"):
        scale_gradient(torch.ones(1, 2), power)
