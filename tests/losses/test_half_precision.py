"""Half precision is never trusted with a square, and zero vectors and huge ones do no harm."""

import pytest
import torch
import torch.nn.functional as F
from contrast_oracle import GRID

from lightning_normdyn.core import split_radial_tangential
from lightning_normdyn.losses import (
    AdaFace,
    ArcFace,
    CosFace,
    FullSoftmax,
    InfoNCE,
    MagFace,
    MaxSim,
    NormFace,
    SigmoidContrastive,
    SupCon,
)

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


LABELS = torch.arange(64) % 9
ROUNDED = {
    "one direction": (InfoNCE, {}, ()),
    "same side": (InfoNCE, {"symmetric": True, "same_side": "both"}, ()),
    "joint": (InfoNCE, {"symmetric": True, "same_side": "both", "joint": "sentence_transformers"}, ("hard",)),
    "own hard negatives": (InfoNCE, {"shared_hard_negatives": False}, ("hard",)),
    "prefixes in one sweep": (InfoNCE, {"prefixes": [8, 16, 32]}, ()),
    "prefixes one by one": (InfoNCE, {"prefixes": [8, 16, 32], "symmetric": True}, ("hard",)),
    "prefixes with metrics": (InfoNCE, {"prefixes": [8, 32], "with_metrics": True}, ()),
    "sigmoid": (SigmoidContrastive, {}, ()),
    "full softmax": (FullSoftmax, {}, ("targets",)),
    "SupCon": (SupCon, {}, ("labels",)),
    "MaxSim": (MaxSim, {"symmetric": True}, ("tokens",)),
    **{head.__name__: (head, {}, ("labels",)) for head in (NormFace, CosFace, ArcFace, AdaFace)},
    "MagFace": (MagFace, {"lower_norm": 4.0, "upper_norm": 7.0}, ("labels",)),
}


def outcome(make, options, extras, sides):
    """Value and gradients, each side as one tensor of its own."""
    torch.manual_seed(0)
    sides = [x.clone().requires_grad_() for x in sides]
    heads = make in (NormFace, CosFace, ArcFace, AdaFace, MagFace)
    loss = make(9, 32, temperature=1 / 16, **options) if heads else make(temperature=0.5, **options)
    loss = loss.double() if sides[0].dtype == torch.float64 else loss
    arguments = [sides[0], LABELS] if "labels" in extras else sides[:2]
    if "tokens" in extras:
        arguments = [x.unflatten(0, (16, 4)) for x in arguments]
    arguments += [LABELS] if "targets" in extras else []
    value = loss(*arguments, **({"hard_negatives": sides[2].unflatten(0, (64, 2))} if "hard" in extras else {}))
    value.backward()
    return value.detach().double(), [x.grad for x in sides if x.grad is not None]


@pytest.mark.parametrize("under_autocast", [False, True])
@pytest.mark.parametrize("name", ROUNDED)
def test_a_gradient_in_bfloat16_is_rounded_once(name, under_autocast):
    """Against the same loss in float64, which other tests hold against loops: no wider than storing it must be."""
    sides = [torch.randn(size, 32, generator=torch.Generator().manual_seed(size)) for size in (64, 65, 128)]
    sides = [sides[0].bfloat16(), (sides[1][:64] + sides[0]).bfloat16(), sides[2].bfloat16()]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=under_autocast):
        value, gradients = outcome(*ROUNDED[name], sides)
    expected, exact = outcome(*ROUNDED[name], [x.double() for x in sides])
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    assert len(gradients) == len(exact) >= 1
    for gradient, reference in zip(gradients, exact, strict=True):
        assert gradient.dtype == torch.bfloat16
        assert relative(gradient, reference) <= 1.001 * relative(reference.bfloat16(), reference) < 2e-3
