"""What is logged of a fit: weighted where errors are known, and plain least squares by name."""

from __future__ import annotations

from torch import Tensor

from lightning_normdyn.core.dynamics.fit import LogLogFit, WeightedFit
from lightning_normdyn.instruments.base import Readings

_LEAST_SPREAD = 0.02


def fit_readings(prefix: str, fit: LogLogFit, predicted: Tensor, weighted: WeightedFit | None = None) -> Readings:
    """The logged fields of a fit, by name; a line through predictions that hardly differ would be noise.

    Args:
        prefix: what the names start with.
        fit: least squares of observed on predicted norms. Without ``weighted`` its slope is the one that is logged.
        predicted: predicted norms, ``[n]``.
        weighted: the fit weighted by each row's errors, where those are known.
    """
    readings: Readings = {f"{prefix}_median_error": fit.median_relative_error}
    has_line = _differ(predicted)
    if weighted is None:
        return readings | (_line(prefix, fit) if has_line else {})
    if has_line:
        least_squares = _line(f"{prefix}_least_squares", fit)
        readings |= {name: value for name, value in least_squares.items() if not name.endswith("_r2")}
    readings[f"{prefix}_judged_rows"] = float(weighted.n)
    if weighted.n:
        readings |= {f"{prefix}_coverage": weighted.coverage, f"{prefix}_excess": weighted.excess}
    if has_line and weighted.slope == weighted.slope:
        readings |= _line(prefix, weighted) | {f"{prefix}_slope_stderr": weighted.slope_stderr}
    return readings


def _differ(predicted: Tensor) -> bool:
    logs = predicted[(predicted > 0) & predicted.isfinite()].log()
    return len(logs) > 1 and float(logs.std()) > _LEAST_SPREAD


def _line(prefix: str, fit: LogLogFit | WeightedFit) -> Readings:
    r = fit.pearson_r
    return {f"{prefix}_slope": fit.slope, f"{prefix}_pearson_r": r, f"{prefix}_r2": r * r}
