"""Measures and methods of the other side of ``benchmarks/family_peers.py``."""

import sys
from pathlib import Path

import pytest
import torch

from lightning_normdyn.datasets import Interactions, Judgements
from lightning_normdyn.tasks import ImageText, KnowledgeGraphCompletion, Recommendation, RecommendationData, Retrieval
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.contrast.evaluation_split import EvaluationSplit
from lightning_normdyn.tasks.fewshot.episodes import EpisodeShape, EpisodeSplit, draw_episodes
from lightning_normdyn.tasks.fewshot.fewshot import nearest_accuracy

FOLDER = Path(__file__).parents[2] / "benchmarks"
MODULES = (
    "family_peers",
    "family_side",
    "grids",
    "family_cases",
    "overhead_table",
    "peer_measures",
    "peer_outcome",
    "peers_recsys",
)
QUERIES, DOCUMENTS = 40, 30


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def scored(generator, judgements, excluded=None):
    """A split with scores of its pairs, as embeddings whose inner products are these."""
    scores = torch.randint(0, 12, (QUERIES, DOCUMENTS), generator=generator).float()
    scores += 1e-3 * torch.rand(scores.shape, generator=generator)
    split = EvaluationSplit(range(QUERIES), range(DOCUMENTS), judgements, excluded)
    return scores, split, Encoded.of(scores, torch.eye(DOCUMENTS), split)


def pairs(generator, each, grade=1.0):
    rows = [torch.randperm(DOCUMENTS, generator=generator)[:each].tolist() for _ in range(QUERIES)]
    return Judgements.of((query, document, grade) for query, row in enumerate(rows) for document in row)


def without(judgements, others):
    """Pairs of the second that the first does not have."""
    taken = set(zip(judgements.queries.tolist(), judgements.documents.tolist(), strict=True))
    listed = zip(*(column.tolist() for column in others), strict=True)
    return Judgements.of(
        (query, document, grade) for query, document, grade in listed if (query, document) not in taken
    )


def test_ndcg_is_that_of_retrieval_and_of_recommendation(generator):
    from peer_measures import ndcg_at_10

    wanted = pairs(generator, 3)
    scores, split, encoded = scored(generator, wanted, without(wanted, pairs(generator, 8, 0.0)))
    of_peer = torch.tensor(ndcg_at_10(scores, split))
    for task in (Retrieval(), Recommendation()):
        torch.testing.assert_close(task.measures(encoded, (0.0, 0.0))["ndcg@10"].float(), of_peer)


def test_reciprocal_ranks_are_those_of_the_knowledge_graph(generator):
    from peer_measures import filtered_reciprocal_ranks

    answers = pairs(generator, 1)
    scores, split, encoded = scored(generator, answers, without(answers, pairs(generator, 8, 0.0)))
    of_ours = KnowledgeGraphCompletion().measures(encoded, (0.0, 0.0))["mrr"]
    assert of_ours.tolist() == pytest.approx(filtered_reciprocal_ranks(scores, split))
    tied = encoded._replace(queries=torch.zeros_like(scores))
    of_ours = KnowledgeGraphCompletion().measures(tied, (0.0, 0.0))["mrr"]
    assert of_ours.tolist() == pytest.approx(filtered_reciprocal_ranks(tied.queries, split))


def test_recall_is_that_of_images_and_captions(generator):
    from peer_measures import recall_at_1

    captions = torch.randint(0, DOCUMENTS, (QUERIES,), generator=generator).tolist()
    captions[:DOCUMENTS] = range(DOCUMENTS)  # every caption has an image
    scores, split, encoded = scored(generator, Judgements.of((n, c, 1.0) for n, c in enumerate(captions)))
    scores[torch.arange(QUERIES), captions] += 9
    of_ours = ImageText().measures(encoded._replace(queries=scores), (0.0, 0.0))["recall@1"]
    assert of_ours.tolist() == recall_at_1(scores, split)
    assert 0.3 < of_ours.mean() < 1


def test_accuracy_is_that_of_few_shot_episodes(generator):
    from peer_measures import episode_accuracies

    labels = torch.arange(8).repeat_interleave(6)
    items = torch.randn(48, 4, generator=generator) + labels[:, None] / 2
    split = EpisodeSplit.of(range(48), draw_episodes(labels, EpisodeShape(5, 2, 3), episodes=30, seed=0))
    of_ours = nearest_accuracy(split.assemble(items, torch.ones(48, dtype=torch.bool)))["accuracy"]
    assert of_ours.tolist() == pytest.approx(episode_accuracies(items, split))
    assert 0.3 < of_ours.mean() < 0.9


