"""Measures of rankings against pytrec_eval and against loops, one query at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core.statistics import ranking
from lightning_normdyn.core.statistics.ranking import RankedGrades, grade_ranking, measure_named

NAMES = {"ndcg": "ndcg_cut", "recall": "recall", "map": "map_cut", "hits": "success"}


def drawn(seed, n=12, m=40, k=25, highest=3):
    """Random rankings and judgements; the last query is judged and has nothing relevant."""
    draw = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(m, generator=draw)[:k] for _ in range(n)])
    judged = (torch.rand(n, m, generator=draw) < 0.1).nonzero()
    grades = torch.randint(-1, highest + 1, (len(judged),), generator=draw).float()
    grades[judged[:, 0] == n - 1] = 0
    return indices, (judged[:, 0], judged[:, 1], grades)


def by_trec_eval(indices, judgements, measure, k):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    qrel, run = {}, {}
    for query, document, grade in zip(*(column.tolist() for column in judgements), strict=True):
        qrel.setdefault(str(query), {})[str(document)] = max(0, int(grade))  # it crashes where all are below
    for query, row in enumerate(indices.tolist()):
        run[str(query)] = {str(document): float(-rank) for rank, document in enumerate(row[:k])}
    name = "recip_rank" if measure == "mrr" else f"{NAMES[measure]}.{k}"
    key = name.replace(".", "_")
    found = pytrec_eval.RelevanceEvaluator(qrel, {name}).evaluate(run)
    relevant = {query for query, judged in qrel.items() if max(judged.values()) > 0}
    values = [found[query][key] if query in relevant else math.nan for query in run]
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("measure", ranking.MEASURES)
@pytest.mark.parametrize("k", [1, 5, 10, 25, 100])
def test_measures_are_those_of_trec_eval(measure, k):
    for seed in range(5):
        indices, judgements = drawn(seed)
        found = measure_named(f"{measure}@{k}").of(grade_ranking(indices, judgements, len(indices)))
        expected = by_trec_eval(indices, judgements, measure, k)
        assert found[-1].isnan()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12, equal_nan=True)


def test_no_more_of_the_ideal_is_kept_than_is_looked_at():
    indices, judgements = drawn(3)
    whole, cut = grade_ranking(indices, judgements), grade_ranking(indices, judgements, depth=2)
    assert cut.ideal.shape[1] == 2 < whole.ideal.shape[1]
    for measure in ranking.MEASURES.values():
        assert torch.equal(measure(whole, 2).nan_to_num(-1), measure(cut, 2).nan_to_num(-1))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(1, 15))
@settings(max_examples=60)
def test_exponential_gain_by_a_loop(grades, k):
    ranked = RankedGrades(
        torch.tensor([grades], dtype=torch.float64),
        torch.tensor([sorted(grades, reverse=True)], dtype=torch.float64),
        torch.tensor([sum(grade > 0 for grade in grades)]),
    )

    def gain(row):
        return sum((2**grade - 1) / math.log2(2 + at) for at, grade in enumerate(row[:k]))

    found, best = float(ranking.ranking_ndcg(ranked, k, gain="exponential")), gain(sorted(grades, reverse=True))
    assert math.isnan(found) if best == 0 else found == pytest.approx(gain(grades) / best, abs=1e-12)


def test_missing_ranks_and_queries_without_judgements():
    judgements = (torch.tensor([1]), torch.tensor([7]), torch.tensor([2.0]))
    ranked = grade_ranking(torch.tensor([[7, 1], [-1, 7], [-1, -1]]), judgements)
    assert ranked.grades.tolist() == [[0, 0], [0, 2], [0, 0]]
    assert ranking.ranking_mrr(ranked, 2).nan_to_num(-1).tolist() == [-1, 0.5, -1]
    assert ranking.ranking_mrr(grade_ranking(torch.empty(3, 0, dtype=torch.int64), judgements), 2)[1] == 0
    nothing = (torch.empty(0, dtype=torch.int64),) * 2 + (torch.empty(0),)
    assert ranking.ranking_ndcg(grade_ranking(torch.tensor([[0]]), nothing), 1).isnan().all()


PAIR = (torch.tensor([0]), torch.tensor([0]), torch.tensor([1.0]))
TWICE = (torch.tensor([0, 0]), torch.tensor([4, 4]), torch.ones(2))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: grade_ranking(torch.zeros(1, 1), PAIR), r"indices: expected integers \[n, k\]"),
        (lambda: grade_ranking(torch.zeros(1, 1).long(), PAIR, 2), "indices: expected a row for each of 2 queries"),
        (lambda: grade_ranking(torch.zeros(1, 1).long(), TWICE), "query 0 with document 4 again"),
        (lambda: grade_ranking(torch.zeros(0, 1).long(), PAIR), "judgements: expected queries by position"),
        (lambda: grade_ranking(torch.zeros(1, 1).long(), (*PAIR[:2], torch.ones(2))), r"each \[p\], got \(1,\)"),
        (lambda: grade_ranking(torch.zeros(1, 1).long(), (*PAIR[:2], PAIR[2] / 0)), "expected finite grades"),
        (
            lambda: grade_ranking(torch.zeros(1, 1).long(), PAIR, depth=0),
            "depth: expected a whole number, 1 or more, got 0",
        ),
        (
            lambda: ranking.ranking_recall(grade_ranking(torch.zeros(1, 1).long(), PAIR), 0),
            "top_k: expected a whole number, 1 or more, got 0",
        ),
        (lambda: measure_named("ndcg"), "measure: expected one of ndcg, .* as in 'ndcg@10', got 'ndcg'"),
        (
            lambda: ranking.ranking_ndcg(grade_ranking(torch.zeros(1, 1).long(), PAIR), 1, gain="cubic"),
            "gain: expected 'linear' or 'exponential'",
        ),
    ],
)
def test_what_does_not_fit_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
