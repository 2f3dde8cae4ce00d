"""Norm as uncertainty: R-AUROC against a loop, and thresholds that keep the level they state."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from lightning_normdyn.retrieval import abstention_table, conformal_threshold, detection_table, recall_auroc
from lightning_normdyn.retrieval.uses.abstention import risk_p_value


def chance_of_at_most(successes, trials, p):
    """The binomial tail of many trials, by logarithms of factorials."""
    logs = [math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in range(successes + 1)]
    return sum(math.exp(log + k * math.log(p) + (trials - k) * math.log(1 - p)) for k, log in enumerate(logs))


def binomial_tail(successes, trials, probability):
    """Exactly, in fractions."""
    p = Fraction(probability)
    return float(sum(math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(successes + 1)))


def loop_area(embeddings, labels, confidence):
    """Pairs of a right and a wrong nearest item, one by one."""
    right, wrong = [], []
    for i, x in enumerate(embeddings.tolist()):
        cosines = [
            -2.0 if i == j else sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)
            for j, y in enumerate(embeddings.tolist())
        ]
        nearest = cosines.index(max(cosines))
        (right if labels[nearest] == labels[i] else wrong).append(float(confidence[i]))
    pairs = [(r > w) + (r == w) / 2 for r in right for w in wrong]
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize("seed", [0, 1])
def test_r_auroc_is_that_of_a_loop(seed):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(60) % 6
    certainty = torch.rand(60, generator=draw)
    directions = torch.randn(6, 8, generator=draw)[labels]
    embeddings = directions * (0.2 + certainty.unsqueeze(1)) + 0.6 * torch.randn(60, 8, generator=draw)
    columns = {"norm": embeddings.norm(dim=1), "noise": (4 * torch.rand(60, generator=draw)).round()}
    areas = recall_auroc(columns, embeddings, labels)
    for name, column in columns.items():
        assert areas[name].auroc.value == pytest.approx(loop_area(embeddings, labels, column), abs=1e-12)
    assert areas["noise"].over_baseline.value == pytest.approx(areas["noise"].auroc.value - areas["norm"].auroc.value)


def test_r_auroc_is_high_where_norms_are_certainties():
    draw = torch.Generator().manual_seed(3)
    labels = torch.arange(400) % 8
    certainty = torch.rand(400, 1, generator=draw) * 3
    embeddings = torch.eye(8)[labels] * certainty + 0.5 * torch.randn(400, 8, generator=draw)
    assert recall_auroc({"norm": certainty.squeeze(1)}, embeddings, labels)["norm"].auroc.low > 0.7


def test_what_is_not_finite_is_named_as_the_caller_names_it():
    embeddings, labels = torch.eye(4), torch.arange(4) % 2
    broken, norms = embeddings.clone(), embeddings.norm(dim=1)
    broken[2, 1] = torch.nan
    with pytest.raises(ValueError, match=r"^embeddings: expected finite numbers, got NaN or infinite ones in row 2; "):
        recall_auroc({"norm": norms}, broken, labels)
    norms[3] = torch.inf
    with pytest.raises(
        ValueError, match=r"^confidences\['norm'\]: expected finite numbers, .* for 1 of 4 items; leave"
    ):
        recall_auroc({"norm": norms}, embeddings, labels)
    with pytest.raises(ValueError, match=r"^norm: expected finite numbers, got NaN or infinite ones for 1 of 4 items"):
        detection_table({"norm": norms}, {"norm": torch.ones(2)}, baseline="norm")


@pytest.mark.parametrize(
    ("change", "fix"),
    [
        (lambda labels: labels.float(), r"torch.float32 \(4,\); pass labels.long\(\)"),
        (lambda labels: labels.float().where(labels > 0, torch.nan), "; 2 of 4 NaN or no whole number: leave those"),
        (lambda labels: labels / 2, "; 2 of 4 NaN or no whole number: leave those items out, or number the classes"),
        (lambda labels: labels[:3], "; pass one column, with a label for each row of embeddings"),
        (lambda labels: labels.unsqueeze(1), "; pass one column"),
        (lambda labels: labels.to(torch.complex64), "; number the classes from 0 on"),
    ],
)
def test_labels_that_are_no_whole_numbers_are_told_the_fix(change, fix):
    labels = torch.tensor([0, 1, 0, 1])
    with pytest.raises(ValueError, match=f"^labels: expected an integer for each of 4 items, got .*{fix}"):
        recall_auroc({"norm": torch.ones(4)}, torch.eye(4), change(labels))


@pytest.mark.parametrize(("n", "coverage"), [(9, 0.9), (19, 0.9), (30, 0.8), (7, 0.5)])
def test_coverage_is_what_the_ranks_say_and_what_was_stated_at_least(n, coverage):
    trials = 4000
    draws = torch.rand(trials, n + 1, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    answered = sum(bool(row[-1] >= conformal_threshold(row[:-1], coverage=coverage)) for row in draws)
    exact = 1 - math.floor((n + 1) * (1 - coverage) + 1e-9) / (n + 1)
    assert exact >= coverage
    assert 0.001 < chance_of_at_most(answered, trials, exact) < 0.999


def test_few_queries_promise_nothing_and_ties_are_answered():
    assert conformal_threshold(torch.rand(8), coverage=0.9) == -math.inf
    ties = torch.tensor([1.0] * 15 + [2.0] * 4)
    assert float((ties >= conformal_threshold(ties, coverage=0.9)).double().mean()) == 1.0


def test_queries_without_an_answer_are_sent_away():
    trials, n, rate = 3000, 39, 0.05
    draws = torch.randn(trials, n + 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    answered = sum(bool(row[-1] > -conformal_threshold(-row[:-1], coverage=1 - rate)) for row in draws)
    assert 0.001 < chance_of_at_most(answered, trials, 2 / 40) < 0.999


@pytest.mark.parametrize(("errors", "trials", "risk"), [(0, 10, 0.5), (3, 40, 0.2), (17, 60, 0.25), (60, 60, 0.9)])
def test_p_values_of_wrong_answers_are_binomial(errors, trials, risk):
    loss = (torch.arange(trials) < errors).double()
    assert risk_p_value(loss, risk, is_binary=True) == pytest.approx(binomial_tail(errors, trials, risk), rel=1e-10)
    assert risk_p_value(loss, risk, is_binary=False) >= binomial_tail(errors, trials, risk)


@pytest.mark.parametrize("risk", [0.1, 0.3])
def test_p_values_of_shares_are_no_smaller_than_chance_makes_them(risk):
    """At an expected loss of exactly the risk, of two shapes: no level is passed more often than it says."""
    draw = torch.Generator().manual_seed(5)
    for shape in (1.0, 4.0):
        losses = torch.rand(3000, 50, generator=draw, dtype=torch.float64) ** shape * risk * (1 + shape)
        assert float(losses.amax()) <= 1.5
        p_values = torch.tensor([risk_p_value(row.clamp(max=1), risk, is_binary=False) for row in losses])
        for level in (0.01, 0.05, 0.2):
            assert chance_of_at_most(int((p_values > level).sum()), 3000, 1 - level) > 0.001


def planted_queries(n, draw):
    """Confidence uniform on 0 to 1, answers wrong with probability 1 - c: above ``t`` a share (1 - t) / 2 is wrong."""
    confidence = torch.rand(n, generator=draw, dtype=torch.float64)
    return confidence, torch.rand(n, generator=draw, dtype=torch.float64) < 1 - confidence


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_the_risk_of_answered_queries_is_kept_with_the_stated_probability(level):
    draw, trials, risk = torch.Generator().manual_seed(2), 150, 0.2
    passed, answered = 0, 0.0
    for _ in range(trials):
        confidence, loss = planted_queries(1000, draw)
        record = abstention_table({"norm": confidence}, loss, risk=risk, level=level)["norm"]
        passed += (1 - max(record.threshold, 0.0)) / 2 > risk and record.answered > 0
        answered += record.answered / trials
        kept = confidence > record.threshold
        assert record.answered == float(kept.double().mean())
        assert math.isnan(record.risk) or record.risk == pytest.approx(float(loss[kept].double().mean()))
    assert chance_of_at_most(trials - passed, trials, level) > 0.001
    assert answered > 0.15  # of at most 0.4: the promise is not kept by silence


def test_the_level_holds_for_the_confidence_of_the_largest_share():
    """Twelve confidences that know nothing, where a third of the answers is wrong: choosing one is paid for."""
    draw, trials = torch.Generator().manual_seed(4), 60
    passed = 0
    for _ in range(trials):
        loss = torch.rand(60, generator=draw) < 0.34
        columns = {str(number): torch.rand(60, generator=draw) for number in range(12)}
        table = abstention_table(columns, loss, risk=0.3, level=0.9)
        passed += max(record.answered for record in table.values()) > 0
    assert chance_of_at_most(trials - passed, trials, 0.9) > 0.001


def test_each_of_several_confidences_has_its_part_of_the_level():
    confidence, loss = planted_queries(600, torch.Generator().manual_seed(6))
    columns = {str(number): confidence for number in range(12)}
    (record,) = set(abstention_table(columns, loss, risk=0.25, level=0.4).values())
    assert record == abstention_table({"0": confidence}, loss, risk=0.25, level=1 - 0.6 / 12)["0"]
    assert record.answered < abstention_table({"0": confidence}, loss, risk=0.25, level=0.4)["0"].answered


def test_no_answers_are_promised_where_all_are_wrong_and_all_where_none_is():
    confidence = torch.rand(200)
    nothing = abstention_table({"norm": confidence}, torch.ones(200), risk=0.1)["norm"]
    assert (nothing.threshold, nothing.answered) == (math.inf, 0.0)
    assert math.isnan(nothing.risk)
    assert abstention_table({"norm": confidence}, torch.zeros(200), risk=0.1)["norm"] == (-math.inf, 1.0, 0.0)
    equal = abstention_table({"norm": torch.ones(200)}, confidence < 0.5, risk=0.1)["norm"]
    assert equal.answered == 0.0  # ties stand or fall together
