import math

import pytest
import torch
from hypothesis import given, strategies as st
from scipy.stats import pearsonr, spearmanr

from lightning_normdyn.core import NORMALIZATIONS
from lightning_normdyn.datasets import GradedPairs, Judgements
from lightning_normdyn.tasks import Sts, StsData
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.encoders import SmallTextEncoder
from lightning_normdyn.tasks.sources import GradedPairsSource
from lightning_normdyn.tasks.sts import pearson_shares, spearman_shares


class FewPairs(GradedPairsSource):
    def read(self):
        first = ["open a file", "shut the door", "open a file", "red", "blue sky"]
        second = ["a file is opened", "doors are shut", "read", "green", "blue skies"]
        grades = torch.tensor([5.0, 4.0, 3.0, 0.0, 4.5])
        return {split: GradedPairs(first, second, grades) for split in ("train", "validation")}


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=20))
def test_shares_have_the_correlation_as_their_mean(pairs):
    x, y = (torch.tensor(column, dtype=torch.float32) for column in zip(*pairs, strict=True))
    if min(len(x.unique()), len(y.unique())) < 2:
        assert spearman_shares(x, y).isnan().all()
    else:
        assert float(spearman_shares(x, y).mean()) == pytest.approx(spearmanr(x, y).statistic, abs=1e-9)
        assert float(pearson_shares(x, y).mean()) == pytest.approx(pearsonr(x.double(), y.double()).statistic, abs=1e-9)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_measures_correlate_the_scores_of_pairs_with_their_grades(normalization):
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(12, 4, generator=generator) for _ in range(2))
    grades = torch.randint(-3, 3, (12,), generator=generator).float()
    order = torch.randperm(12, generator=generator)
    exponents = NORMALIZATIONS[normalization]
    scores = [
        sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) ** exponents[0] / math.hypot(*y) ** exponents[1]
        for x, y in ((first[i].tolist(), second[i].tolist()) for i in order.tolist())
    ]
    encoded = Encoded(first, second, Judgements(order, order, grades))
    measured = Sts(encoder=SmallTextEncoder(dim=4, buckets=10)).measures(encoded, exponents)
    assert float(measured["spearman"].nanmean()) == pytest.approx(spearmanr(scores, grades).statistic, abs=1e-6)
    assert float(measured["pearson"].nanmean()) == pytest.approx(pearsonr(scores, grades.numpy()).statistic, abs=1e-6)


def test_pairs_above_the_threshold_train_and_equal_texts_have_equal_ids():
    pairs = StsData(FewPairs(), alike_above=2.5).training_pairs()
    assert [(pair.query, pair.document) for pair in pairs] == [
        ("open a file", "a file is opened"),
        ("shut the door", "doors are shut"),
        ("open a file", "read"),
        ("blue sky", "blue skies"),
    ]
    assert pairs[0].query_id == pairs[2].query_id != pairs[1].query_id


def test_all_pairs_train_with_their_grades_where_a_loss_goes_by_them():
    data = StsData(FewPairs(), grades="all")
    (batch,) = data.train_dataloader()
    assert sorted(batch["grades"].tolist()) == [0.0, 3.0, 4.0, 4.5, 5.0]
    task = Sts(encoder=SmallTextEncoder(dim=4, buckets=50, dropout=0.0), loss="cosent", temperature=0.5)
    first, second = (task.encode_queries(batch[side]).tolist() for side in ("queries", "documents"))
    scores = [sum(map(math.prod, zip(x, y, strict=True))) / math.hypot(*x) / math.hypot(*y)
              for x, y in zip(first, second, strict=True)]  # fmt: skip
    grades = batch["grades"].tolist()
    misorder = 1 + sum(
        math.exp((scores[k] - scores[i]) / 0.5) for i in range(5) for k in range(5) if grades[i] > grades[k]
    )
    assert float(task.loss(batch).detach()) == pytest.approx(math.log(misorder), rel=1e-5)


def test_graded_pairs_train_in_small_batches_too():
    (batch,) = StsData(FewPairs(), grades="all").train_dataloader()
    gradients = []
    for mini_batch_size in (None, 2):
        torch.manual_seed(0)
        encoder = SmallTextEncoder(dim=4, buckets=50, dropout=0.0)
        task = Sts(encoder=encoder, loss="cosent", temperature=0.5, mini_batch_size=mini_batch_size)
        task.loss(batch).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in encoder.parameters()]))
    assert gradients[0].any()
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)


def test_grades_have_to_be_those_of_the_loss():
    (of_all,), (of_alike,) = (StsData(FewPairs(), grades=grades).train_dataloader() for grades in ("all", "alike"))
    encoder = SmallTextEncoder(dim=4, buckets=50)
    assert "grades" not in of_alike
    with pytest.raises(ValueError, match=r"^grades: expected 'all' for the loss 'cosent'.*--data.grades all$"):
        Sts(encoder=encoder, loss="cosent").loss(of_alike)
    with pytest.raises(ValueError, match=r"^grades: expected 'alike'.*--model.loss cosent$"):
        Sts(encoder=encoder).loss(of_all)


def test_evaluation_grades_count_from_the_threshold():
    sides = StsData(FewPairs(), alike_above=4.0).evaluation("validation")
    assert sides.judgements.relevant().queries.tolist() == [0, 4]
    with pytest.raises(
        ValueError, match=r"^alike_above: expected a threshold below some grade of the validation split"
    ):
        StsData(FewPairs(), alike_above=5.0).evaluation("validation")


def test_the_floor_is_the_correlation_with_word_overlap():
    overlap = [2 / 5, 1 / 5, 0, 0, 1 / 3]  # by hand; "open a file" against "a file is opened" share two of five words
    floor = StsData(FewPairs()).floors("validation")
    assert floor == {"word_overlap": pytest.approx(spearmanr(overlap, [5, 4, 3, 0, 4.5]).statistic, abs=1e-6)}


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_shares_vary_as_the_correlation_does(kind):
    """Their standard error against how much the correlation differs from sample to sample."""
    shares = {"pearson": pearson_shares, "spearman": spearman_shares}[kind]
    draw = torch.Generator().manual_seed(0)
    found, errors = [], []
    for _ in range(400):
        x, noise = torch.randn(2, 300, generator=draw, dtype=torch.float64)
        values = shares(x, 0.8 * x + 0.6 * noise)
        found.append(float(values.mean()))
        errors.append(float(values.std() / 300**0.5))
    assert sum(errors) / 400 == pytest.approx(float(torch.tensor(found).std()), rel=0.15)
