"""The one line that a run ends with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SETTLING = 0.5


def conclusion(metrics: Mapping[str, Any], prefix: str) -> str:
    """Puts the fit of one target into words; empty if there was none.

    Args:
        metrics: the trainer's metrics.
        prefix: what the target's keys start with.

    Example:
        >>> conclusion({"a/transient_slope": 1.0, "a/transient_median_error": 0.012, "a/forecast_skill": 0.9}, "a/")
        'norms predicted with slope 1.00, 1.2% off (median); forecast for the end: skill 0.90'
    """
    found = {key.removeprefix(prefix): float(value) for key, value in metrics.items() if key.startswith(prefix)}
    parts = []
    if "transient_median_error" in found:
        fit = [f"slope {found['transient_slope']:.2f}"] if "transient_slope" in found else []
        fit += [f"r {found['transient_pearson_r']:.3f}"] if "transient_pearson_r" in found else []
        parts.append("norms predicted with " + ", ".join([*fit, f"{found['transient_median_error']:.1%} off (median)"]))
    if "equilibrium_median_error" in found:
        parts.append(f"{found['equilibrium_median_error']:.1%} away from equilibrium")
    if found.get("stationarity", 1.0) < _SETTLING:
        parts.append("not settled: the norms mostly repeat where they started")
    if "forecast_skill" in found:
        parts.append(f"forecast for the end: skill {found['forecast_skill']:.2f}")
    return "; ".join(parts)
