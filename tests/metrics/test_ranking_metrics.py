"""Ranking metrics against pytrec_eval on random, tied and negative scores, in any batches and on two ranks."""

from __future__ import annotations

import math
import pickle
import warnings
from pathlib import Path

import matplotlib
import pytest
import torch
import torchmetrics
from packaging.version import Version
from rank_starter import run_ranks
from ranking_items import drawn
from torchmetrics.retrieval import RetrievalMRR

from lightning_normdyn.metrics import RankingHitRate, RankingMAP, RankingMRR, RankingNDCG, RankingRecall

NAMES = {
    RankingNDCG: "ndcg_cut.{}",
    RankingMRR: "recip_rank",
    RankingRecall: "recall.{}",
    RankingMAP: "map_cut.{}",
    RankingHitRate: "success.{}",
}


def by_trec_eval(kind, k, scores, grades, queries):
    """Ids fall as documents come, because trec_eval puts the larger id first among equal scores.

    Grades below 0 are given to it as 0: it crashes where a query has no others.
    """
    pytrec_eval = pytest.importorskip("pytrec_eval")
    qrel, run = {}, {}
    for at, (score, grade, query) in enumerate(zip(*map(torch.Tensor.tolist, (scores, grades, queries)), strict=True)):
        document = f"{10_000 - at:05d}"
        qrel.setdefault(str(query), {})[document] = max(0, grade)
        run.setdefault(str(query), {})[document] = score
    name = NAMES[kind].format(k)
    if kind is RankingMRR:  # trec_eval has no cut for it
        run = {
            query: dict(sorted(row.items(), key=lambda item: (-item[1], -int(item[0])))[:k])
            for query, row in run.items()
        }
    found = pytrec_eval.RelevanceEvaluator(qrel, {name}).evaluate(run)
    return {
        int(query): found[query][name.replace(".", "_")] if max(qrel[query].values()) > 0 else math.nan for query in run
    }


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("tied", [False, True])
def test_values_are_those_of_trec_eval(kind, tied):
    for seed, k in [(0, 1), (1, 5), (2, 10), (3, 100)]:
        items = drawn(seed, tied)
        metric = kind(top_k=k)
        for batch in zip(*(column.split(7) for column in items), strict=True):
            metric.update(*batch)
        expected = by_trec_eval(kind, k, *items)
        numbers, values = metric.per_query()
        assert values.tolist() == pytest.approx([expected[at] for at in numbers.tolist()], abs=1e-12, nan_ok=True)
        known = [value for value in expected.values() if not math.isnan(value)]
        assert len(known) < len(expected)
        assert float(metric.compute()) == pytest.approx(sum(known) / len(known), abs=1e-12)


@pytest.mark.parametrize("kind", NAMES)
def test_without_top_k_all_ranks_count(kind):
    items = drawn(6, True)
    alone, cut = kind(top_k=None), kind(top_k=10_000)
    for metric in (alone, cut):
        metric.update(*items)
    assert torch.equal(alone.compute(), cut.compute())
    assert not torch.equal(alone.compute(), kind(top_k=1)(*items))


@pytest.mark.skipif(Version(torchmetrics.__version__) < Version("1.7.4"), reason="scores before 1.7.4 keep their sign")
def test_torchmetrics_takes_negative_scores_for_nothing():
    """Why these metrics exist. Should theirs stop looking at the sign of a score, this says so."""
    scores, grades, queries = torch.tensor([-0.1, -0.2, -0.3]), torch.tensor([0, 1, 0]), torch.zeros(3).long()
    assert [float(RetrievalMRR()(scores + shift, grades, queries)) for shift in (1, 0)] == [0.5, 0.0]
    assert [float(RankingMRR()(scores + shift, grades, queries)) for shift in (1, 0)] == [0.5, 0.5]


@pytest.mark.slow
def test_two_ranks_give_what_one_process_gives(tmp_path):
    """The second of them sees nothing of the last kind."""
    run_ranks(Path(__file__).with_name("ranking_worker.py"), tmp_path)
    items = drawn(4, True)
    for rank in range(2):
        found = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        for kind in NAMES:
            metric = kind(top_k=5)
            metric.update(*items)
            assert found[kind.__name__] == pytest.approx(float(metric.compute()), abs=1e-12)


@pytest.mark.parametrize("kind", NAMES)
def test_metrics_are_saved_reset_and_drawn(kind):
    matplotlib.use("agg")
    items = drawn(5, True)
    metric = kind(top_k=3)
    alone = metric(*items)
    assert metric.compute() == alone
    assert pickle.loads(pickle.dumps(metric)).compute() == alone
    assert metric.plot()[1].get_lines()
    matplotlib.pyplot.close("all")
    metric.half()
    metric.reset()
    metric.update(*items)
    assert metric.compute() == alone


def test_nothing_is_nan():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics says that nothing was updated
        assert RankingNDCG().compute().isnan()
    metric, nothing = RankingNDCG(), torch.empty(0)
    metric.update(nothing, nothing, nothing.long())
    assert metric.compute().isnan()
    assert [len(part) for part in metric.per_query()] == [0, 0]
    metric.update(torch.ones(1), torch.ones(1), torch.tensor([2**53 - 1]))
    assert metric.compute() == 1
    assert metric.per_query()[0].tolist() == [2**53 - 1]


def ranked(grade=1.0, query=0):
    RankingMAP().update(torch.ones(1), torch.tensor([grade]), torch.tensor([query]))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: RankingMAP(top_k=0), "top_k: expected a whole number, 1 or more, got 0"),
        (
            lambda: RankingMAP().update(torch.ones(3), torch.ones(2), torch.ones(3)),
            r"target: .* \(3,\) scores, got \(2,\)",
        ),
        (
            lambda: RankingMAP().update(*torch.full((3, 2), torch.nan)),
            "preds: expected scores that can be ranked, got NaN",
        ),
        (lambda: ranked(grade=torch.nan), "target: expected finite grades"),
        (lambda: ranked(grade=torch.inf), "target: expected finite grades"),
        (lambda: ranked(query=0.5), "indexes: expected queries' numbers as integers, got torch.float32"),
        (lambda: ranked(query=2**53), r"indexes: expected queries' numbers within 2\^53"),
        (lambda: ranked(query=-(2**63)), r"indexes: expected queries' numbers within 2\^53"),
    ],
)
def test_what_does_not_fit_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_numbers_of_queries_may_be_of_any_integer_type(dtype):
    metric = RankingNDCG(top_k=2)
    metric.update(torch.tensor([0.2, 0.1]), torch.tensor([0, 1]), torch.ones(2, dtype=dtype))
    assert float(metric.compute()) == pytest.approx(1 / math.log2(3))