@pytest.fixture
def histories(generator):
    items = torch.stack([torch.randperm(DOCUMENTS, generator=generator)[:9] for _ in range(QUERIES)]).flatten()
    users = torch.arange(QUERIES).repeat_interleave(9)
    names = ([str(user) for user in range(QUERIES)], [str(item) for item in range(DOCUMENTS)])
    data = RecommendationData(history_length=8)
    data.interactions = Interactions(*names, users, items, torch.ones(len(items)), torch.arange(len(items)).double())
    return data


def test_ease_is_a_ridge_regression_of_each_item_on_all_others(generator):
    from peers_recsys import ease_weights

    train = (torch.rand(QUERIES, DOCUMENTS, generator=generator) < 0.3).double()
    weights = torch.zeros(DOCUMENTS, DOCUMENTS, dtype=torch.float64)
    for item in range(DOCUMENTS):
        others = [other for other in range(DOCUMENTS) if other != item]
        design = train[:, others]
        ridge = 20 * torch.eye(len(others), dtype=torch.float64)
        weights[others, item] = torch.linalg.solve(design.T @ design + ridge, design.T @ train[:, item])
    torch.testing.assert_close(ease_weights(train, 20.0), weights)


def test_ease_is_asked_about_the_items_that_its_users_have_not_had(histories):
    from peer_measures import ndcg_at_10
    from peers_recsys import ease, ease_weights, pasts

    train, past = torch.zeros(2, QUERIES, DOCUMENTS)
    for user, history in enumerate(histories.histories):
        train[user, history.items[: history.train_end]] = 1
        past[user, history.items[: history.validation_end]] = 1
    rows = [items.tolist() for items in pasts(histories, "test")]
    assert rows == [history.items[:-1].tolist() for history in histories.histories]
    expected = ndcg_at_10(past @ ease_weights(train, 20.0), histories.evaluation("test"))
    assert ease(histories, seed=0, rate=20.0).values["ndcg@10"] == pytest.approx(expected)


def test_sasrec_sees_nothing_of_what_comes_after():
    from peers_recsys import SASRec

    torch.manual_seed(0)
    model = SASRec(20, dim=8, length=6).eval()
    codes = torch.tensor([[0, 0, 3, 5, 7, 9]])
    states = model(codes)
    changed = model(torch.tensor([[0, 0, 3, 5, 7, 1]]))
    torch.testing.assert_close(states[:, :5], changed[:, :5])
    assert not torch.equal(states[:, 5], changed[:, 5])
    assert bool(states.isfinite().all())


def test_the_table_says_who_is_better_and_what_it_was_measured_with():
    from family_peers import _measures, tabulate

    torch.manual_seed(0)
    queries = torch.rand(2, 200)
    sides = {"ours": queries, "pykeen": queries - 0.2}
    results = {side: [{"values": {"mrr": row.tolist()}} for row in table] for side, table in sides.items()}
    fact = {"seconds": 3.0, "queries": 200, "notes": {"mrr by PyKEEN's evaluator": 0.25}}
    comparison = {
        "seeds": 2,
        "measures": _measures(results),
        "sides": {
            "ours": fact | {"versions": {"lightning_normdyn": "0"}, "notes": {}},
            "pykeen": fact | {"versions": {"pykeen": "1.11.1"}},
        },
    }
    machine = {"cpu": "a", "cores": 2, "python": "3", "torch": "2"}
    text = tabulate({"date": "2026-11-30", "machine": machine, "cases": {"kg_umls": comparison}})
    (row,) = (line for line in text.splitlines() if "PyKEEN ComplEx" in line and line.startswith("|"))
    assert "| +0.200 (+0." in row
    assert row.endswith("| ours is better | 2 | 3 | 0.01, 0.02 |")
    assert "PyKEEN's evaluator 0.2500" in text
    assert "pykeen 1.11.1" in text


@pytest.mark.parametrize(
    ("gains", "kind", "words"),
    [
        ({"dot": (0.03, 0.01), "qnorm": (-0.01, 0.01)}, "gain", "dot gains 0.030 (0.020 to 0.040)"),
        ({"dot": (-0.03, 0.01), "qnorm": (-0.05, 0.01)}, "loss", "every variant loses, dot least: -0.030"),
        ({"dot": (0.002, 0.01), "qnorm": (-0.05, 0.01)}, "no gain", "no gain above 0.012; qnorm lose"),
        ({"dot": (0.002, 0.03)}, "undecided", "undecided: dot gains 0.002, 0.032 at most"),
    ],
)
def test_an_answer_says_what_all_intervals_say_together(gains, kind, words):
    from grids import answer

    figures = {
        name: {"gain": gain, "gain_low": gain - half, "gain_high": gain + half} for name, (gain, half) in gains.items()
    }
    assert answer({"cosine": {"gain": 0.0, "gain_low": 0.0, "gain_high": 0.0}, **figures}) == (kind, words)
