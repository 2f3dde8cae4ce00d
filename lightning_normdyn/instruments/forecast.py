"""A forecast of norms, and how well it did beside 'stays as it is'."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.fit import LogLogFit, fit_log_log
from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.instruments.base import Readings

_ARRIVED = 0.02


def check_forecast_at(share: float) -> float:
    """Refuses what is no share of a run."""
    if not isinstance(share, float) or not 0 < share < 1:
        raise ValueError(f"forecast_at: expected a share of the run between 0 and 1, got {share!r}")
    return share


class Judgement(NamedTuple):
    """How a forecast came out.

    Attributes:
        fit: observed on forecast norms.
        persistence_error: median relative error of 'stays as it is'.
        skill: ``1 - error / persistence_error``; NaN where nothing moved.
    """

    fit: LogLogFit
    persistence_error: float
    skill: float


class Forecast(NamedTuple):
    """Norms that were predicted for a step to come.

    Attributes:
        due: the step they were predicted for, skipped ones counted.
        norms: the prediction, ``[rows]``; NaN for rows of which nothing was known.
        stays: the norms when it was made, which is what 'stays as it is' predicts, ``[rows]``.
    """

    due: int
    norms: Tensor
    stays: Tensor

    def has_come_due(self, step: int) -> bool:
        """Whether a run that ended at this step ended where it was forecast to, give or take 2%."""
        return abs(step - self.due) <= _ARRIVED * self.due

    def judge(self, observed: Tensor) -> Judgement:
        """Fit, errors and skill against the norms that came, ``[rows]``, over the rows that were forecast."""
        fit = fit_log_log(self.norms, most_precise(observed))
        stays = self.stays.where(self.norms.isfinite(), torch.nan)
        persistence = fit_log_log(stays, most_precise(observed)).median_relative_error
        skill = 1 - fit.median_relative_error / persistence if persistence > 0 else math.nan
        return Judgement(fit, persistence, skill)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers, for a checkpoint."""
        return self._asdict()

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], device: torch.device) -> Forecast:
        """Takes back what :meth:`state_dict` gave."""
        return cls(state["due"], state["norms"].to(device), state["stays"].to(device))


class EndForecast:
    """The forecast for the end of the run: made the first time that enough of it has passed, and judged once.

    Args:
        share: of the run, that must have passed.
        total_steps: gives the number of optimizer steps that the run will try; ``None`` if it has no set end.
        skipped_steps: gives the number of those that a loss scaler has skipped so far.
    """

    def __init__(self, share: float, total_steps: Callable[[], int | None], skipped_steps: Callable[[], int]) -> None:
        self._share, self._total_steps, self._skipped_steps = share, total_steps, skipped_steps
        self.forecast: Forecast | None = None
        self._judged = False

    def keep(self, step: int, norms: Tensor, stays: Tensor) -> None:
        """Keeps a forecast that was made after this step, if it is the first of the second part of the run.

        Args:
            step: steps made so far.
            norms: the forecast, ``[rows]``.
            stays: norms now, ``[rows]``.
        """
        total = self._total_steps()
        # A hundredth short counts: the window ends where the share of the run falls only up to rounding.
        if self.forecast is None and total is not None and 0.99 * self._share * total <= step < total:
            self.forecast = Forecast(total, norms, stays.clone())

    def is_last(self, step: int) -> bool:
        """Whether the run ends with this step, as it was forecast to."""
        return self.forecast is not None and not self._judged and self._tried(step) == self.forecast.due

    def is_due(self, step: int) -> bool:
        """Whether a run that ended with this step still has a forecast to judge."""
        return self.forecast is not None and not self._judged and self.forecast.has_come_due(self._tried(step))

    def judge(self, norms: Tensor) -> Readings:
        """Judges the forecast, at the last step: afterwards a callback may put averaged weights in."""
        assert self.forecast is not None
        fit, persistence_error, skill = self.forecast.judge(norms)
        self._judged = True
        judged: Readings = {"persistence_median_error": persistence_error, "forecast_skill": skill}
        return named_fit("forecast", fit, self.forecast.norms) | judged

    def _tried(self, step: int) -> int:
        """Steps that the run has tried: those made and those that a loss scaler skipped."""
        return step + self._skipped_steps()

    def state_dict(self) -> dict[str, Any] | None:
        """Tensors and numbers, for a checkpoint."""
        return None if self.forecast is None else self.forecast.state_dict() | {"judged": self._judged}

    def load_state_dict(self, state: dict[str, Any] | None, device: torch.device) -> None:
        """Takes back what :meth:`state_dict` gave."""
        if state is not None:
            self.forecast, self._judged = Forecast.from_state_dict(state, device), state["judged"]


def judge_window(norms: Tensor, stays: Tensor, observed: Tensor) -> Readings:
    """How well one window forecast the end of the next.

    Args:
        norms: the forecast, ``[rows]``.
        stays: norms when it was made, ``[rows]``.
        observed: norms that came, ``[rows]``.
    """
    judged = Forecast(0, norms, stays).judge(observed)
    return {"window_forecast_median_error": judged.fit.median_relative_error, "window_forecast_skill": judged.skill}


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


_FIRST_WINDOW = 100
_LONGEST_WINDOW_WITHOUT_END = 10_000
_ENOUGH_STEPS = 500
_SPARSEST = 5


def check_window(window: float) -> float:
    """Refuses a window that is neither a share of the run nor a whole number of steps."""
    usable = isinstance(window, (int, float)) and not isinstance(window, bool) and math.isfinite(window)
    if not usable or not (0 < window < 1 or (window >= 1 and window == int(window))):
        raise ValueError(
            f"window: expected a share of the run between 0 and 1, or a whole number of steps, got {window!r}"
        )
    return window


def next_window_end(step: int, total_steps: int | None, window: float) -> int:
    """The step at which a window that opens now will close.

    Windows double from 100 steps until they are as long as they shall be, so that a fit appears early and is exact
    late.

    Args:
        step: steps so far.
        total_steps: steps of the whole run, if known.
        window: share of the run (below 1) or a number of steps.

    Example:
        >>> ends = [0]
        >>> while ends[-1] < 12_000:
        ...     ends.append(next_window_end(ends[-1], 12_000, 0.2))
        >>> ends[1:]
        [100, 200, 400, 800, 1600, 2400, 4800, 7200, 9600, 12000]
    """
    if window >= 1:
        return (step // int(window) + 1) * int(window)
    full = max(1, int(total_steps * window)) if total_steps else _LONGEST_WINDOW_WITHOUT_END
    if step >= full:
        return (step // full + 1) * full
    doubled = max(2 * step, _FIRST_WINDOW)
    return full if full < 1.5 * doubled else doubled


def thinning(window_steps: int) -> int:
    """Every how many steps of a window to read the gradient: the longer it is, the more are left.

    Example:
        >>> thinning(100), thinning(1_600), thinning(100_000)
        (1, 3, 5)
    """
    return min(max(1, window_steps // _ENOUGH_STEPS), _SPARSEST)
