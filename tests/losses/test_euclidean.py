"""Squared Euclidean distance in the place of an inner product, against loops."""

import math

import pytest
import torch

from lightning_normdyn.losses import InfoNCE
from lightning_normdyn.losses.euclidean import SquaredEuclidean


def euclidean_loss():
    loss = InfoNCE(temperature=0.3, normalization="dot")
    loss.similarity = SquaredEuclidean()
    return loss


def by_loops(queries, documents, temperature):
    """Snell et al., eq. 2: a softmax over minus the squared distances."""
    total = 0.0
    for i, query in enumerate(queries):
        logits = [
            -sum((a - b) ** 2 for a, b in zip(query, document, strict=True)) / temperature for document in documents
        ]
        total += math.log(sum(map(math.exp, logits))) - logits[i]
    return total / len(queries)


def test_loss_is_the_softmax_over_squared_distances():
    torch.manual_seed(0)
    queries, documents = torch.randn(2, 6, 4, dtype=torch.float64)
    expected = by_loops(queries.tolist(), documents.tolist(), 0.3)
    assert euclidean_loss()(queries, documents).item() == pytest.approx(expected, rel=1e-9)


def test_gradient_is_that_of_cross_entropy_over_distances():
    torch.manual_seed(1)
    sides = [torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    found = torch.autograd.grad(euclidean_loss()(*sides), sides)
    logits = -torch.cdist(*sides).square() / 0.3
    expected = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, torch.arange(5)), sides)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_scores_differ_from_minus_squared_distances_by_a_number_a_query():
    torch.manual_seed(2)
    queries, documents = torch.randn(4, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    apart = SquaredEuclidean()(queries, documents) + torch.cdist(queries, documents).square()
    torch.testing.assert_close(apart, queries.square().sum(1, keepdim=True).expand(4, 6))


def test_half_precision_is_squared_in_float32():
    documents = torch.full((1, 4), 300.0, dtype=torch.float16)
    assert SquaredEuclidean().rescale_documents(documents)[0, -1] == -360_000


def test_fused_kernels_are_refused():
    with pytest.raises(ValueError, match=r"^fused: "):
        SquaredEuclidean().factor_queries(torch.ones(1, 2))
