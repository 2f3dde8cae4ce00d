"""Filters by norm against sorted lists."""

import math

import pytest
import torch

from lightning_normdyn.datasets.judgements import Judgements
from lightning_normdyn.retrieval.uses.norm_filter import filter_table


def world(seed=0, n=25, m=40):
    draw = torch.Generator().manual_seed(seed)
    queries, documents = torch.randn(n, 6, generator=draw), torch.randn(m, 6, generator=draw)
    pairs = torch.rand(n, m, generator=draw) < 0.1
    pairs[3] = False
    return queries, documents, Judgements.of([(q, d, 1.0) for q, d in pairs.nonzero().tolist()])


def by_lists(queries, documents, judgements, stage, keep, share, k, candidates):
    """Mean recall@k of queries that have something relevant, and the work saved."""
    norms = documents.norm(dim=1).tolist()
    by_norm = sorted(range(len(norms)), key=norms.__getitem__, reverse=keep == "longest")
    stays = set(by_norm[: round(share * len(norms))])
    cosines = torch.nn.functional.normalize(queries.double()) @ torch.nn.functional.normalize(documents.double()).T
    relevant = {}
    for query, document in zip(judgements.queries.tolist(), judgements.documents.tolist(), strict=True):
        relevant.setdefault(query, set()).add(document)
    recalls, left = [], []
    for query, row in enumerate(cosines.tolist()):
        order = sorted(range(len(row)), key=row.__getitem__, reverse=True)
        ranked = order[:candidates] if stage == "after" else order
        ranked = [document for document in ranked if document in stays]
        left.append(len(ranked) / candidates)
        if query in relevant:
            recalls.append(len(relevant[query] & set(ranked[:k])) / len(relevant[query]))
    saved = 1 - (sum(left) / len(left) if stage == "after" else len(stays) / len(norms))
    return sum(recalls) / len(recalls), saved


def test_rows_are_those_of_sorted_lists():
    queries, documents, judgements = world()
    rows = filter_table(
        queries, documents, judgements, shares=[1.0, 0.6, 0.3], measures=["recall@5"], candidates=12, resamples=50
    )
    assert len(rows) == 12
    whole, _ = by_lists(queries, documents, judgements, "before", "longest", 1.0, 5, 12)
    for row in rows:
        value, saved = by_lists(queries, documents, judgements, row.stage, row.keep, row.share, 5, 12)
        assert row.value.value == pytest.approx(value)
        assert row.retention.value == pytest.approx(value / whole)
        assert row.change.value == pytest.approx(value - whole)
        assert row.work_saved == pytest.approx(saved)
        assert row.value.low <= row.value.value <= row.value.high
        if row.share == 1:
            assert row.retention == (1, 1, 1)


def test_two_measures_come_from_one_ranking():
    rows = filter_table(*world(1), shares=[0.5], measures=["ndcg@10", "recall@3"], candidates=10, resamples=20)
    assert [row.measure for row in rows] == ["ndcg@10", "recall@3"] * 4


def test_nothing_to_measure_is_refused():
    queries, documents, judgements = world()
    with pytest.raises(ValueError, match="shares"):
        filter_table(queries, documents, judgements, shares=[0.0])
    with pytest.raises(ValueError, match="measure"):
        filter_table(queries, documents, judgements, measures=["speed"])
    with pytest.raises(ValueError, match="relevant document"):
        filter_table(queries, documents, Judgements.of([]))
    for pair, message in [
        ((0, 40, 1.0), "documents by position, 0 to 39, got 40"),
        ((25, 0, 1.0), "queries by position, 0 to 24, got 25"),
        ((0, 0, math.nan), "finite grades"),
    ]:
        with pytest.raises(ValueError, match=message):
            filter_table(queries, documents, Judgements.of([pair]))
    assert math.isclose(filter_table(queries, documents, judgements, shares=[1e-9], resamples=0)[0].share, 1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_filter_knows_no_unit_of_length(scale):
    queries, documents, judgements = world()
    options = {"shares": [0.5], "measures": ["recall@5"], "candidates": 12, "resamples": 20}
    plain = filter_table(queries, documents, judgements, **options)
    assert filter_table(queries, documents * scale, judgements, **options) == plain
