import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core import safe_norm, split_radial_tangential
from lightning_normdyn.core.dynamics.geometry import precise_norm

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
PROPERTY = settings(derandomize=True, max_examples=60)

components = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
vector_pairs = st.integers(1, 12).flatmap(
    lambda d: st.tuples(st.lists(components, min_size=d, max_size=d), st.lists(components, min_size=d, max_size=d))
)


def rounding(dtype):
    """Relative error allowed to a result that is kept in float32 at least."""
    return 1e-13 if dtype == torch.float64 else 1e-6


def loop_norm(vector):
    return math.sqrt(math.fsum(value * value for value in vector.double().tolist()))


def loop_split(gradient, embedding):
    length = math.hypot(*embedding)
    direction = [value / length if length else 0.0 for value in embedding]
    radial = math.fsum(g * z for g, z in zip(gradient, direction, strict=True))
    return radial, [g - radial * z for g, z in zip(gradient, direction, strict=True)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_equals_a_float64_loop(dtype):
    vectors = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    oracle = torch.tensor([loop_norm(vector) for vector in vectors], dtype=torch.float64)
    torch.testing.assert_close(safe_norm(vectors).double(), oracle, rtol=rounding(dtype), atol=0)
    assert not torch.allclose(vectors.double().abs().sum(-1), oracle, rtol=1e-2)


def test_norm_does_not_overflow_in_half_precision():
    vectors = torch.full((3, 4), 1e4, dtype=torch.float16)
    assert vectors.square().sum(-1).sqrt().isinf().all(), "the check can fail: the naive norm overflows"
    assert safe_norm(vectors).tolist() == [2e4] * 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_are_float32_at_least(dtype):
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    x = torch.ones(2, 3, dtype=dtype)
    split = split_radial_tangential(x, x)
    assert safe_norm(x).dtype == split.radial.dtype == split.tangential.dtype == expected


def test_norm_goes_along_any_dimension():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert safe_norm(x, dim=0).tolist() == [3.0, 4.0]
    assert safe_norm(x, keepdim=True).shape == (2, 1)


def test_gradient_of_the_norm_is_zero_at_zero():
    zero = torch.zeros(4, requires_grad=True)
    (naive,) = torch.autograd.grad(zero.square().sum().sqrt(), zero)
    assert naive.isnan().all(), "the check can fail: the naive norm has no gradient there"
    (gradient,) = torch.autograd.grad(safe_norm(zero), zero)
    assert gradient.tolist() == [0.0] * 4


def test_gradients_are_right_in_double_precision():
    generator = torch.Generator().manual_seed(1)
    x, g = (torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(safe_norm, x)
    assert torch.autograd.gradcheck(lambda x: safe_norm(x, dim=0, keepdim=True), x)
    assert torch.autograd.gradcheck(split_radial_tangential, (g, x))


@PROPERTY
@given(vector_pairs)
def test_split_equals_a_float64_loop(pair):
    gradient, embedding = pair
    split = split_radial_tangential(*(torch.tensor(part, dtype=torch.float64) for part in pair))
    radial, tangential = loop_split(gradient, embedding)
    scale = math.hypot(*gradient)
    assert float(split.radial) == pytest.approx(radial, abs=1e-13 * scale)
    assert split.tangential.tolist() == pytest.approx(tangential, abs=1e-13 * scale)


@PROPERTY
@given(vector_pairs, st.sampled_from(DTYPES))
def test_split_adds_up_and_is_orthogonal(pair, dtype):
    gradient, embedding = (torch.tensor(part).to(dtype) for part in pair)
    radial, tangential = split_radial_tangential(gradient, embedding)
    gradient, embedding = gradient.to(radial.dtype), embedding.to(radial.dtype)
    scale, slack = loop_norm(gradient), 4 * rounding(dtype)
    length = loop_norm(embedding)
    direction = embedding / length if length else torch.zeros_like(embedding)
    torch.testing.assert_close(radial * direction + tangential, gradient, rtol=0, atol=slack * scale)
    assert abs(float(tangential @ direction)) <= slack * scale
    assert float(radial**2) + loop_norm(tangential) ** 2 == pytest.approx(scale**2, rel=slack, abs=1e-30)


def test_radial_part_is_the_slope_of_the_loss_along_the_radius():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 5, generator=generator, dtype=torch.float64)

    def radial_of(loss):
        (gradient,) = torch.autograd.grad(loss(x).sum(), x)
        return split_radial_tangential(gradient, x).radial

    def slope_of(loss):
        length = x.norm(dim=-1, keepdim=True).detach()
        stretch = torch.zeros_like(length, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(x.detach() / length * (length + stretch)).sum(), stretch)
        return slope.squeeze(-1)

    def cosine(x):
        return torch.nn.functional.cosine_similarity(x, weight).exp()

    def dot(x):
        return (x * weight).sum(-1).tanh()

    torch.testing.assert_close(radial_of(dot), slope_of(dot), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(radial_of(cosine), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-14)
    assert radial_of(dot).abs().min() > 1e-4, "the check can fail: a dot product sees the length"


def test_a_zero_vector_has_no_direction():
    gradient = torch.tensor([[1.0, -2.0]])
    radial, tangential = split_radial_tangential(gradient, torch.zeros(1, 2))
    assert radial.tolist() == [0.0]
    assert torch.equal(tangential, gradient)


def test_split_does_not_overflow_in_half_precision():
    gradient = torch.tensor([6e4, 6e4], dtype=torch.float16)
    embedding = torch.tensor([1e4, 1e4], dtype=torch.float16)
    radial, tangential = split_radial_tangential(gradient, embedding)
    assert float(radial) == pytest.approx(math.sqrt(2) * float(gradient[0]), rel=1e-6)
    assert tangential.abs().max() < 1e-6 * float(radial)


def test_different_shapes_are_named():
    with pytest.raises(ValueError, match=r"gradient: expected the shape of embedding, \(2, 3\), got \(2, 4\)"):
        split_radial_tangential(torch.ones(2, 4), torch.ones(2, 3))


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1.0, 1e30])
def test_a_precise_norm_does_not_leave_its_range(scale):
    vectors = torch.randn(20, 7, generator=torch.Generator().manual_seed(3)) * scale
    oracle = [math.hypot(*vector) for vector in vectors.tolist()]
    assert precise_norm(vectors).tolist() == pytest.approx(oracle, rel=1e-12, abs=0)
    assert scale == 1 or safe_norm(vectors).tolist() != pytest.approx(oracle, rel=1e-3, abs=0)
