"""Where another package's loss is the same one, its value and gradients in float64, if the package is installed."""

import pytest
import torch
from torch import nn

from lightning_normdyn.losses import InfoNCE

N, D, H = 16, 8, 2


def leaves(*, hard, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(N, D), (N, D), *([(N, H, D)] if hard else [])]
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def assert_same(ours, theirs, sides):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    for gradient, expected in zip(*(torch.autograd.grad(value, sides) for value in (ours, theirs)), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)


DIRECTIONS = {
    "query_to_doc": {},
    "doc_to_query": {"symmetric": True},
    "query_to_query": {"same_side": "queries"},
    "query_to_query doc_to_query": {"same_side": "queries", "symmetric": True},
    "doc_to_doc doc_to_query": {"same_side": "documents", "symmetric": True},
    "query_to_query doc_to_query doc_to_doc": {"same_side": "both", "symmetric": True},
}


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("directions", DIRECTIONS)
def test_joint_sums_of_sentence_transformers(directions, hard):
    package = pytest.importorskip("sentence_transformers.losses")
    theirs = package.MultipleNegativesRankingLoss(
        nn.Identity(), directions=tuple({"query_to_doc", *directions.split()}), partition_mode="joint"
    )
    sides = leaves(hard=hard)
    options = {"hard_negatives": sides[2]} if hard else {}
    ours = InfoNCE(joint="sentence_transformers", chunk_size=5, **DIRECTIONS[directions])(*sides[:2], **options)
    columns = [sides[0], sides[1], *(sides[2].unbind(1) if hard else [])]
    assert_same(ours, theirs.compute_loss_from_embeddings(columns, torch.empty(0)), sides)
