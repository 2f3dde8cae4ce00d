"""Least squares of log observed on log predicted norm, as in the published figures."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


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
