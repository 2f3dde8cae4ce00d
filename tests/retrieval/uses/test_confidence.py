"""Confidence, detection, label uncertainty and specificity: tables against their parts and against loops."""

import math

import pytest
import torch

from lightning_normdyn.core import correlate
from lightning_normdyn.retrieval.uses.confidence import (
    classification_confidences,
    confidence_table,
    detection_table,
    retrieval_confidences,
)
from lightning_normdyn.retrieval.uses.label_uncertainty import label_entropy, uncertainty_agreement
from lightning_normdyn.retrieval.uses.specificity import specificity_table


def items(n=120, seed=0):
    draw = torch.Generator().manual_seed(seed)
    hard = torch.rand(n, generator=draw)
    loss = (torch.rand(n, generator=draw) < hard).double()
    columns = {
        "max_similarity": -hard + 0.8 * torch.rand(n, generator=draw),
        "norm": -hard + 0.1 * torch.rand(n, generator=draw),
        "noise": torch.rand(n, generator=draw),
    }
    return columns, loss


def area(confidence, loss):
    total = kept = result = 0.0
    for _, one in sorted(zip(confidence.tolist(), loss.tolist(), strict=True), reverse=True):
        total, kept = total + one, kept + 1
        result += total / kept / len(loss)
    return result


def test_areas_are_those_of_a_loop_and_norms_win_where_they_know_more():
    columns, loss = items(600)
    table = confidence_table(columns, loss, resamples=300)
    oracle = area(-loss, loss)
    for name, one in table.items():
        assert one.aurc.value == pytest.approx(area(columns[name], loss))
        assert one.excess.value == pytest.approx(area(columns[name], loss) - oracle)
        assert one.over_baseline.value == pytest.approx(area(columns["max_similarity"], loss) - one.aurc.value)
        assert one.aurc.low < one.aurc.value < one.aurc.high
        assert float(one.curve.risk[-1]) == pytest.approx(float(loss.mean()))
    assert table["norm"].over_baseline.low > 0
    assert table["noise"].over_baseline.high < 0
    assert table["max_similarity"].over_baseline == (0, 0, 0)


def test_items_without_a_loss_are_left_out():
    columns, loss = items(30)
    holes = torch.cat((loss, torch.tensor([math.nan])))
    more = {name: torch.cat((one, one[:1])) for name, one in columns.items()}
    assert (
        confidence_table(more, holes, resamples=9)["norm"].aurc
        == confidence_table(columns, loss, resamples=9)["norm"].aurc
    )


def test_a_loss_may_be_right_or_wrong():
    columns, loss = items(30)
    assert confidence_table(columns, loss.bool(), resamples=9)["norm"].excess == (
        confidence_table(columns, loss, resamples=9)["norm"].excess
    )


def test_confidences_have_to_fit():
    columns, loss = items(10)
    with pytest.raises(ValueError, match="loss: expected finite numbers, NaN for items to leave out, got infinite"):
        confidence_table(columns, loss.index_fill(0, torch.tensor([2]), math.inf))
    with pytest.raises(ValueError, match="baseline: expected one of"):
        confidence_table({"norm": columns["norm"]}, loss)
    with pytest.raises(ValueError, match="norm: expected one number"):
        confidence_table(columns | {"norm": torch.ones(3)}, loss)
    with pytest.raises(ValueError, match="two at least"):
        retrieval_confidences(torch.ones(1, 2), torch.ones(1, 2))
    with pytest.raises(ValueError, match="two classes"):
        classification_confidences(torch.ones(1, 2), torch.ones(1, 1))


def test_retrieval_confidences_are_those_of_the_whole_matrix():
    draw = torch.Generator().manual_seed(1)
    queries, documents = torch.randn(1030, 5, generator=draw), torch.randn(20, 5, generator=draw)
    found = retrieval_confidences(queries, documents)
    cosines = torch.cosine_similarity(queries.unsqueeze(1), documents, dim=2)
    ordered, places = cosines.sort(1, descending=True)
    assert torch.allclose(found["max_similarity"], ordered[:, 0], atol=1e-5)
    assert torch.allclose(found["margin"], ordered[:, 0] - ordered[:, 1], atol=1e-5)
    assert torch.allclose(found["top_document_norm"], documents.double().norm(dim=1)[places[:, 0]])
    assert torch.equal(found["short_query_norm"], -found["query_norm"])


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_confidences_know_no_unit_of_length(scale):
    draw = torch.Generator().manual_seed(1)
    queries, documents = torch.randn(9, 5, generator=draw), torch.randn(20, 5, generator=draw)
    plain, scaled = retrieval_confidences(queries, documents), retrieval_confidences(queries * scale, documents * scale)
    for name, one in scaled.items():
        unit = scale if name.endswith("norm") else 1
        torch.testing.assert_close(one, plain[name] * unit, rtol=1e-5, atol=1e-6 * unit)
    by_class = classification_confidences(queries * scale, torch.eye(9))
    assert torch.equal(by_class["norm"], scaled["query_norm"])


