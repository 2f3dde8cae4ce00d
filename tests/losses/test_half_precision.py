"""Half precision is never trusted with a square, and zero vectors and huge ones do no harm."""

import pytest
import torch
import torch.nn.functional as F
from contrast_oracle import GRID

from lightning_normdyn.core import split_radial_tangential
from lightning_normdyn.losses import InfoNCE, SigmoidContrastive

HALVES = [torch.float16, torch.bfloat16]
B, D = 256, 512


def pairs(dtype, *, seed=0):
    """Embeddings as an encoder that has learnt something makes them, rounded once."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(B, D, generator=generator)
    documents = queries + 8 * torch.randn(B, D, generator=generator)
    return [x.to(dtype).requires_grad_() for x in (queries, documents)]


def reference(queries, documents, scale):
    """The same rounded inputs, float64 from there on."""
    inputs = [x.detach().double().requires_grad_() for x in (queries, documents)]
    q, d = (F.normalize(x, dim=-1) for x in inputs)
    logits, labels = scale * q @ d.T, torch.arange(len(q))
    loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    return loss, torch.autograd.grad(loss, inputs)


def relative(got, expected):
    return float((got.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("scale", [14.3, 50.0, 100.0])
@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 2e-3), (torch.float16, 5e-4), (torch.float32, 1e-5)])
@pytest.mark.parametrize("under_autocast", [False, True])
def test_gradient_error_is_that_of_rounding_the_result(dtype, most, scale, under_autocast):
    queries, documents = pairs(dtype)
    expected, gradients = reference(queries, documents, scale)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=under_autocast):
        loss = InfoNCE(temperature=1 / scale, symmetric=True)(queries, documents)
    assert loss.dtype == torch.float32
    assert abs(float(loss.detach() / expected.detach()) - 1) < 1e-6
    # Gradients of a mean over a large batch underflow float16; training scales the loss for that, and so does this.
    (1_024 * loss).backward()
    for x, gradient in zip((queries, documents), gradients, strict=True):
        assert x.grad.dtype == dtype
        assert relative(x.grad.double() / 1_024, gradient) < most


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 1e-4), (torch.float32, 1e-7), (torch.float64, 1e-15)])
@pytest.mark.parametrize("make", [InfoNCE, SigmoidContrastive])
def test_a_cosine_gradient_has_no_radial_part(make, dtype, most):
    queries, documents = pairs(dtype)
    make(temperature=0.01)(queries, documents).backward()
    for x in (queries, documents):
        radial = split_radial_tangential(x.grad.double(), x.detach().double()).radial
        assert float(radial.norm() / x.grad.double().norm()) <= most


@pytest.mark.parametrize("make", [InfoNCE, SigmoidContrastive])
@pytest.mark.parametrize("normalization", GRID)
@pytest.mark.parametrize("dtype", HALVES)
def test_long_vectors_do_not_overflow(dtype, normalization, make):
    queries, documents = ((1e4 * F.normalize(x.detach().float(), dim=-1)).to(dtype) for x in pairs(dtype))
    queries.requires_grad_()
    loss = make(normalization=normalization)(queries, documents)
    loss.backward()
    assert loss.isfinite()
    assert queries.grad.isfinite().all()


@pytest.mark.parametrize("make", [InfoNCE, SigmoidContrastive])
@pytest.mark.parametrize("normalization", GRID)
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
def test_zero_vectors_have_finite_gradients(dtype, normalization, make):
    queries, documents = (x.detach()[:8].clone() for x in pairs(dtype))
    queries[3], documents[5] = 0, 0
    loss = make(normalization=normalization, learnable_temperature=True)
    queries.requires_grad_()
    documents.requires_grad_()
    loss(queries, documents).backward()
    for x in (queries, documents, *loss.parameters()):
        assert x.grad is None or x.grad.isfinite().all()


def test_a_loss_in_half_precision_still_computes_in_single():
    loss = InfoNCE(normalization="learnable", learnable_temperature=True).bfloat16()
    queries, documents = pairs(torch.bfloat16)
    value = loss(queries, documents)
    assert value.dtype == torch.float32
    value.backward()
    assert loss.scaling.log_scale.grad.dtype == torch.float32  # what a loss learns stays wide
