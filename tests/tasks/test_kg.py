"""Knowledge-graph completion: scores by their definitions, ranks by a loop, splits without leaks."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from pytorch_lightning import Trainer, seed_everything

from lightning_normdyn.cli.main import main
from lightning_normdyn.datasets import Judgements, KnowledgeGraph
from lightning_normdyn.losses import InfoNCE
from lightning_normdyn.tasks import KnowledgeGraphCompletion, KnowledgeGraphData
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.kg.filtered_rank import filtered_ranks
from lightning_normdyn.tasks.kg.kg import distance_softmax_loss
from lightning_normdyn.tasks.kg.triple_scorers import SCORERS
from lightning_normdyn.tasks.sources import KnowledgeGraphSource, TripleFolder

CONFIG = Path(__file__).resolve().parents[2] / "configs/kg.yaml"
UMLS = Path(__file__).resolve().parents[2] / "../shared/data/kg_umls"
pytestmark = pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning",
    "ignore:.*does not have many workers",
    "ignore:.*number of training batches",
)
VARIANTS = ("cosine", "dot", "qnorm", "dnorm", "learnable")


class TwelveHours(KnowledgeGraphSource):
    """Entities on a clock, with relations that go round it; a few facts are repeated."""

    def read(self):
        facts = torch.tensor([(h, r, (h + 1 + 2 * r) % 12) for h in range(12) for r in range(3)])
        facts = torch.cat((facts, torch.tensor([(h, 0, (h + 5) % 12) for h in range(12)])))
        order = torch.randperm(len(facts), generator=torch.Generator().manual_seed(0))
        facts = facts[order]
        parts = {"train": torch.cat((facts[:36], facts[:2])), "validation": facts[36:42], "test": facts[42:]}
        return KnowledgeGraph([f"e{k}" for k in range(12)], ["a", "b", "c"], parts)


@pytest.fixture
def data():
    return KnowledgeGraphData(TwelveHours(), batch_size=16)


@pytest.fixture
def batch(data):
    return next(iter(data.train_dataloader()))


def model_of(data, **options):
    seed_everything(0, verbose=False)
    model = KnowledgeGraphCompletion(dim=8, **options)
    model.make_tables(**data.table_sizes)
    return model


def as_complex(x):
    real, imaginary = x.double().chunk(2, -1)
    return torch.complex(real, imaginary)


def native_score(name, scorer, head, relation, tail):
    """As the papers write it, for one fact."""
    h, t = scorer.entities.weight[head].detach(), scorer.entities.weight[tail].detach()
    if name == "distmult":
        r = scorer.relations.weight[relation].tolist()
        return sum(a * b * c for a, b, c in zip(h.tolist(), r, t.tolist(), strict=True))
    if name == "complex":
        r = as_complex(scorer.relations.weight[relation].detach())
    else:
        r = torch.polar(torch.ones(4, dtype=torch.float64), scorer.angles.weight[relation].detach().double())
    return float((as_complex(h) * r * as_complex(t).conj()).sum().real)


@pytest.mark.parametrize("name", ["distmult", "complex", "rotate"])
def test_inner_products_are_the_scores_of_the_papers(name):
    torch.manual_seed(0)
    scorer = SCORERS[name](5, 4, 8)
    for head, relation, tail in [(0, 0, 1), (3, 3, 4), (2, 1, 2)]:
        query = scorer.queries(torch.tensor([head]), torch.tensor([relation]))
        score = (query @ scorer.documents(torch.tensor([tail])).T).item()
        assert score == pytest.approx(native_score(name, scorer, head, relation, tail), abs=1e-5)


def test_the_norm_of_a_rotated_head_is_its_own_and_distmult_is_symmetric_in_head_and_tail():
    rotate, distmult = SCORERS["rotate"](5, 4, 8), SCORERS["distmult"](5, 4, 8)
    heads, relations = torch.arange(5), torch.tensor([0, 1, 2, 3, 0])
    torch.testing.assert_close(rotate.queries(heads, relations).norm(dim=1), rotate.documents(heads).norm(dim=1))
    scores = distmult.queries(heads, torch.zeros_like(heads)) @ distmult.documents(heads).T
    torch.testing.assert_close(scores, scores.T)


@pytest.mark.parametrize("name", SCORERS)
def test_embeddings_start_near_norm_one_on_both_sides(name):
    torch.manual_seed(0)
    scorer = SCORERS[name](50, 10, 64)
    for side in (scorer.queries(torch.arange(50), torch.arange(50) % 10), scorer.documents(torch.arange(50))):
        assert 0.7 < side.norm(dim=1).mean() < 1.3


@given(
    st.lists(st.lists(st.integers(-2, 2), min_size=6, max_size=6), min_size=1, max_size=4),
    st.lists(st.integers(0, 5), min_size=4, max_size=4),
    st.sets(st.tuples(st.integers(0, 3), st.integers(0, 5))),
)
@settings(max_examples=50)
def test_ranks_are_the_mean_of_the_best_and_the_worst_among_the_candidates(table, targets, excluded):
    n = len(table)
    targets = targets[:n]
    excluded = [(q, d, 0.0) for q, d in sorted(excluded) if q < n and d != targets[q]]
    scores = torch.tensor(table).float()
    judged = Judgements.of([(q, d, 1.0) for q, d in enumerate(targets)])
    encoded = Encoded(scores, torch.eye(6), judged, Judgements.of(excluded))
    ranks = filtered_ranks(encoded, lambda queries, documents: queries @ documents.T)
    for q, target in enumerate(targets):
        rivals = [table[q][d] for d in range(6) if d != target and (q, d, 0.0) not in excluded]
        best = 1 + sum(rival > table[q][target] for rival in rivals)
        worst = 1 + sum(rival >= table[q][target] for rival in rivals)
        assert ranks[q] == (best + worst) / 2


def test_nothing_known_is_nan_nan_scores_come_last_and_a_constant_score_in_the_middle():
    encoded = Encoded(
        torch.tensor([[1.0], [0.0], [math.nan]]), torch.randn(9, 1), Judgements.of([(1, 3, 1), (2, 3, 1)])
    )
    ranks = filtered_ranks(encoded, lambda queries, documents: queries @ documents.T)
    assert ranks[0].isnan()
    assert ranks[1:].tolist() == [5, 9]


def test_several_answers_in_one_query_are_refused():
    encoded = Encoded(torch.zeros(1, 1), torch.zeros(3, 1), Judgements.of([(0, 1, 1), (0, 2, 1)]))
    with pytest.raises(ValueError, match="one relevant document a query, got several"):
        filtered_ranks(encoded, torch.matmul)


def test_training_pairs_are_both_directions_of_the_training_facts_alone(data):
    pairs = data.training_pairs()
    facts = {tuple(fact) for fact in data.graph.triples["train"].tolist()}
    expected = {(h, r, t) for h, r, t in facts} | {(t, r + 3, h) for h, r, t in facts}
    found = [(*pair.query.tolist(), pair.document) for pair in (pairs[k] for k in range(len(pairs)))]
    assert len(found) == len(set(found))
    assert set(found) == expected
    held = {tuple(fact) for split in ("validation", "test") for fact in data.graph.triples[split].tolist()}
    assert not held & expected
    ids = {pairs[k].query_id: tuple(pairs[k].query.tolist()) for k in range(len(pairs))}
    assert len(ids) == len(set(ids.values()))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_is_excluded_are_the_other_true_answers_of_all_splits(data, split):
    sides = data.evaluation(split)
    known = {tuple(fact) for facts in data.graph.triples.values() for fact in facts.tolist()}
    known |= {(t, r + 3, h) for h, r, t in known}
    answers = dict(zip(sides.judgements.queries.tolist(), sides.judgements.documents.tolist(), strict=True))
    expected = {
        (place, other)
        for place, (head, relation) in enumerate(sides.queries.tolist())
        for other in range(12)
        if (head, relation, other) in known and other != answers[place]
    }
    pairs = list(zip(sides.excluded_pairs.queries.tolist(), sides.excluded_pairs.documents.tolist(), strict=True))
    assert set(pairs) == expected
    assert len(pairs) == len(expected) > 0
    assert len(sides.queries) == 2 * len(data.graph.triples[split])


def test_measures_average_heads_and_tails_over_a_loop_in_float64(data):
    model = model_of(data, scorer="complex", normalization="dnorm")
    sides = data.evaluation("test")
    documents = model.encode_documents(torch.arange(12)).detach()
    encoded = Encoded(model.encode_queries(sides.queries).detach(), documents, sides.judgements, sides.excluded_pairs)
    measured = model.measures(encoded, (0.0, 1.0))
    known = {tuple(fact) for facts in data.graph.triples.values() for fact in facts.tolist()}
    ranks = []
    for h, r, t in data.graph.triples["test"].tolist():
        for head, relation, tail, back in ((h, r, t, False), (t, r + 3, h, True)):
            true = {c for c in range(12) if ((c, r, head) if back else (head, r, c)) in known}
            lengths = documents.double().norm(dim=1)
            score = [native_score("complex", model.scorer, head, relation, c) / float(lengths[c]) for c in range(12)]
            ranks.append(1 + sum(score[c] > score[tail] for c in range(12) if c not in true))
    assert float(measured["mrr"].mean()) == pytest.approx(sum(1 / rank for rank in ranks) / len(ranks))
    for k in (1, 3, 10):
        assert float(measured[f"hits@{k}"].mean()) == pytest.approx(sum(rank <= k for rank in ranks) / len(ranks))


def test_the_floor_ranks_by_how_often_a_relation_has_a_tail(data):
    floor = data.by_popularity("test")
    sides = data.evaluation("test")
    counts = Counter((r, t) for _, r, t in data.directed("train").tolist())
    scores = floor.queries @ floor.documents.T
    expected = [[counts[int(relation), tail] for tail in range(12)] for relation in sides.queries[:, 1]]
    assert scores.tolist() == expected


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize(("regularizer", "power"), [("n3", 3), ("l2", 2)])
def test_full_loss_and_regulariser_follow_their_definitions(data, batch, scorer, regularizer, power):
    model = model_of(data, scorer=scorer, normalization="dot", regularizer=regularizer, regularization=0.3)
    queries = model.encode_queries(batch["queries"]).double()
    logits = queries @ model.scorer.entities.weight.double().T / 0.05
    cross_entropy = F.cross_entropy(logits, batch["documents"])
    heads, relations = batch["queries"].unbind(1)
    rows = [getattr(model.scorer, "heads", model.scorer.entities)(heads), model.scorer.entities(batch["documents"])]
    if scorer != "rotate":
        rows.append(model.scorer.relations(relations))
    sizes = [as_complex(x).abs() if scorer in ("complex", "rotate") else x.double().abs() for x in rows]
    penalty = sum((size**power).sum() for size in sizes) / 16
    assert model.loss(batch).item() == pytest.approx((cross_entropy + 0.3 * penalty).item(), rel=1e-5)


def test_batch_negatives_leave_out_equal_queries_and_tails(data, batch):
    model = model_of(data, scorer="distmult", negatives="batch")
    queries, tails = F.normalize(model.encode_queries(batch["queries"])), batch["documents"]
    logits = (queries @ F.normalize(model.encode_documents(tails)).T / 0.05).double()
    same = (batch["queries"][:, None] == batch["queries"]).all(-1) | (tails[:, None] == tails)
    logits = logits.masked_fill(same & ~torch.eye(16, dtype=torch.bool), -torch.inf)
    assert same.sum() > 16
    assert model.loss(batch).item() == pytest.approx(F.cross_entropy(logits, torch.arange(16)).item(), rel=1e-5)


def test_distance_loss_and_gradients_are_those_of_written_out_distances(monkeypatch):
    monkeypatch.setattr("lightning_normdyn.tasks.kg.kg._SCORES_AT_ONCE", 40)
    queries, documents = torch.randn(9, 4, requires_grad=True), torch.randn(20, 4, requires_grad=True)
    targets = torch.arange(9)
    loss = distance_softmax_loss(InfoNCE(temperature=0.5), queries, documents, targets)
    ours = torch.autograd.grad(loss, (queries, documents))
    distances = (queries.double()[:, None] - documents.double()).square().sum(-1).sqrt()
    expected = F.cross_entropy(-2 * distances, targets)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(ours, torch.autograd.grad(expected, (queries, documents)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_distance_is_measured_by_distance_and_the_grid_by_the_grid(data):
    model = model_of(data, scorer="rotate", similarity="distance", normalization="dot")
    encoded = Encoded(torch.tensor([[1.0]]), torch.tensor([[1.1], [5.0]]), Judgements.of([(0, 0, 1.0)]))
    assert model.trained_measures(encoded)["mrr"].tolist() == [1]
    assert model.measures(encoded, (0.0, 0.0))["mrr"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scorer": "transe"}, "scorer: expected one of distmult, complex, rotate, dual, got 'transe'"),
        ({"dim": 7}, "dim: expected an even number for complex"),
        ({"regularizer": "n3"}, "regularization: expected a weight above 0"),
        ({"regularization": 0.1}, "regularization: expected a weight above 0 with a regularizer and 0 without"),
        ({"similarity": "distance"}, "similarity: distance is the score of scorer='rotate'"),
        ({"scorer": "rotate", "similarity": "distance", "normalization": "learnable"}, "nothing to learn"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        KnowledgeGraphCompletion(**options)


def test_a_checkpoint_loads_without_the_data_and_refuses_other_data(data, tmp_path, quiet_trainer):
    model = KnowledgeGraphCompletion(dim=8)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = KnowledgeGraphCompletion.load_from_checkpoint(tmp_path / "a.ckpt", dim=8)
    torch.testing.assert_close(loaded.scorer.entities.weight, model.scorer.entities.weight)
    other = KnowledgeGraphData(TwelveHours())
    object.__setattr__(other.graph, "entities", [*other.graph.entities, "x"])
    with pytest.raises(ValueError, match=r"data: expected {'entities': 12, 'relations': 3} as the model was made for"):
        quiet_trainer(max_epochs=1).validate(loaded, datamodule=other)


@pytest.fixture
def quiet_trainer(tmp_path):
    def make(**options):
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return Trainer(accelerator="cpu", default_root_dir=tmp_path, enable_checkpointing=False, **quiet, **options)

    return make


@pytest.fixture
def folder(tmp_path):
    graph = TwelveHours().read()
    for split, name in {"train": "train", "validation": "valid", "test": "test"}.items():
        facts = graph.triples[split].unique(dim=0).tolist()
        (tmp_path / f"{name}.txt").write_text("".join(f"e{h}\tr{r}\te{t}\n" for h, r, t in facts))
    return tmp_path


def options_of(variant):
    return ["--model.normalization", variant, "--model.dim", "8"]


@pytest.mark.cautions("'learnable' beside a fixed temperature", "exponents can move by at most")
@pytest.mark.parametrize(
    "options",
    [
        *(options_of(variant) for variant in VARIANTS),
        [*options_of("dot"), "--model.scorer", "rotate", "--model.similarity", "distance"],
        [*options_of("qnorm"), "--model.scorer", "dual", "--model.negatives", "batch"],
        [
            *options_of("dnorm"),
            "--model.scorer",
            "distmult",
            "--model.regularizer",
            "n3",
            "--model.regularization",
            "0.1",
        ],
    ],
    ids=" ".join,
)
def test_one_word_of_the_config_swaps_everything(options, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # pytorch_lightning 2.6 calls what 4.40 deprecated
    source = ["--data.source", "TripleFolder", "--data.source.folder", str(folder)]
    assert main(["fit", "--config", str(CONFIG), "--trainer.fast_dev_run", "true", *source, *options]) == 0


@pytest.mark.slow
@pytest.mark.skipif(not UMLS.exists(), reason="needs ../shared/data")
@pytest.mark.parametrize("scorer", ["distmult", "complex"])
def test_umls_reaches_a_filtered_mrr_of_0_8_and_beats_frequency(scorer, quiet_trainer):
    data = KnowledgeGraphData(TripleFolder(str(UMLS)), batch_size=512, evaluation_batch_size=4096)
    seed_everything(0, verbose=False)
    model = KnowledgeGraphCompletion(scorer=scorer, normalization="dot", lr=2e-2, weight_decay=0.3)
    trainer = quiet_trainer(max_epochs=20, limit_val_batches=0)
    trainer.fit(model, datamodule=data)
    found = trainer.test(model, datamodule=data, verbose=False)[0]
    assert found["test/mrr"] > 0.8
    assert found["test/mrr"] > model.measures(data.by_popularity("test"), (0.0, 0.0))["mrr"].mean() + 0.1
