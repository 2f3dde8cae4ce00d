"""Areas and DeLong's covariance against loops over pairs; intervals against what they promise."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core.statistics.risk_coverage import roc_areas


def by_pairs(positives, negatives):
    """Area, and both placement values of each item."""
    wins = [[(x > y) + (x == y) / 2 for y in negatives] for x in positives]
    above = [sum(row) / len(negatives) for row in wins]
    below = [sum(column) / len(positives) for column in zip(*wins, strict=True)]
    return sum(above) / len(above), above, below


def covariance(a, b):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    return sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True)) / (len(a) - 1)


def delong(first, second):
    return sum(covariance(a, b) / len(a) for a, b in zip(first[1:], second[1:], strict=True))


@settings(derandomize=True, max_examples=60)
@given(st.integers(0, 2**32), st.integers(2, 12), st.integers(2, 12))
def test_areas_and_intervals_are_those_of_all_pairs(seed, n, m):
    draw = torch.Generator().manual_seed(seed)
    positives = torch.randint(1, 6, (2, n), generator=draw)
    negatives = torch.randint(0, 5, (2, m), generator=draw)
    found = roc_areas(positives, negatives)
    pairs = [by_pairs(x.tolist(), y.tolist()) for x, y in zip(positives, negatives, strict=True)]
    assert [one.value for one in found.areas] == pytest.approx([area for area, *_ in pairs])
    for one, pair in zip(found.areas, pairs, strict=True):
        if 0 < one.value < 1:
            far = 1.959964 * math.sqrt(delong(pair, pair))
            assert (one.low, one.high) == pytest.approx((max(one.value - far, 0), min(one.value + far, 1)), abs=1e-6)
    between = found.differences[1]
    variance = delong(pairs[0], pairs[0]) + delong(pairs[1], pairs[1]) - 2 * delong(*pairs)
    assert between.value == pytest.approx(pairs[1][0] - pairs[0][0])
    assert between.high - between.value == pytest.approx(1.959964 * math.sqrt(max(variance, 0)), abs=1e-6)


def test_intervals_hold_the_area_they_promise():
    draw = torch.Generator().manual_seed(2)
    truth, held = 0.5 * (1 + math.erf(1 / 2)), 0
    for _ in range(400):
        found = roc_areas(torch.randn(1, 40, generator=draw) + 1, torch.randn(1, 60, generator=draw)).areas[0]
        held += found.low <= truth <= found.high
    assert 365 <= held <= 395


def test_a_perfect_score_is_not_a_sure_one():
    perfect = roc_areas(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 2.0, 0.0]])).areas[0]
    assert perfect == pytest.approx((1.0, 0.025**0.5, 1.0))
    hopeless = roc_areas(torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[3.0, 4.0]])).areas[0]
    assert hopeless == pytest.approx((0.0, 0.0, 1 - 0.025**0.5))


def test_groups_have_the_same_scores():
    with pytest.raises(ValueError, match="same k scores"):
        roc_areas(torch.ones(2, 3), torch.ones(1, 3))
    with pytest.raises(ValueError, match="finite"):
        roc_areas(torch.tensor([[float("nan")]]), torch.ones(1, 3))
