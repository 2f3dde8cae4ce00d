"""Forecasts of norms, how they are judged beside 'stays as it is', and what is logged of a fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.fit import (
    LogLogFit,
    Skill,
    WeightedFit,
    fit_log_log,
    forecast_skill,
    weighted_fit_log_log,
)
from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.core.dynamics.norm_errors import NormErrors
from lightning_normdyn.instruments.base import Readings
from lightning_normdyn.instruments.extent import Extent, extent_steps

_DUE_TOLERANCE = 0.02
_SHARE_TOLERANCE = 0.01
"""Of the share at which a forecast is made: a window ends where the share of the run falls only up to rounding."""
_LEAST_SPREAD = 0.02
"""Of the logs of predictions: a line through ones that differ less would be noise."""


class Judgement(NamedTuple):
    """How a forecast came out.

    Attributes:
        fit: observed on forecast norms, by least squares.
        weighted: the same, each row weighted by its errors; ``None`` where those are not known.
        persistence_error: median relative error of 'stays as it is'.
        skill: ``1 - error / persistence_error`` and its interval; NaN where nothing moved.
    """

    fit: LogLogFit
    weighted: WeightedFit | None
    persistence_error: float
    skill: Skill

    def skill_readings(self, name: str) -> Readings:
        """The skill under this name, and the ends of its interval."""
        return {name: self.skill.value, f"{name}_low": self.skill.low, f"{name}_high": self.skill.high}


class Forecast(NamedTuple):
    """Norms that were predicted for a step to come.

    Attributes:
        due: the step they were predicted for, skipped ones counted.
        norms: the prediction, ``[rows]``; NaN for rows of which nothing was known.
        stays: the norms when it was made, which is what 'stays as it is' predicts, ``[rows]``.
        errors: what chance does to them, NaN for rows that are not judged; ``None`` where that is not known.
    """

    due: int
    norms: Tensor
    stays: Tensor
    errors: NormErrors | None = None

    def has_come_due(self, step: int) -> bool:
        """Whether a run that ended at this step ended where it was forecast to, give or take 2%."""
        return abs(step - self.due) <= _DUE_TOLERANCE * self.due

    def judge(self, observed: Tensor) -> Judgement:
        """Fit, errors and skill against the norms that came, ``[rows]``, over the rows that were forecast."""
        observed = most_precise(observed)
        fit = fit_log_log(self.norms, observed)
        weighted = None if self.errors is None else weighted_fit_log_log(self.norms, observed, self.errors)
        stays = self.stays.where(self.norms.isfinite(), torch.nan)
        persistence = fit_log_log(stays, observed).median_relative_error
        return Judgement(fit, weighted, persistence, forecast_skill(self.norms, stays, observed))

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers, for a checkpoint."""
        errors = None if self.errors is None else torch.stack(self.errors)
        return {"due": self.due, "norms": self.norms, "stays": self.stays, "errors": errors}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], device: torch.device) -> Forecast:
        """Takes back what :meth:`state_dict` gave."""
        errors = state.get("errors")
        return cls(
            state["due"],
            state["norms"].to(device),
            state["stays"].to(device),
            None if errors is None else NormErrors(*errors.to(device).unbind()),
        )


class EndForecast:
    """The forecast for the end of the run: made the first time that enough of it has passed, and judged once.

    Args:
        forecast_at: how much of the run must have passed, as a share or in steps.
        total_steps: gives the number of optimizer steps that the run will try; ``None`` if it has no set end.
        skipped_steps: gives the number of those that a loss scaler has skipped so far.
    """

    def __init__(
        self, forecast_at: Extent, total_steps: Callable[[], int | None], skipped_steps: Callable[[], int]
    ) -> None:
        self._forecast_at, self._total_steps, self._skipped_steps = forecast_at, total_steps, skipped_steps
        self.forecast: Forecast | None = None
        self._has_judgement = False

    def keep(self, step: int, norms: Tensor, stays: Tensor, errors: NormErrors | None = None) -> None:
        """Keeps a forecast that was made after this step, if it is the first of the second part of the run.

        Args:
            step: steps made so far.
            norms: the forecast, ``[rows]``.
            stays: norms now, ``[rows]``.
            errors: of the forecast, where they are known.
        """
        total = self._total_steps()
        self._drop_unless_for(total)
        earliest = extent_steps(self._forecast_at, total, share_tolerance=_SHARE_TOLERANCE)
        if self.forecast is None and total is not None and earliest is not None and earliest <= step < total:
            self.forecast = Forecast(total, norms, stays.clone(), errors)

    def is_last(self, step: int) -> bool:
        """Whether the run ends with this step, as it was forecast to."""
        return self.forecast is not None and not self._has_judgement and self._steps_tried(step) == self.forecast.due

    def is_due(self, step: int) -> bool:
        """Whether a run that ended with this step still has a forecast to judge."""
        forecast = self.forecast
        return forecast is not None and not self._has_judgement and forecast.has_come_due(self._steps_tried(step))

    def judge(self, norms: Tensor) -> Readings:
        """Judges the forecast, at the last step: afterwards a callback may put averaged weights in."""
        assert self.forecast is not None
        judgement = self.forecast.judge(norms)
        self._has_judgement = True
        readings: Readings = {"persistence_median_error": judgement.persistence_error}
        readings |= judgement.skill_readings("forecast_skill")
        return fit_readings("forecast", judgement.fit, self.forecast.norms, judgement.weighted) | readings

    def _steps_tried(self, step: int) -> int:
        """Steps that the run has tried: those made and those that a loss scaler skipped."""
        return step + self._skipped_steps()

    def state_dict(self) -> dict[str, Any] | None:
        """Tensors and numbers, for a checkpoint."""
        return None if self.forecast is None else self.forecast.state_dict() | {"judged": self._has_judgement}

    def load_state_dict(self, state: dict[str, Any] | None, device: torch.device) -> None:
        """Takes back what :meth:`state_dict` gave; a forecast for another end than the run has now is dropped."""
        if state is not None:
            self.forecast, self._has_judgement = Forecast.from_state_dict(state, device), state["judged"]
            self._drop_unless_for(self._total_steps())

    def _drop_unless_for(self, total: int | None) -> None:
        """Drops a forecast for another end: the run was prolonged or cut short, and the next window makes a new one."""
        if self.forecast is not None and self.forecast.due != total:
            self.forecast, self._has_judgement = None, False


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
