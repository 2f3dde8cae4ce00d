"""Documents of several vectors: rankings by the best of each, against a loop over documents in float64."""

import math

import pytest
import torch

from lightning_normdyn.datasets import Judgements
from lightning_normdyn.retrieval import sweep_alpha
from lightning_normdyn.retrieval.audit import JudgedQueries, audit_norms
from lightning_normdyn.retrieval.exponent.document_parts import DocumentParts

ALPHAS = (-1.0, -0.4, 0.0, 0.5, 1.0)


def world(seed=0, *, documents=40, most=6, queries=25):
    """Chunks of documents in any order, one to six of each, and three relevant documents a query."""
    draw = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, most + 1, (documents,), generator=draw)
    owners = torch.arange(documents).repeat_interleave(counts)
    owners = owners[torch.randperm(len(owners), generator=draw)]
    vectors = torch.randn(len(owners), 8, generator=draw)
    vectors *= (0.4 * torch.randn(len(owners), 1, generator=draw)).exp()
    asked = torch.randn(queries, 8, generator=draw)
    pairs = [
        (query, int(document), 1.0)
        for query in range(queries)
        for document in torch.randperm(documents, generator=draw)[:3]
    ]
    return asked, vectors, owners, Judgements.of(pairs)


def best_of_documents(asked, vectors, owners, alpha):
    """Score of each document with each query: that of its best chunk, by a loop."""
    norms = vectors.double().norm(dim=1)
    cosines = torch.nn.functional.normalize(asked.double(), dim=1) @ (vectors.double() / norms.unsqueeze(1)).T
    scores = cosines * norms.pow(alpha)
    columns = [scores[:, owners == document].amax(1) for document in range(int(owners.max()) + 1)]
    return torch.stack(columns, dim=1)


def ndcg(scores, judgements, k=10):
    values = []
    for query, row in enumerate(scores):
        relevant = set(judgements.documents[judgements.queries == query].tolist())
        ranked = row.argsort(descending=True)[:k].tolist()
        gain = sum(1 / math.log2(rank + 2) for rank, document in enumerate(ranked) if document in relevant)
        values.append(gain / sum(1 / math.log2(rank + 2) for rank in range(min(k, len(relevant)))))
    return values


@pytest.mark.parametrize("chunk_size", [None, 7])
def test_a_document_goes_by_its_best_chunk_at_every_exponent(chunk_size):
    asked, vectors, owners, judgements = world()
    found = sweep_alpha(asked, vectors, judgements, alphas=ALPHAS, owners=owners, chunk_size=chunk_size)
    for place, alpha in enumerate(ALPHAS):
        expected = ndcg(best_of_documents(asked, vectors, owners, alpha), judgements)
        assert found.values[place].tolist() == pytest.approx(expected)


def test_documents_of_one_vector_are_ranked_as_ever():
    asked, vectors, _, judgements = world()
    numbers = torch.arange(len(vectors))
    plain = sweep_alpha(asked, vectors, judgements, alphas=ALPHAS)
    assert torch.equal(plain.values, sweep_alpha(asked, vectors, judgements, alphas=ALPHAS, owners=numbers).values)


def test_an_audit_ranks_documents_and_measures_chunks():
    asked, vectors, owners, judgements = world(1)
    parts = DocumentParts.of(owners)
    judged = JudgedQueries(asked, judgements, alphas=ALPHAS, parts=parts)
    found = audit_norms(lambda: vectors.split(9), len(vectors), judged_queries=judged)
    scores = best_of_documents(asked, vectors, owners, 0.0)
    assert found.ranking.curves["norm"][2].value == pytest.approx(sum(ndcg(scores, judgements)) / 25)
    assert found.distribution.rows == len(vectors)
    wanted = torch.zeros(40, dtype=torch.bool)
    wanted[judgements.documents] = True
    norms = vectors.double().norm(dim=1)
    first, second = norms[wanted[owners]], norms[~wanted[owners]]
    pooled = ((first.var() * (len(first) - 1) + second.var() * (len(second) - 1)) / (len(norms) - 2)).sqrt()
    assert found.ranking.relevance.value == pytest.approx(float((first.mean() - second.mean()) / pooled), rel=1e-6)
    # The margin is between two documents, never between two chunks of one.
    two = scores.topk(2, dim=1).values
    from_margin = found.ranking.confidence["margin"].curve
    order = (two[:, 0] - two[:, 1]).argsort(descending=True)
    loss = 1 - torch.tensor(ndcg(scores, judgements), dtype=torch.float64)
    expected = loss[order].cumsum(0) / torch.arange(1, 26)
    torch.testing.assert_close(from_margin.risk, expected)


def test_what_is_no_document_of_a_vector_is_refused():
    asked, vectors, owners, judgements = world()
    with pytest.raises(ValueError, match=r"^owners: expected the number of a document, from 0 up"):
        sweep_alpha(asked, vectors, judgements, owners=owners.double())
    with pytest.raises(ValueError, match=r"^owners: expected a document for each of \d+ vectors, got 3"):
        sweep_alpha(asked, vectors, judgements, owners=owners[:3])
    with pytest.raises(ValueError, match=r"^owners: expected documents of at most 1820 vectors"):
        sweep_alpha(asked, torch.ones(2_000, 8), judgements, owners=torch.zeros(2_000, dtype=torch.int64))
    outside = Judgements.of([(query, 40, 1.0) for query in range(25)])
    with pytest.raises(ValueError, match="judgements"):
        sweep_alpha(asked, vectors, outside, owners=owners)
