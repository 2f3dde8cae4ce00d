"""Batches that are nearly solved: value and gradients keep their digits, where float32 as usual loses them."""

import pytest
import torch
import torch.nn.functional as F

from lightning_normdyn.losses import FullSoftmax, InfoNCE, SigmoidContrastive

N, D = 48, 96
TRUE_LOSSES = [2.5e-4, 2.5e-5, 1e-6, 1e-9]
TARGETS = torch.arange(N)


def scores_of(queries, documents, scale):
    return scale * F.normalize(queries, dim=1) @ F.normalize(documents, dim=1).T


def one_direction(queries, documents, scale):
    return F.cross_entropy(scores_of(queries, documents, scale), TARGETS)


def backwards(queries, documents, scale):
    return F.cross_entropy(scores_of(queries, documents, scale).T, TARGETS)


def symmetric(queries, documents, scale):
    return (one_direction(queries, documents, scale) + backwards(queries, documents, scale)) / 2


def simclr(queries, documents, scale):
    views = F.normalize(torch.cat((queries, documents)), dim=1)
    scores = (scale * views @ views.T).masked_fill(torch.eye(2 * N, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(scores, torch.cat((TARGETS + N, TARGETS)))


def joint(queries, documents, scale):
    scores = scores_of(queries, documents, scale)
    others = scores.T.masked_fill(torch.eye(N, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(torch.cat((scores, others), 1), TARGETS)


def sigmoid(queries, documents, scale):
    signs = 2 * torch.eye(N, dtype=queries.dtype) - 1
    return -F.logsigmoid(signs * (scores_of(queries, documents, scale) - scale / 2)).sum() / N


CASES = {
    "one direction": (one_direction, lambda t: InfoNCE(temperature=t), {}),
    "strips": (one_direction, lambda t: InfoNCE(temperature=t, chunk_size=7), {}),
    "ids": (one_direction, lambda t: InfoNCE(temperature=t), {"document_ids": TARGETS}),
    "full softmax": (one_direction, lambda t: FullSoftmax(temperature=t), {"targets": TARGETS}),
    "backwards": (backwards, lambda t: InfoNCE(temperature=t, direction="document_to_query"), {}),
    "symmetric": (symmetric, lambda t: InfoNCE(temperature=t, symmetric=True), {}),
    "tiles": (symmetric, lambda t: InfoNCE(temperature=t, symmetric=True, chunk_size=7), {}),
    "labels": (symmetric, lambda t: InfoNCE(temperature=t, symmetric=True), {"labels": TARGETS}),
    "positives": (symmetric, lambda t: InfoNCE(temperature=t, symmetric=True), {"positives": TARGETS[:, None]}),
    "SimCLR": (simclr, lambda t: InfoNCE(temperature=t, symmetric=True, same_side="both"), {}),
    "joint": (joint, lambda t: InfoNCE(temperature=t, symmetric=True, joint=True), {}),
    "sigmoid": (sigmoid, lambda t: SigmoidContrastive(temperature=t, bias=-0.5 / t, max_scale=1e9), {}),
}


def nearly_solved(definition, true_loss):
    """Pairs that are almost alike, and the scale at which their loss is about as given."""
    generator = torch.Generator().manual_seed(3)
    base, *noise = torch.randn(3, N, D, generator=generator).double()
    sides = [(base + 0.1 * values).float() for values in noise]
    low, high = 1.0, 1e4
    for _ in range(60):
        scale = (low * high) ** 0.5
        low, high = (scale, high) if definition(*(x.double() for x in sides), scale) > true_loss else (low, scale)
    return sides, scale


def outcome(loss, sides):
    leaves = [x.clone().requires_grad_() for x in sides]
    value = loss(*leaves)
    value.backward()
    return [value.detach(), *(x.grad for x in leaves)]


def errors(outcomes, expected):
    return [float((x.double() - y).norm() / y.norm()) for x, y in zip(outcomes, expected, strict=True)]


@pytest.mark.parametrize("true_loss", TRUE_LOSSES)
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_keep_their_digits(case, true_loss):
    definition, make, options = CASES[case]
    sides, scale = nearly_solved(definition, true_loss)
    expected = outcome(lambda *x: definition(*x, scale), [x.double() for x in sides])
    assert float(expected[0]) == pytest.approx(true_loss, rel=1e-3)
    loss = make(1 / scale)
    ours = errors(outcome(lambda *x: loss(*x, **options), sides), expected)
    as_usual = errors(outcome(lambda *x: definition(*x, scale), sides), expected)
    if case == "sigmoid":  # whose usual form loses nothing
        assert max(ours) < max(1e-5, 2 * max(as_usual))
    else:
        assert max(ours) < min(1e-5, max(as_usual))
        assert true_loss > 1e-8 or max(as_usual) > 0.1
