"""The score by its formula in float64, the search by it, and inner products with exported vectors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core import NORMALIZATIONS
from lightning_normdyn.retrieval import NormAwareScore, export_vectors, norm_aware_top_k

GAMMAS = dict(NORMALIZATIONS) | {"learnable": (0.3, 0.7)}
ALPHAS = st.floats(-2, 2)


def embeddings(seed, n=8, m=3000, d=24, spread=0.5):
    """Embeddings with log-normal norms; a zero vector on each side."""
    draw = torch.Generator().manual_seed(seed)
    queries, documents = (
        torch.randn(rows, d, generator=draw) * (spread * torch.randn(rows, 1, generator=draw)).exp() for rows in (n, m)
    )
    queries[-1], documents[m // 2] = 0, 0
    return queries, documents


def by_formula(queries, documents, gammas, alpha_query=0.0, alpha=0.0):
    q, d = queries.double(), documents.double()
    q_norm, d_norm = (x.square().sum(1).sqrt().clamp(min=1e-300) for x in (q, d))
    cosine = (q @ d.T) / q_norm[:, None] / d_norm
    scores = cosine * q_norm[:, None] ** (1 - gammas[0] + alpha_query) * d_norm ** (1 - gammas[1] + alpha)
    return scores.where((q_norm[:, None] > 1e-300) & (d_norm > 1e-300), 0)


def options(normalization):
    return {"normalization": normalization} | (
        dict(zip(("gamma_query", "gamma_document"), GAMMAS["learnable"], strict=True))
        if normalization == "learnable"
        else {}
    )


def same_ranking(indices, scores, k, tolerance=1e-5):
    """Whether the documents are those of the k largest scores, in their order; closer than rounding they may swap."""
    at = scores.gather(1, indices)
    best = scores.topk(k, dim=1).values
    scale = best.abs().amax(1, keepdim=True)
    assert all(len(set(row)) == k for row in indices.tolist())
    return bool(((at - best).abs() <= tolerance * scale).all())


@pytest.mark.parametrize("normalization", GAMMAS)
@given(ALPHAS, ALPHAS)
@settings(max_examples=10)
def test_the_score_is_its_formula(normalization, alpha_query, alpha):
    queries, documents = embeddings(0, m=50)
    score = NormAwareScore(alpha_query=alpha_query, alpha=alpha, **options(normalization))
    expected = by_formula(queries, documents, GAMMAS[normalization], alpha_query, alpha)
    largest = float(expected.abs().max())
    torch.testing.assert_close(score.scores(queries, documents).double(), expected, rtol=1e-4, atol=1e-6 * largest)
    assert score.scores(queries, documents)[:, 25].eq(0).all()


@pytest.mark.parametrize("normalization", GAMMAS)
@given(ALPHAS)
@settings(max_examples=4)
def test_inner_product_with_exported_vectors_ranks_by_the_score(normalization, alpha):
    faiss = pytest.importorskip("faiss")
    queries, documents = embeddings(1)
    vectors = export_vectors(documents, alpha=alpha, **options(normalization))
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors.numpy())
    indices = torch.from_numpy(index.search(queries.numpy(), 100)[1])
    expected = by_formula(queries, documents, GAMMAS[normalization], 0.0, alpha)
    assert same_ranking(indices, expected, 100)
    assert not same_ranking(indices, by_formula(queries, documents, GAMMAS[normalization], 0.0, alpha + 0.5), 100)
    found = norm_aware_top_k(queries, documents, 100, alpha=alpha, chunk_size=1, **options(normalization))
    assert same_ranking(found.indices, expected, 100)
    torch.testing.assert_close(found.scores.double(), expected.gather(1, found.indices), rtol=1e-3, atol=1e-5)


@given(ALPHAS, ALPHAS, st.floats(1e-15, 1e15))
@settings(max_examples=15)
def test_a_querys_norm_changes_no_ranking(alpha, alpha_query, scale):
    queries, documents = embeddings(2)
    found = norm_aware_top_k(queries, documents, 20, alpha=alpha)
    for pair in (("cosine", "dnorm"), ("dot", "qnorm")):
        one, other = (norm_aware_top_k(queries, documents, 20, alpha=alpha, normalization=name) for name in pair)
        assert torch.equal(one.indices, other.indices)
    lengthened = queries.double() * scale
    again = norm_aware_top_k(lengthened.float(), documents, 20, alpha=alpha, alpha_query=alpha_query / 10)
    assert same_ranking(again.indices, by_formula(queries, documents, (1, 1), 0.0, alpha), 20)
    assert torch.equal(found.scores.gt(0), again.scores.gt(0))


def test_zero_vectors_score_zero_and_rank_as_that():
    queries, documents = embeddings(3, m=40)
    documents[:20] = -queries[0] * torch.rand(20, 1, generator=torch.Generator().manual_seed(0)) - 0.01 * queries[0]
    for alpha in (-2.0, -1.0, 0.0, 2.0):
        found = norm_aware_top_k(queries, documents, 40, alpha=alpha)
        assert found.scores.isfinite().all()
        place = found.indices[0].tolist().index(20)
        assert found.scores[0, place] == 0
        assert place < 20
        assert (found.scores[0, place + 1 :] <= 0).all()
        assert torch.equal(found.indices[-1], torch.arange(40))  # a zero query likes all alike


@pytest.mark.parametrize(("dtype", "kept", "off"), [(torch.float16, 0.998, 2**-11), (torch.bfloat16, 0.99, 2**-8)])
def test_half_precision_loses_what_is_said(dtype, kept, off):
    queries, documents = embeddings(4, n=100, m=20_000, d=64)
    whole = export_vectors(documents, alpha=-0.5)
    stored = export_vectors(documents, alpha=-0.5, dtype=dtype)
    assert stored.dtype == dtype
    assert ((stored.float() - whole).abs() <= off * whole.abs() + 1e-7).all()
    rows = [(queries[:-1] @ vectors.float().T).topk(100).indices for vectors in (whole, stored)]
    share = sum(len(set(a) & set(b)) for a, b in zip(*(part.tolist() for part in rows), strict=True)) / 9900
    assert kept < share < 1


NAN = torch.tensor([[1.0, 2.0], [torch.nan, 0.0]])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda x: export_vectors(x[0]), r"documents: expected \[n, d\], got \(2,\)"),
        (lambda _: export_vectors(NAN), "documents: expected finite numbers, got NaN or infinite ones in row 1"),
        (lambda x: export_vectors(1e-30 * x, alpha=-2.0), "expected norms whose power -3 .* got 1.4.*e-30 in row 0"),
        (lambda x: export_vectors(1e5 * x, alpha=1.0, dtype=torch.float16), "dtype: expected one that holds 100000"),
        (lambda x: export_vectors(1e-20 * x, alpha=3.0), "expected norms whose power 2 .* got 1.4.*e-20 in row 0"),
        (lambda x: export_vectors(1e-9 * x, alpha=1.0, dtype=torch.float16), "holds 1e-09, .* which makes it zero"),
        (lambda x: export_vectors(x, dtype=torch.int8), "dtype: expected a floating-point type, .* got torch.int8"),
        (lambda x: export_vectors(x.int()), "documents: expected floating-point numbers, got torch.int32"),
        (lambda x: norm_aware_top_k(x, 1e-20 * x, 1, alpha=3.0), "expected norms whose power 2 .* in row 0"),
        (lambda x: norm_aware_top_k(x, NAN, 1), "documents: expected finite numbers, got NaN .* in row 1"),
        (lambda x: norm_aware_top_k(NAN, x, 1), "queries: expected finite numbers, .* in row 1"),
        (lambda x: norm_aware_top_k(x[0], x, 1), r"queries: expected \[n, d\], got \(2,\)"),
        (lambda x: norm_aware_top_k(x, 1e-30 * x, 1, alpha=-2.0), "expected norms whose power -3"),
        (lambda _: NormAwareScore("cos"), "normalization: expected one of cosine, .*, got 'cos'"),
        (
            lambda _: NormAwareScore("learnable"),
            "gamma_document: expected the learnt exponent for 'learnable', got None",
        ),
        (lambda _: NormAwareScore("dot", gamma_document=1), "gamma_document: expected nothing, got 1 with 'dot'"),
        (lambda _: NormAwareScore(alpha=float("nan")), "alpha: expected a finite exponent, got nan"),
    ],
)
def test_what_does_not_fit_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(torch.ones(2, 2))
