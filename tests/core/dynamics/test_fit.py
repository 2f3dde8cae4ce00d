import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_normdyn.core import fit_log_log

PROPERTY = settings(derandomize=True, max_examples=50)


def scattered_norms(seed, n, slope=0.88, noise=0.1):
    draw = np.random.default_rng(seed)
    predicted = np.exp(draw.normal(size=n))
    return predicted, predicted**slope * np.exp(noise * draw.normal(size=n))


def fit(predicted, observed):
    return fit_log_log(torch.as_tensor(predicted, dtype=torch.float64), torch.as_tensor(observed, dtype=torch.float64))


@PROPERTY
@given(st.integers(0, 2**32), st.integers(3, 200), st.floats(-2, 2), st.floats(0.01, 2))
def test_fit_equals_numpy(seed, n, slope, noise):
    predicted, observed = scattered_norms(seed, n, slope, noise)
    result = fit(predicted, observed)
    x, y = np.log(predicted), np.log(observed)
    oracle_slope, oracle_intercept = np.polyfit(x, y, 1)
    correlation = np.corrcoef(x, y)[0, 1]
    assert result.slope == pytest.approx(oracle_slope, rel=1e-9, abs=1e-9)
    assert result.intercept == pytest.approx(oracle_intercept, rel=1e-9, abs=1e-9)
    assert result.pearson_r == pytest.approx(correlation, abs=1e-9)
    assert result.r2 == pytest.approx(1 - np.var(y - oracle_slope * x - oracle_intercept) / np.var(y), abs=1e-9)
    assert result.median_relative_error == pytest.approx(np.median(abs(predicted - observed) / observed), rel=1e-12)
    assert result.n == n


def test_the_sides_are_not_interchangeable():
    predicted, observed = scattered_norms(seed=0, n=100)
    oracle = np.polyfit(np.log(predicted), np.log(observed), 1)[0]
    assert fit(observed, predicted).slope != pytest.approx(oracle, rel=0.05)
    assert fit(observed, predicted).median_relative_error != pytest.approx(
        fit(predicted, observed).median_relative_error, rel=1e-3
    )


@PROPERTY
@given(st.floats(0.1, 4) | st.floats(-4, -0.1), st.floats(0.01, 100), st.integers(2, 50))
def test_an_exact_power_law_is_recovered(slope, factor, n):
    predicted = torch.logspace(-1, 2, n, dtype=torch.float64)
    result = fit_log_log(predicted, factor * predicted**slope)
    assert result.slope == pytest.approx(slope, rel=1e-10)
    assert result.intercept == pytest.approx(math.log(factor), abs=1e-9)
    assert result.pearson_r == pytest.approx(math.copysign(1, slope), abs=1e-12)
    assert result.r2 == pytest.approx(1, abs=1e-12)
    assert abs(result.pearson_r) <= 1


def test_half_precision_inputs_are_fitted_in_float64():
    predicted, observed = (torch.as_tensor(side).half() for side in scattered_norms(seed=1, n=40))
    assert fit_log_log(predicted, observed) == fit(predicted, observed)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0, -1.0])
@pytest.mark.parametrize("side", ["predicted", "observed"])
def test_pairs_without_a_logarithm_are_left_out(bad, side):
    predicted, observed = scattered_norms(seed=2, n=20)
    spoilt = {"predicted": predicted.copy(), "observed": observed.copy()}
    spoilt[side][7] = bad
    kept = np.arange(20) != 7
    assert fit(**spoilt) == fit(predicted[kept], observed[kept])
    assert fit(**spoilt).n == 19


@pytest.mark.parametrize("values", [[], [math.nan, 0.0, math.inf]], ids=["none", "none usable"])
def test_no_pairs_give_no_numbers(values):
    result = fit(values, values)
    assert result.n == 0
    assert all(math.isnan(value) for value in result[:-1])


def test_one_pair_has_an_error_but_no_slope():
    result = fit([2.0], [4.0])
    assert (result.median_relative_error, result.n) == (0.5, 1)
    assert all(math.isnan(value) for value in result[:4])


@pytest.mark.parametrize("value", [1e-8, 1.0, 3.3, 1e8])
def test_equal_predictions_have_no_slope(value):
    result = fit([value] * 7, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    assert all(math.isnan(number) for number in result[:4])
    assert result.n == 7


@pytest.mark.parametrize("value", [1e-8, 1.0, 3.3, 1e8])
def test_equal_observations_have_slope_zero_and_no_correlation(value):
    result = fit([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], [value] * 7)
    assert result.slope == pytest.approx(0, abs=1e-12)
    assert math.isnan(result.pearson_r)
    assert math.isnan(result.r2)


def test_fields_are_plain_numbers():
    assert [type(value) for value in fit([1.0, 2.0], [2.0, 3.0])] == [float] * 5 + [int]


def test_different_lengths_are_named():
    with pytest.raises(ValueError, match=r"observed: expected the shape of predicted, \(3,\), got \(2,\)"):
        fit_log_log(torch.ones(3), torch.ones(2))
