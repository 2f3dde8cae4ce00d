"""The weighted fit against a float64 loop, and against planted lines whose errors are known."""

import math

import pytest
import torch

from lightning_normdyn.core import NormErrors, fit_log_log, weighted_fit_log_log

ROWS, SLOPE = 400, 1.0


def planted(seed, slope=SLOPE):
    """Rows whose log norms have errors of their own, half of them shared with the prediction."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.linspace(-1, 0, ROWS, dtype=torch.float64)
    width = torch.linspace(0.5, 0.02, ROWS, dtype=torch.float64)
    shared, of_prediction, of_norm = torch.randn(3, ROWS, generator=generator, dtype=torch.float64)
    x = truth + width * (0.5 * shared + of_prediction)
    y = slope * truth + width * (0.5 * shared + 0.3 * of_norm)
    zero = torch.zeros(ROWS, dtype=torch.float64)
    errors = NormErrors(width, 0.34 * width**2, 1.25 * width**2, 0.25 * width**2, zero)
    return x.exp(), y.exp(), errors


def loop_fit(predicted, observed, errors, accuracy):
    """Slope, its error, r, coverage and excess in plain Python floats."""
    rows = list(zip(predicted.log().tolist(), observed.log().tolist(), *(e.tolist() for e in errors[1:4]), strict=True))
    variance = [vy + vx - 2 * c + accuracy**2 for _, _, vy, vx, c in rows]
    total = math.fsum(1 / v for v in variance)
    x_mean = math.fsum(x / v for (x, *_), v in zip(rows, variance, strict=True)) / total
    y_mean = math.fsum(y / v for (_, y, *_), v in zip(rows, variance, strict=True)) / total
    xx = xy = yy = spread = shared = strays = inside = 0.0
    for (x, y, _, vx, c), v in zip(rows, variance, strict=True):
        xx, xy, yy = xx + (x - x_mean) ** 2 / v, xy + (x - x_mean) * (y - y_mean) / v, yy + (y - y_mean) ** 2 / v
        spread, shared = spread + vx / v, shared + c / v
        strays, inside = strays + (y - x) ** 2 / v, inside + (abs(y - x) < 1.6448536 * v**0.5)
    slope = (xy - shared) / (xx - spread)
    scatter = noise = 0.0
    for (x, y, vy, vx, c), v in zip(rows, variance, strict=True):
        scatter += (y - y_mean - slope * (x - x_mean)) ** 2 / v / (len(rows) - 2)
        noise += ((x - x_mean) / v) ** 2 * (vy + slope**2 * vx - 2 * slope * c + accuracy**2)
    stderr = (noise * max(1.0, scatter)) ** 0.5 / (xx - spread)
    return slope, stderr, xy / (xx * yy) ** 0.5, inside / len(rows), (strays / len(rows)) ** 0.5


@pytest.mark.parametrize("accuracy", [0.0, 0.1])
def test_every_field_is_that_of_a_loop(accuracy):
    predicted, observed, errors = planted(3)
    fit = weighted_fit_log_log(predicted, observed, errors, accuracy=accuracy)
    assert fit[:5] == pytest.approx(loop_fit(predicted, observed, errors, accuracy), rel=1e-9)
    assert fit.n == ROWS


@pytest.mark.parametrize("slope", [1.0, 0.7])
def test_planted_slopes_are_found_where_least_squares_are_flat(slope):
    fits = [weighted_fit_log_log(*planted(seed, slope)) for seed in range(200)]
    slopes = torch.tensor([fit.slope for fit in fits])
    assert float(slopes.mean()) == pytest.approx(slope, abs=0.01)
    assert float(slopes.std()) == pytest.approx(sum(fit.slope_stderr for fit in fits) / 200, rel=0.15)
    least_squares = torch.tensor([fit_log_log(*planted(seed, slope)[:2]).slope for seed in range(20)])
    assert float(least_squares.mean()) < slope - 0.1
    if slope == 1:
        assert sum(fit.coverage for fit in fits) / 200 == pytest.approx(0.9, abs=0.005)
        assert sum(fit.excess for fit in fits) / 200 == pytest.approx(1, abs=0.01)
    else:
        assert sum(fit.excess for fit in fits) / 200 > 1.1


def test_a_bias_of_the_logarithm_is_taken_off():
    predicted, observed, errors = planted(1)
    biased = errors._replace(log_bias=torch.full_like(errors.log_bias, 0.2))
    assert weighted_fit_log_log(predicted * math.exp(-0.2), observed, biased) == pytest.approx(
        weighted_fit_log_log(predicted, observed, errors)
    )


def test_rows_without_logarithm_or_error_are_left_out():
    predicted, observed, errors = planted(2)
    judged = torch.arange(ROWS) >= 10
    fit = weighted_fit_log_log(predicted, observed, errors, judged=judged)
    predicted[:3], observed[3:6], errors.observed[6:10] = math.inf, 0.0, math.nan
    assert weighted_fit_log_log(predicted, observed, errors) == fit


def test_too_few_rows_have_no_slope():
    predicted, observed, errors = planted(2)
    two = [NormErrors(*(values[-2:] for values in errors))]
    fit = weighted_fit_log_log(predicted[-2:], observed[-2:], *two)
    assert math.isnan(fit.slope)
    assert fit.n == 2
    none = weighted_fit_log_log(predicted, observed, errors, judged=torch.zeros(ROWS, dtype=torch.bool))
    assert none.n == 0
    assert math.isnan(none.coverage)


def test_lengths_must_agree():
    predicted, observed, errors = planted(2)
    with pytest.raises(ValueError, match="observed: expected the shape of predicted"):
        weighted_fit_log_log(predicted, observed[1:], errors)
