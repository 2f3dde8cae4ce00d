"""Cohen's d, the coefficient of variation, and moments that arrive in parts."""

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core import coefficient_of_variation, cohens_d
from lightning_normdyn.core.statistics.effect_size import sample_moments

PROPERTY = settings(derandomize=True, max_examples=60)
norms = st.lists(st.floats(0, 1e3, width=32), min_size=2, max_size=30)


def d_by_statistics(relevant, irrelevant):
    n, m = len(relevant), len(irrelevant)
    pooled = ((n - 1) * statistics.variance(relevant) + (m - 1) * statistics.variance(irrelevant)) / (n + m - 2)
    return (statistics.fmean(relevant) - statistics.fmean(irrelevant)) / math.sqrt(pooled)


def varied(values):
    return max(values) - min(values) > 1e-3


@PROPERTY
@given(norms.filter(varied), norms)
def test_cohens_d_equals_the_standard_library(relevant, irrelevant):
    found = cohens_d(torch.tensor(relevant), torch.tensor(irrelevant))
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(d_by_statistics(relevant, irrelevant), rel=1e-9, abs=1e-12)


def test_cohens_d_of_known_groups():
    """Two normal groups half a standard deviation apart, one of them four times as large."""
    draw = torch.Generator().manual_seed(0)
    relevant, irrelevant = (10 + torch.randn(n, generator=draw) for n in (40_000, 160_000))
    assert float(cohens_d(relevant + 0.5, irrelevant)) == pytest.approx(0.5, abs=0.02)
    assert float(cohens_d(3 * relevant, 3 * (irrelevant + 0.5))) == pytest.approx(-0.5, abs=0.02)


@PROPERTY
@given(norms.filter(varied), norms.filter(varied), st.floats(0.1, 10))
def test_cohens_d_has_no_unit_and_turns_its_sign_with_the_groups(relevant, irrelevant, scale):
    first, second = torch.tensor(relevant), torch.tensor(irrelevant)
    d = float(cohens_d(first, second))
    assert float(cohens_d(second, first)) == pytest.approx(-d, abs=1e-12)
    assert float(cohens_d(first.double() * scale, second.double() * scale)) == pytest.approx(d, rel=1e-9, abs=1e-9)


def test_groups_without_spread_or_norms():
    ones, twos = torch.ones(3), torch.full((2,), 2.0)
    assert cohens_d(twos, ones) == math.inf
    assert cohens_d(ones, twos) == -math.inf
    for pair in ((ones, ones), (ones, torch.empty(0)), (torch.empty(0), ones)):
        assert cohens_d(*pair).isnan()


@PROPERTY
@given(norms.filter(varied))
def test_variation_equals_the_standard_library(values):
    oracle = statistics.pstdev(values) / statistics.fmean(values)
    assert float(coefficient_of_variation(torch.tensor(values))) == pytest.approx(oracle, rel=1e-9)


def test_half_precision_is_read_in_float64():
    values = (torch.rand(5_000, generator=torch.Generator().manual_seed(0)) * 300 + 200).half()
    precise = values.double().numpy()
    assert float(coefficient_of_variation(values)) == pytest.approx(precise.std() / precise.mean(), rel=1e-12)
    assert float(cohens_d(values, values - 100)) == pytest.approx(
        d_by_statistics(*(side.double().tolist() for side in (values, values - 100))), rel=1e-12
    )


@PROPERTY
@given(norms, st.integers(0, 2**16), st.integers(1, 5))
def test_moments_merge_in_any_parts_and_order(values, seed, parts):
    places = np.random.default_rng(seed).permutation(len(values))
    merged = sample_moments(torch.empty(0))
    for part in np.array_split(places, parts):
        merged = merged.merge(sample_moments(torch.tensor(values)[part]))
    whole = sample_moments(torch.tensor(values))
    assert merged.n == whole.n == len(values)
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(merged.squares, whole.squares, rtol=1e-9, atol=1e-9)


def test_moments_do_not_cancel_where_raw_squares_would():
    values = 1e8 + torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    halves = sample_moments(values[:1]).merge(sample_moments(values[1:]))
    assert float(halves.squares) == 2.0
    assert float(values.square().sum() - values.sum() ** 2 / 3) != 2.0


def test_whole_embeddings_are_no_norms():
    with pytest.raises(ValueError, match=r"relevant: expected norms \[n\], got shape \(3, 2\)"):
        cohens_d(torch.ones(3, 2), torch.ones(3))
