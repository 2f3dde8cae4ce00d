"""The skill of a forecast beside 'stays as it is', with an interval from resampling rows."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_RESAMPLES = 200
_MOST_ROWS = 4_096


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