def test_detection_compares_with_the_baseline():
    draw = torch.Generator().manual_seed(2)
    known = {"max_similarity": torch.randn(60, generator=draw), "norm": torch.randn(60, generator=draw) + 2}
    unknown = {"norm": torch.randn(50, generator=draw), "max_similarity": torch.randn(50, generator=draw)}
    table = detection_table(known, unknown)
    assert list(table) == ["max_similarity", "norm"]
    pairs = [(x > y) + (x == y) / 2 for x in known["norm"].tolist() for y in unknown["norm"].tolist()]
    assert table["norm"].auroc.value == pytest.approx(sum(pairs) / len(pairs))
    assert table["norm"].over_baseline.low > 0
    assert table["max_similarity"].over_baseline == (0, 0, 0)
    with pytest.raises(ValueError, match="the same scores"):
        detection_table(known, {"norm": unknown["norm"]})
    with pytest.raises(ValueError, match="norm: expected one number"):
        detection_table(known | {"norm": torch.ones(2)}, unknown)


def test_entropy_is_that_of_a_loop():
    votes = torch.randint(0, 5, (20, 4), generator=torch.Generator().manual_seed(3))
    votes[:, 1] += 1
    votes[0] = torch.tensor([3, 0, 0, 0])
    found = label_entropy(votes)
    for row, entropy in zip(votes.tolist(), found.tolist(), strict=True):
        expected = -sum(x / sum(row) * math.log(x / sum(row)) for x in row if x)
        assert entropy == pytest.approx(expected, abs=1e-12)
    assert label_entropy(torch.zeros(1, 3)).isnan().all()
    with pytest.raises(ValueError, match="votes"):
        label_entropy(torch.tensor([[-1.0, 2.0]]))


def test_agreement_says_what_a_norm_adds_to_the_similarity():
    draw = torch.Generator().manual_seed(4)
    votes = torch.rand(200, 3, generator=draw)
    entropy = label_entropy(votes).float()
    columns = {
        "max_similarity": -entropy + 0.1 * torch.rand(200, generator=draw),
        "norm": -entropy + 0.1 * torch.rand(200, generator=draw),
    }
    found = uncertainty_agreement(columns, votes, resamples=100)
    assert found["norm"].interval.high < -0.5
    assert found["norm"].partial_interval.high < 0
    assert found["max_similarity"].partial_r == found["max_similarity"].r
    plain = correlate(columns["norm"], entropy, columns["max_similarity"].unsqueeze(1), resamples=100)
    assert found["norm"].partial_interval.low == pytest.approx(plain.partial_interval.low, abs=1e-6)
    with pytest.raises(
        ValueError, match="confidences: expected one number for each of 200 rows of soft_labels as 'norm'"
    ):
        uncertainty_agreement({"norm": torch.ones(3)}, votes)


def test_specificity_holds_length_fixed_and_keeps_every_known_value():
    draw = torch.Generator().manual_seed(5)
    length = torch.rand(150, generator=draw)
    depth = length + 0.3 * torch.rand(150, generator=draw)
    frequency = torch.rand(150, generator=draw)
    depth[:40] = math.nan
    norms = length + 0.01 * torch.rand(150, generator=draw)
    found = specificity_table(norms, {"depth": depth, "frequency": frequency}, length, resamples=100)
    assert list(found) == ["depth", "frequency", "length"]
    assert [one.n for one in found.values()] == [110, 150, 150]
    assert found["depth"].interval.low > 0.8
    assert abs(found["depth"].partial_r) < 0.3
    assert found["length"].partial_r == found["length"].r
    with pytest.raises(ValueError, match="values: expected names"):
        specificity_table(norms, {"length": length}, length)
    with pytest.raises(ValueError, match="depth: expected one number"):
        specificity_table(norms, {"depth": depth[:3]}, length)
