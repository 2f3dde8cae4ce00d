"""The numbers of a demo run: those of its table and of ``summary.json``."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn._version import __version__
from lightning_normdyn.core.dynamics.fit import fit_log_log

TARGET = "table.weight"

_SUMMARISED = {
    "slope": "transient_slope",
    "pearson_r": "transient_pearson_r",
    "median_relative_error": "transient_median_error",
    "equilibrium_slope": "equilibrium_slope",
    "equilibrium_slope_stderr": "equilibrium_slope_stderr",
    "equilibrium_pearson_r": "equilibrium_pearson_r",
    "equilibrium_coverage": "equilibrium_coverage",
    "equilibrium_excess": "equilibrium_excess",
    "equilibrium_judged_rows": "equilibrium_judged_rows",
    "equilibrium_least_squares_slope": "equilibrium_least_squares_slope",
    "equilibrium_least_squares_pearson_r": "equilibrium_least_squares_pearson_r",
    "equilibrium_median_error": "equilibrium_median_error",
    "transient_persistence_error": "transient_persistence_error",
    "transient_skill": "transient_skill",
    "stationarity": "stationarity",
    "forecast_slope": "forecast_slope",
    "forecast_pearson_r": "forecast_pearson_r",
    "forecast_skill": "forecast_skill",
    "forecast_median_error": "forecast_median_error",
    "persistence_median_error": "persistence_median_error",
    "budget_residual": "budget_residual",
}


class Prediction(NamedTuple):
    """One kind of predicted norm against the observed one; ``None`` where a run was too short to tell."""

    label: str
    slope: float | None
    pearson_r: float | None
    median_error: float | None
    persistence_error: float | None = None
    skill: float | None = None


class Findings:
    """The last values that ``NormDynamics`` logged about the demo's table.

    Args:
        metrics: the trainer's ``callback_metrics``.
        table: the trained embeddings, ``[rows, dim]``.
        counts: how often each row's word occurs, ``[rows]``.
    """

    def __init__(self, metrics: Mapping[str, Tensor | float], table: Tensor, counts: list[int]) -> None:
        self._metrics = metrics
        norms = table.detach().double().norm(dim=-1)
        self.log_frequency_correlation = _finite(fit_log_log(torch.tensor(counts), norms).pearson_r)

    def quantity(self, name: str) -> float | None:
        """A logged quantity; ``None`` if it was never logged or is not a finite number."""
        return _finite(self._metrics.get(f"normdyn/{TARGET}/{name}"))

    def predictions(self) -> list[Prediction]:
        """The rows of the demo's table."""
        labels = {
            "equilibrium": "equilibrium law",
            "transient": "transient-corrected",
            "forecast": "forecast from 40%",
        }
        rows = {
            kind: Prediction(
                label, *(self.quantity(f"{kind}_{name}") for name in ("slope", "pearson_r", "median_error"))
            )
            for kind, label in labels.items()
        }
        for kind, persistence in (
            ("transient", "transient_persistence_error"),
            ("forecast", "persistence_median_error"),
        ):
            skill = self.quantity(f"{kind}_skill")
            rows[kind] = rows[kind]._replace(persistence_error=self.quantity(persistence), skill=skill)
        slope, pearson_r = (self.quantity(f"equilibrium_least_squares_{name}") for name in ("slope", "pearson_r"))
        plain = Prediction("  by least squares", slope, pearson_r, median_error=None)
        return [rows["equilibrium"], plain, rows["transient"], rows["forecast"]]

    def summary(self) -> dict[str, Any]:
        """The measured part of ``summary.json``."""
        return {
            **{name: self.quantity(log_name) for name, log_name in _SUMMARISED.items()},
            "log_frequency_correlation": self.log_frequency_correlation,
        }


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "pytorch_lightning": importlib.metadata.version("pytorch_lightning"),
        "lightning_normdyn": __version__,
    }


def _finite(value: Tensor | float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
