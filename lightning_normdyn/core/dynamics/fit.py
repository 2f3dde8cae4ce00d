"""How predicted norms meet observed ones: log-log fits, plain and weighted by errors, and a forecast's skill."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.norm_errors import NormErrors
from lightning_normdyn.core.number_checks import check_not_negative
from lightning_normdyn.core.object_checks import check_instance
from lightning_normdyn.core.tensor_checks import check_tensors

Z90 = 1.6448536269514722
"""Half the width of a 90% interval, in standard errors."""

_RESAMPLES = 200
_MOST_ROWS = 4_096


class LogLogFit(NamedTuple):
    """Least squares of log observed norm on log predicted norm. Fields are plain numbers.

    Attributes:
        slope: ``d log observed / d log predicted``; 1 is perfect; ``PUBLISHED_FIT`` holds the published one.
        intercept: log observed norm at a predicted norm of one.
        pearson_r: correlation of the two logs; published likewise.
        r2: share of the variance of log observed norm that the fitted line explains.
        median_relative_error: median of ``|predicted - observed| / observed``, with no refitting.
        n: pairs that entered.
    """

    slope: float
    intercept: float
    pearson_r: float
    r2: float
    median_relative_error: float
    n: int


def fit_log_log(predicted: Tensor, observed: Tensor) -> LogLogFit:
    """Fits log observed norm against log predicted norm.

    Pairs in which either side is zero, negative, infinite or NaN have no logarithm and are left out; ``n`` tells how
    many stayed. Fewer than two, or predictions that are all equal, have no slope: those fields are NaN.

    Args:
        predicted: predicted norms, ``[n]``.
        observed: observed norms, ``[n]``.

    Returns:
        The fit, computed in float64. Su, Ren, Veitch 2026 (arXiv 2606.30625, Fig. 3a) report such a fit; its numbers
        are :data:`~lightning_normdyn.core.dynamics.published_fit.PUBLISHED_FIT`.

    Raises:
        ValueError: if the lengths differ.

    Example:
        >>> fit = fit_log_log(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 4.0, 8.0]))
        >>> round(fit.slope, 6), round(fit.pearson_r, 6), fit.median_relative_error
        (1.0, 1.0, 0.5)
    """
    check_tensors(predicted=predicted, observed=observed)
    if predicted.shape != observed.shape:
        raise ValueError(
            f"observed: expected the shape of predicted, {tuple(predicted.shape)}, got {tuple(observed.shape)}; "
            "pass one observed norm for each prediction"
        )
    predicted, observed = predicted.double().flatten(), observed.double().flatten()
    usable = (predicted > 0) & (observed > 0) & predicted.isfinite() & observed.isfinite()
    predicted, observed = predicted[usable], observed[usable]
    n = int(predicted.numel())
    if n == 0:
        return LogLogFit(math.nan, math.nan, math.nan, math.nan, math.nan, 0)
    error = _median((predicted - observed).abs() / observed)
    slope, intercept, pearson_r = _regress(predicted.log(), observed.log())
    return LogLogFit(slope, intercept, pearson_r, pearson_r**2, error, n)


class WeightedFit(NamedTuple):
    """Log observed on log predicted norm, each row weighted by what chance does to it. Fields are plain numbers.

    Attributes:
        slope: ``d log observed / d log predicted`` with the spread that errors of the prediction add taken off; 1 is
            perfect.
        slope_stderr: its standard error; where rows scatter about the line more than chance explains, as large as that.
        pearson_r: weighted correlation of the two logs.
        coverage: share of rows whose observed norm lies within their own 90% interval of the prediction; 0.9 is right.
        excess: root mean square of ``log observed - log predicted`` over what chance explains; 1 is all explained.
        n: rows that entered.
    """

    slope: float
    slope_stderr: float
    pearson_r: float
    coverage: float
    excess: float
    n: int


def weighted_fit_log_log(
    predicted: Tensor, observed: Tensor, errors: NormErrors, *, accuracy: float = 0.0, judged: Tensor | None = None
) -> WeightedFit:
    """Fits log observed against log predicted norm, with the variances of both and their covariance known.

    Let ``x = log predicted``, ``y = log observed``, weights ``w = 1/(Var(y - x) + accuracy²)`` and ``S`` the weighted,
    centred sums. The part of them that errors alone make is taken off (the method of moments; York's iteration agrees
    within 0.001)::

        slope = (S_xy - sum of w·Cov)/(S_xx - sum of w·Var(x))

    Args:
        predicted: predicted norms, ``[n]``.
        observed: observed norms, ``[n]``.
        errors: variances of their logarithms, ``[n]``, as :meth:`EquilibriumRule.errors` gives them.
        accuracy: what the prediction is right to at best, in logs; it keeps weights finite.
        judged: rows that may enter, a mask ``[n]``; ``None`` for all. Among them enter pairs of positive numbers whose
            errors are finite.

    Returns:
        The fit, in float64. Fewer than three rows, or predictions that differ by no more than their errors, have no
        slope: those fields are NaN.

    Raises:
        ValueError: if the lengths differ.

    Example:
        >>> predicted, variance = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.full((4,), 1e-4)
        >>> errors = NormErrors(variance.sqrt(), variance, variance, variance * 0, variance * 0)
        >>> fit = weighted_fit_log_log(predicted, predicted * torch.tensor([1.01, 0.99, 1.01, 0.99]), errors)
        >>> round(fit.slope, 2), round(fit.slope_stderr, 3), fit.coverage, round(fit.excess, 2)
        (0.99, 0.009, 1.0, 0.71)
    """
    check_tensors(predicted=predicted, observed=observed)
    check_instance(NormErrors, errors=errors, hint="EquilibriumRule.errors makes them")
    check_not_negative(unknown=True, accuracy=accuracy)
    for name, column in {"errors": errors.log_bias, "judged": judged}.items():
        if column is not None:
            check_tensors(**{name: column})
            if column.shape not in ((), predicted.shape) or (name == "judged" and column.dtype != torch.bool):
                raise ValueError(
                    f"{name}: expected {'a mask' if name == 'judged' else 'numbers'} of the shape of predicted, "
                    f"{tuple(predicted.shape)}, got {column.dtype} {tuple(column.shape)}"
                )
    if predicted.shape != observed.shape:
        raise ValueError(
            f"observed: expected the shape of predicted, {tuple(predicted.shape)}, got {tuple(observed.shape)}; "
            "pass one observed norm for each prediction"
        )
    x, y = predicted.double().log() + errors.log_bias.double(), observed.double().log()
    var_x, var_y, covariance = (value.double() for value in (errors.predicted, errors.observed, errors.covariance))
    variance = errors.difference.double() + accuracy**2
    usable = x.isfinite() & y.isfinite() & variance.isfinite() & (variance > 0)
    usable = usable if judged is None else usable & judged
    x, y, var_x, var_y, covariance, variance = (v[usable] for v in (x, y, var_x, var_y, covariance, variance))
    n = len(x)
    if not n:
        return WeightedFit(math.nan, math.nan, math.nan, math.nan, math.nan, 0)
    strays = (y - x).square() / variance
    coverage, excess = float((strays <= Z90**2).double().mean()), float(strays.mean().sqrt())
    weight = 1 / variance
    x_centred, y_centred = x - weight @ x / weight.sum(), y - weight @ y / weight.sum()
    s_xx, s_xy, s_yy = (float(weight @ product) for product in (x_centred**2, x_centred * y_centred, y_centred**2))
    spread = s_xx - float(weight @ var_x)
    if n < _FEWEST_ROWS or spread <= 0 or s_yy <= 0:
        return WeightedFit(math.nan, math.nan, math.nan, coverage, excess, n)
    slope = (s_xy - float(weight @ covariance)) / spread
    along = var_y + slope**2 * var_x - 2 * slope * covariance + accuracy**2
    scatter = float((weight @ (y_centred - slope * x_centred).square()) / (n - 2))
    stderr = math.sqrt(float((weight * x_centred).square() @ along) * max(1.0, scatter)) / spread
    pearson_r = max(-1.0, min(1.0, s_xy / math.sqrt(s_xx * s_yy)))
    return WeightedFit(slope, stderr, pearson_r, coverage, excess, n)


_FEWEST_ROWS = 3


class Skill(NamedTuple):
    """``1 - median error / median error of 'stays as it is'``, as plain numbers.

    Attributes:
        value: over all rows; 1 is perfect, 0 no better than persistence, NaN where nothing moved.
        low: 5% quantile over resampled rows.
        high: 95% quantile.
    """

    value: float
    low: float
    high: float


def forecast_skill(predicted: Tensor, stays: Tensor, observed: Tensor) -> Skill:
    """Skill of predicted norms, with a 90% bootstrap interval: as if other rows of the same kind had been drawn.

    Rows in which any of the three is zero, negative, infinite or NaN are left out. Above 4,096 rows an even sample of
    them is resampled, which makes the interval wider, never narrower.

    Args:
        predicted: norms that were forecast, ``[n]``.
        stays: norms when they were, ``[n]``.
        observed: norms that came, ``[n]``.

    Example:
        >>> observed = torch.linspace(1, 2, 50)
        >>> skill = forecast_skill(observed * 1.01, observed * 1.1, observed)
        >>> [round(value, 2) for value in skill]
        [0.9, 0.9, 0.9]
    """
    predicted, stays, observed = (norms.detach().double().flatten().cpu() for norms in (predicted, stays, observed))
    usable = (observed > 0) & (predicted > 0) & (stays > 0)
    usable &= observed.isfinite() & predicted.isfinite() & stays.isfinite()
    observed = observed[usable]
    errors = torch.stack([(norms[usable] - observed).abs() / observed for norms in (predicted, stays)])
    if not len(observed):
        return Skill(math.nan, math.nan, math.nan)
    value = _skill(errors.quantile(0.5, dim=1) if len(observed) < 2**23 else errors.median(dim=1).values)
    sample = errors[:, :: -(-len(observed) // _MOST_ROWS)]
    generator = torch.Generator().manual_seed(0)  # the training's own must not be touched
    draws = torch.randint(sample.shape[1], (_RESAMPLES, sample.shape[1]), generator=generator)
    resampled = _skill(sample[:, draws].median(dim=2).values)
    low, high = resampled.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    return Skill(float(value), low, high)


def _skill(medians: Tensor) -> Tensor:
    """From the errors of the forecast and of persistence, ``[2, ...]``."""
    return (1 - medians[0] / medians[1]).where(medians[1] > 0, torch.nan)


def _regress(x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """Slope, intercept and correlation of ``y`` on ``x``; NaN where a side does not vary beyond rounding."""
    x_centred, y_centred = x - x.mean(), y - y.mean()
    x_spread, y_spread = float(x_centred.norm()), float(y_centred.norm())
    rounding = 1e-12 * math.sqrt(len(x))
    if x_spread <= rounding * max(1.0, float(x.abs().max())):
        return math.nan, math.nan, math.nan
    slope = float(x_centred @ y_centred) / x_spread**2
    intercept = float(y.mean()) - slope * float(x.mean())
    if y_spread <= rounding * max(1.0, float(y.abs().max())):
        return slope, intercept, math.nan
    return slope, intercept, max(-1.0, min(1.0, float(x_centred @ y_centred) / (x_spread * y_spread)))


def _median(values: Tensor) -> float:
    """The middle value, or the mean of the two middle ones."""
    return float(torch.quantile(values, 0.5)) if len(values) < 2**24 else float(values.median())
