"""A fit under the names by which it is logged."""

from __future__ import annotations

from torch import Tensor

from lightning_normdyn.core.fit import LogLogFit
from lightning_normdyn.instruments.base import Readings

_LEAST_SPREAD = 0.02


def named_fit(prefix: str, fit: LogLogFit, predicted: Tensor) -> Readings:
    """The logged fields of a fit, by name; a line through predictions that hardly differ would be noise.

    Args:
        prefix: what the names start with.
        fit: of observed on predicted norms.
        predicted: predicted norms, ``[n]``.
    """
    readings: Readings = {f"{prefix}_median_error": fit.median_relative_error}
    logs = predicted[(predicted > 0) & predicted.isfinite()].log()
    if len(logs) > 1 and float(logs.std()) > _LEAST_SPREAD:
        readings |= {f"{prefix}_slope": fit.slope, f"{prefix}_pearson_r": fit.pearson_r, f"{prefix}_r2": fit.r2}
    return readings
