"""Recommendation: cuts without leaks, encoders that see no future, losses and measures by their definitions."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer, seed_everything

from lightning_normdyn.cli.main import main
from lightning_normdyn.datasets import Interactions, Judgements
from lightning_normdyn.tasks import Recommendation, RecommendationData
from lightning_normdyn.tasks.contrast.contrast_data import collate_pairs
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.contrast.evaluation_split import EvaluationSplit
from lightning_normdyn.tasks.contrast.popularity import popularity_bias
from lightning_normdyn.tasks.recsys.interaction_split import cut_histories
from lightning_normdyn.tasks.sources import InteractionsSource, MovieLensFolder

CONFIG = Path(__file__).resolve().parents[2] / "configs/recsys.yaml"
MOVIES = Path(__file__).resolve().parents[2] / "../shared/data/ml_latest_small"
pytestmark = pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning",
    "ignore:.*does not have many workers",
    "ignore:.*number of training batches",
)
VARIANTS = ("cosine", "dot", "qnorm", "dnorm", "learnable")
ENCODERS = ("user", "history", "sequential")
USERS, ITEMS = 11, 30


class Walkers(InteractionsSource):
    """Users who walk along the items, each from somewhere: the shortest takes two, and one comes back to an item."""

    def read(self):
        rows = [(u, (5 * u + step) % ITEMS, u + step) for u in range(USERS) for step in range(2 + u)]
        rows.insert(rows.index((4, 20, 4)) + 1, (4, 20, 5))
        users, items, times = (torch.tensor(column) for column in zip(*rows, strict=True))
        names = [f"u{k}" for k in range(USERS)], [f"i{k}" for k in range(ITEMS)]
        return Interactions(*names, users, items, torch.ones(len(rows)), times.double())


@pytest.fixture
def data():
    return RecommendationData(Walkers(), batch_size=8, history_length=4)


@pytest.fixture
def quiet_trainer(tmp_path):
    def make(**options):
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return Trainer(accelerator="cpu", default_root_dir=tmp_path, enable_checkpointing=False, **quiet, **options)

    return make


def model_of(data, **options):
    seed_everything(0, verbose=False)
    model = Recommendation(dim=8, history_length=4, **options)
    model.make_tables(**data.table_sizes)
    model.item_counts.copy_(data.item_counts)
    return model.eval()


def walk(user):
    return [(5 * user + step) % ITEMS for step in range(2 + user)]


def test_the_last_item_tests_and_the_one_before_validates(data):
    for user, history in enumerate(data.histories):
        assert history.items.tolist() == walk(user)
        held = 2 if user else 0
        assert history.train_end == len(walk(user)) - held
        assert history.validation_end == len(walk(user)) - held // 2


def test_a_cut_in_time_has_nothing_younger_in_training_than_in_what_is_found():
    interactions = Walkers().read()
    histories = cut_histories(interactions, cut="time", shares=(0.2, 0.2))
    when = {}
    for u, i, t in zip(
        interactions.users.tolist(), interactions.items.tolist(), interactions.times.tolist(), strict=True
    ):
        when[u, i] = min(t, when.get((u, i), math.inf))
    parts = {"train": [], "validation": [], "test": []}
    for user, (items, trained, validated) in enumerate(histories):
        times = [when[user, item] for item in items.tolist()]
        parts["train"] += times[:trained]
        parts["validation"] += times[trained:validated]
        parts["test"] += times[validated:]
    assert max(parts["train"]) < min(parts["validation"]) <= max(parts["validation"]) < min(parts["test"])
    total = sum(map(len, parts.values()))
    assert 0.1 < len(parts["validation"]) / total < 0.3
    assert 0.1 < len(parts["test"]) / total < 0.3


@pytest.mark.parametrize("cut", ["leave_last_out", "time"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_queries_hold_the_past_that_is_excluded_and_seek_what_is_not_in_it(cut, split):
    data = RecommendationData(Walkers(), history_length=4, cut=cut)
    sides = data.evaluation(split)
    assert len(sides.queries) > 2
    for place, query in enumerate(sides.queries):
        user, codes = int(query[0]), query[1:].tolist()
        history = data.histories[user]
        before = history.train_end if split == "validation" else history.validation_end
        past = walk(user)[:before]
        whole = [0] * 4 + [1] + [item + 2 for item in past]
        assert codes == whole[-4:]
        assert sides.excluded_pairs.documents[sides.excluded_pairs.queries == place].tolist() == past
        wanted = sides.judgements.documents[sides.judgements.queries == place].tolist()
        after = history.validation_end if split == "validation" else len(history.items)
        assert wanted == walk(user)[before:after]
        assert not set(wanted) & set(past)


def test_every_trained_item_is_to_be_found_once_from_what_came_before_it(data):
    pairs, found = data.training_pairs(), []
    for pair in (pairs[k] for k in range(len(pairs))):
        user, codes, targets = int(pair.query[0]), pair.query[1:].tolist(), pair.document.tolist()
        trained = walk(user)[: data.histories[user].train_end]
        for place, target in enumerate(targets):
            if target < 0:
                assert codes[place] == 0
                continue
            found.append((user, target))
            at = trained.index(target)
            assert codes[place] == (trained[at - 1] + 2 if at else 1)
    expected = [(u, item) for u in range(USERS) for item in walk(u)[: data.histories[u].train_end]]
    assert sorted(found) == sorted(expected)
    assert data.item_counts.tolist() == [Counter(item for _, item in expected)[k] for k in range(ITEMS)]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_no_query_sees_what_comes_after_it_or_padding(data, encoder):
    model = model_of(data, encoder=encoder)
    users = torch.tensor([3, 3])
    codes = torch.tensor([[0, 5, 6, 7], [0, 5, 6, 9]])
    after = model.encoder(users, codes)
    torch.testing.assert_close(after[0, :3], after[1, :3])
    assert (encoder == "user") == torch.allclose(after[0, 3], after[1, 3])
    assert after.isfinite().all()
    if encoder == "sequential":  # what attention sees of padding, if it does
        with torch.no_grad():
            model.encoder.table.weight[0] += 1
        torch.testing.assert_close(model.encoder(users, codes)[:, 1:], after[:, 1:])


def test_mean_histories_are_sums_over_the_root_of_their_number(data):
    model = model_of(data, encoder="history")
    rows = model.encoder.table.weight
    query = model.encode_queries(torch.tensor([[0, 0, 1, 5, 9]]))
    torch.testing.assert_close(query[0], (rows[1] + rows[5] + rows[9]) / 3**0.5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_full_loss_is_the_cross_entropy_of_all_next_items(data, encoder):
    model = model_of(data, encoder=encoder, normalization="qnorm")
    batch = next(iter(data.train_dataloader()))
    queries = F.normalize(model.encoder(batch["queries"][:, 0], batch["queries"][:, 1:]).double(), dim=-1)
    known = batch["documents"] >= 0
    logits = queries[known] @ model.items.weight.double().T / 0.05
    expected = F.cross_entropy(logits, batch["documents"][known])
    assert known.sum() > 8
    assert model.loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_sampled_loss_corrects_for_what_a_step_is_expected_to_draw(data, monkeypatch):
    model = model_of(data, encoder="history", normalization="dot", negatives="sampled", uniform_negatives=6)
    drawn = torch.tensor([0, 3, 3, 29, 12, 7])
    monkeypatch.setattr(torch, "randint", lambda *_, **__: drawn)
    batch = next(iter(data.train_dataloader()))
    known = batch["documents"] >= 0
    queries = model.encoder(batch["queries"][:, 0], batch["queries"][:, 1:])[known].double()
    targets = batch["documents"][known].tolist()
    candidates = targets + drawn.tolist()
    counts = data.item_counts.double()
    expected = [len(targets) * counts[c] / counts.sum() + 6 / ITEMS for c in candidates]
    terms = []
    for i, target in enumerate(targets):
        kept = [j for j, c in enumerate(candidates) if j == i or c != target]
        row = [queries[i] @ model.items.weight[candidates[j]].double() / 0.05 - expected[j].log() for j in kept]
        terms.append(torch.stack(row).logsumexp(0) - row[kept.index(i)])
    assert model.loss(batch).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)


@pytest.mark.parametrize("exponents", [(1.0, 1.0), (0.0, 0.0)])
def test_measures_follow_a_loop_in_which_seen_items_are_no_candidates(exponents):
    generator = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(5, 4, generator=generator), torch.randn(40, 4, generator=generator)
    wanted = {0: [3], 1: [4, 5, 6], 2: [39], 3: [0], 4: list(range(20, 33))}
    seen = {q: [d for d in range(10, 20) if (d + q) % 2] for q in range(5)}
    split = EvaluationSplit(
        range(5),
        range(40),
        Judgements.of([(q, d, 1.0) for q, listed in wanted.items() for d in listed]),
        Judgements.of([(q, d, 0.0) for q, listed in seen.items() for d in listed]),
        torch.arange(40),
    )
    encoded = Encoded.of(queries, documents, split)
    measured = Recommendation().measures(encoded, exponents)
    for q in range(5):
        lengths = documents.double().norm(dim=1) ** exponents[1]
        scores = (documents.double() @ queries[q].double() / lengths).tolist()
        order = sorted((d for d in range(40) if d not in seen[q]), key=lambda d: -scores[d])[:10]
        gains = [1 / math.log2(rank + 2) for rank, d in enumerate(order) if d in wanted[q]]
        ideal = sum(1 / math.log2(rank + 2) for rank in range(min(10, len(wanted[q]))))
        ranks = [rank for rank, d in enumerate(order, start=1) if d in wanted[q]]
        expected = {
            "ndcg@10": sum(gains) / ideal,
            "hits@10": float(bool(ranks)),
            "recall@10": len(ranks) / len(wanted[q]),
            "mrr@10": 1 / ranks[0] if ranks else 0.0,
            "popularity@10": sum(d + 0.5 for d in order) / 400,
            "target_popularity": sum(d + 0.5 for d in wanted[q]) / len(wanted[q]) / 40,
        }
        assert {name: float(values[q]) for name, values in measured.items()} == pytest.approx(expected)


def test_popularity_is_nan_where_nothing_was_found_or_wanted():
    bias = popularity_bias(torch.tensor([[-1, -1], [0, -1]]), Judgements.of([(0, 1, 1.0)]), torch.tensor([4, 2]))
    assert bias["popularity@2"].isnan().tolist() == [True, False]
    assert bias["target_popularity"].tolist()[0] == 0.25
    assert bias["target_popularity"].isnan().tolist() == [False, True]


def test_the_floor_counts_training_alone_and_leaves_out_what_was_seen(data):
    floor = data.by_popularity("test")
    counts = Counter(item for u in range(USERS) for item in walk(u)[: data.histories[u].train_end])
    assert (floor.queries @ floor.documents.T).tolist() == [[counts[k] for k in range(ITEMS)]] * (USERS - 1)
    assert floor.excluded_pairs is data.evaluation("test").excluded_pairs


def test_walkers_are_followed_where_popularity_leads_nowhere(data):
    model = model_of(data, encoder="history").train()
    batch = collate_pairs([data.training_pairs()[k] for k in range(len(data.training_pairs()))])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    for _ in range(80):
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()
    sides = data.evaluation("test")
    with torch.no_grad():
        queries, documents = (
            model.encode_queries(torch.stack(sides.queries)),
            model.encode_documents(torch.arange(ITEMS)),
        )
    encoded = Encoded(queries, documents, sides.judgements, sides.excluded_pairs)
    assert model.measures(encoded, (1.0, 1.0))["ndcg@10"].mean() > 0.5
    assert model.measures(data.by_popularity("test"), (0.0, 0.0))["ndcg@10"].mean() < 0.3


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Recommendation, {"encoder": "gru"}, "encoder: expected 'user', 'history' or 'sequential', got 'gru'"),
        (Recommendation, {"negatives": "batch"}, "negatives: expected 'full' or 'sampled'"),
        (Recommendation, {"dim": 7}, "dim: expected an even number"),
        (Recommendation, {"uniform_negatives": -1}, "uniform_negatives: expected a whole number, 0 or more"),
        (Recommendation, {"history_length": 0}, "history_length: expected a whole number, 1 or more"),
        (RecommendationData, {"cut": "random"}, "cut: expected 'leave_last_out' or 'time'"),
        (RecommendationData, {"test_share": 0.6}, "test_share: expected a share"),
        (RecommendationData, {"history_length": 0}, "history_length: expected a whole number, 1 or more"),
    ],
)
def test_options_out_of_range_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.fixture
def folder(tmp_path):
    interactions = Walkers().read()
    columns = zip(interactions.users.tolist(), interactions.items.tolist(), interactions.times.tolist(), strict=True)
    rows = "".join(f"{user},{item},4.0,{int(time)}\n" for user, item, time in columns)
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rows)
    return tmp_path


@pytest.mark.cautions("'learnable' beside a fixed temperature", "exponents can move by at most")
@pytest.mark.parametrize(
    "options",
    [
        *(["--model.normalization", variant] for variant in VARIANTS),
        ["--model.encoder", "user", "--model.negatives", "sampled"],
        ["--model.encoder", "history", "--data.cut", "time"],
    ],
    ids=" ".join,
)
def test_one_word_of_the_recommender_config_swaps_everything(options, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # pytorch_lightning 2.6 calls what 4.40 deprecated
    source = ["--data.source", "MovieLensFolder", "--data.source.folder", str(folder), "--model.dim", "8"]
    assert main(["fit", "--config", str(CONFIG), "--trainer.fast_dev_run", "true", *source, *options]) == 0


@pytest.mark.slow
@pytest.mark.skipif(not MOVIES.exists(), reason="needs ../shared/data")
def test_movielens_is_clearly_above_popularity(quiet_trainer):
    data = RecommendationData(MovieLensFolder(str(MOVIES)), batch_size=32, evaluation_batch_size=512)
    seed_everything(0, verbose=False)
    model = Recommendation(negatives="sampled", lr=3e-3)
    trainer = quiet_trainer(max_epochs=6, limit_val_batches=0)
    trainer.fit(model, datamodule=data)
    found = trainer.test(model, datamodule=data, verbose=False)[0]
    assert found["test/ndcg@10"] > 1.3 * model.measures(data.by_popularity("test"), (0.0, 0.0))["ndcg@10"].nanmean()
