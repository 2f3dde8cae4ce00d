"""QB-Norm and CSLS against loops over queries and documents."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.retrieval.uses.query_bank import CrossDomainLocalScaling, QueryBankNormalization, baseline_scores


def cosine(a, b):
    inner = sum(x * y for x, y in zip(a, b, strict=True))
    return inner / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def qb_norm(query, documents, bank, beta):
    """Ratio of exponentials where the query's nearest document is some bank query's nearest, else the cosine."""
    places = range(len(documents))
    nearest = [max(places, key=lambda d: cosine(p, documents[d])) for p in bank]
    plain = [cosine(query, d) for d in documents]
    if max(places, key=plain.__getitem__) not in nearest:
        return plain
    return [
        math.exp(beta * s) / sum(math.exp(beta * cosine(p, d)) for p in bank)
        for s, d in zip(plain, documents, strict=True)
    ]


def csls(query, documents, bank, k):
    def nearest(x, others):
        return sum(sorted((cosine(x, y) for y in others), reverse=True)[:k]) / min(k, len(others))

    return [2 * cosine(query, d) - nearest(query, documents) - nearest(d, bank) for d in documents]


def embeddings(seed, *sizes):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 4, generator=draw, dtype=torch.float64) for size in sizes]


@settings(derandomize=True, max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 9))
def test_qb_norm_is_that_of_loops(seed, bank_size, m):
    queries, documents, bank = embeddings(seed, 5, m, bank_size)
    found = QueryBankNormalization(documents, bank, beta=7.0)(queries)
    for query, row in zip(queries.tolist(), found, strict=True):
        expected = torch.tensor(qb_norm(query, documents.tolist(), bank.tolist(), 7.0), dtype=torch.float64)
        plain = torch.tensor([cosine(query, d) for d in documents.tolist()], dtype=torch.float64)
        same = row if torch.equal(expected, plain) or torch.allclose(row, plain, atol=1e-9) else (7.0 * row).exp()
        assert torch.allclose(same, expected, atol=1e-9)


@settings(derandomize=True, max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 9), st.integers(1, 4))
def test_csls_is_that_of_loops(seed, bank_size, m, k):
    queries, documents, bank = embeddings(seed, 3, m, bank_size)
    found = CrossDomainLocalScaling(documents, bank, neighbours=k)(queries)
    expected = [csls(query, documents.tolist(), bank.tolist(), k) for query in queries.tolist()]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-9)


def test_a_hub_loses_the_queries_that_are_not_its_own():
    """One document lies in the middle of all queries; both corrections give queries back to their own."""
    draw = torch.Generator().manual_seed(2)
    own = torch.nn.functional.normalize(torch.randn(30, 8, generator=draw), dim=1) + 0.8
    queries = own + 0.8
    documents = torch.cat((own, torch.ones(1, 8)))
    scores = baseline_scores(documents, bank=queries + 0.05 * torch.randn(30, 8, generator=draw))
    right = {
        name: float((score(queries).argmax(1) == torch.arange(30)).double().mean()) for name, score in scores.items()
    }
    assert list(right) == ["cosine", "dot", "qb-norm", "csls"]
    assert right["csls"] > right["cosine"] + 0.2
    assert right["qb-norm"] > right["cosine"] + 0.2


def test_blocks_do_not_matter_and_large_beta_does_not_overflow():
    queries, documents, bank = (x.float() for x in embeddings(3, 6, 2000, 1500))
    for score in baseline_scores(documents, bank).values():
        assert torch.allclose(score(queries)[4:], score(queries[4:]), atol=1e-5)
    assert QueryBankNormalization(documents, bank, beta=1e4)(queries).isfinite().all()


def test_without_a_bank_there_are_two():
    queries, documents = embeddings(4, 2, 3)
    scores = baseline_scores(documents)
    assert list(scores) == ["cosine", "dot"]
    assert torch.allclose(scores["dot"](queries), queries @ documents.T)


def test_a_bank_has_to_fit():
    documents = torch.ones(2, 3)
    for make in (QueryBankNormalization, CrossDomainLocalScaling):
        with pytest.raises(ValueError, match="bank: expected queries"):
            make(documents, torch.ones(0, 3))
        with pytest.raises(ValueError, match="documents"):
            make(torch.ones(3), torch.ones(1, 3))
    with pytest.raises(ValueError, match="beta"):
        QueryBankNormalization(documents, documents, beta=0)
    with pytest.raises(ValueError, match="neighbours"):
        CrossDomainLocalScaling(documents, documents, neighbours=0)
