"""The risk-coverage curve and its area against loops over items, ties and resamples written out."""

import itertools
import random

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core.statistics.risk_coverage import area_under_risk_coverage, risk_coverage

ITEMS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0, 0.25])), min_size=1, max_size=6)


def curve_of(order):
    return [sum(loss for _, loss in order[: kept + 1]) / (kept + 1) for kept in range(len(order))]


def averaged_over_ties(items):
    """Mean curve over every order that sorts the confidences."""
    orders = [
        order for order in itertools.permutations(items) if all(a[0] >= b[0] for a, b in itertools.pairwise(order))
    ]
    curves = [curve_of(order) for order in orders]
    return [sum(column) / len(curves) for column in zip(*curves, strict=True)]


def columns(items):
    return torch.tensor([float(c) for c, _ in items]), torch.tensor([loss for _, loss in items])


@settings(derandomize=True, max_examples=60)
@given(ITEMS)
def test_the_curve_is_the_mean_over_orders_of_ties(items):
    found = risk_coverage(*columns(items))
    assert found.risk.tolist() == pytest.approx(averaged_over_ties(items))
    assert found.coverage.tolist() == pytest.approx([(at + 1) / len(items) for at in range(len(items))])
    area = float(area_under_risk_coverage(*columns(items)))
    assert area == pytest.approx(sum(averaged_over_ties(items)) / len(items))


@settings(derandomize=True, max_examples=60)
@given(ITEMS, st.integers(0, 2**32))
def test_a_resample_counts_as_if_written_out(items, seed):
    drawn = random.Random(seed).choices(range(len(items)), k=len(items))
    counts = torch.tensor([[drawn.count(at) for at in range(len(items))]])
    found = float(area_under_risk_coverage(*columns(items), counts))
    assert found == pytest.approx(sum(averaged_over_ties([items[at] for at in drawn])) / len(items))


def test_large_sets_agree_with_the_sorted_loop():
    draw = torch.Generator().manual_seed(3)
    confidence, loss = torch.rand(5000, generator=draw, dtype=torch.float64), torch.rand(5000, generator=draw)
    total, area = 0.0, 0.0
    for kept, at in enumerate(confidence.argsort(descending=True).tolist(), start=1):
        total += float(loss[at])
        area += total / kept / 5000
    assert float(area_under_risk_coverage(confidence, loss)) == pytest.approx(area, rel=1e-9)


def test_items_have_both_numbers():
    with pytest.raises(ValueError, match="one number for each item"):
        risk_coverage(torch.ones(2), torch.ones(3))
    with pytest.raises(ValueError, match="finite"):
        area_under_risk_coverage(torch.tensor([float("nan")]), torch.ones(1))
