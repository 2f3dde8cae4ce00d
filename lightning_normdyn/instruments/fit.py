"""The online fit: equilibrium law, transient and forecast of a table's norms, window by window."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.capture.table import TableStep
from lightning_normdyn.core.dynamics.fit import fit_log_log
from lightning_normdyn.core.dynamics.geometry import safe_norm
from lightning_normdyn.core.dynamics.optimizers import EquilibriumRule
from lightning_normdyn.core.dynamics.rates import RateTrace
from lightning_normdyn.core.dynamics.window import FitWindow, WindowFit
from lightning_normdyn.instruments.base import Need, Readings, check_every, next_multiple
from lightning_normdyn.instruments.forecast import (
    EndForecast,
    Forecast,
    check_forecast_at,
    check_window,
    judge_window,
    named_fit,
    next_window_end,
    thinning,
)


class TrainingPlan(NamedTuple):
    """What a table's optimizer has done and will do, as far as anybody knows.

    Attributes:
        rule: gives the law at the present hyper-parameters.
        total_steps: gives the number of optimizer steps that the run will try; ``None`` if it has no set end.
        skipped_steps: gives the number of those that a loss scaler has skipped so far.
        future_lrs: gives the nominal learning rates of the next so many steps.
    """

    rule: Callable[[], EquilibriumRule]
    total_steps: Callable[[], int | None]
    skipped_steps: Callable[[], int]
    future_lrs: Callable[[int], RateTrace]


class EquilibriumFit:
    """Accumulates moments over windows; at the end of each compares predicted with observed norms.

    Windows double from 100 steps until they last ``window`` of the run, so that a fit appears early and is exact late.
    One forecast is made for the end of the run at ``forecast_at`` of it and judged there; besides, each window's
    moments forecast the end of the next, so that a skill is known all along.

    Args:
        target: the table.
        plan: the optimizer's law and its schedule.
        every_n_steps: cadence of the gradient moments; ``None`` to thin them out in long windows.
        sample_every_n_steps: cadence of the quiet terms (norm and growth of all tracked rows).
        window: length of a window, as a share of the run (below 1) or in steps.
        forecast_at: when the forecast for the end is made, as a share of the run.
    """

    def __init__(
        self,
        target: Any,
        plan: TrainingPlan,
        *,
        every_n_steps: int | None = None,
        sample_every_n_steps: int = 50,
        window: float = 0.2,
        forecast_at: float = 0.4,
    ) -> None:
        self.target = target
        self.plan = plan
        self.every_n_steps = every_n_steps if every_n_steps is None else check_every("every_n_steps", every_n_steps)
        self.sample_every_n_steps = check_every("sample_every_n_steps", sample_every_n_steps)
        self.window, self.forecast_at = check_window(window), check_forecast_at(forecast_at)
        self._window: FitWindow | None = None
        self._set_window(0, 0)
        self._previous: tuple[Tensor, Tensor] | None = None  # V² and p of the window before
        self._end = EndForecast(self.forecast_at, plan.total_steps, plan.skipped_steps)
        self._nonfinite_before = 0.0
        self._readings: Readings = {}
        self._rows: dict[str, Tensor] = {}

    def begin(self, step: int) -> None:
        """Opens the first window, unless a checkpoint brought one."""
        if self._window is None:
            self._open(step, self._norms_now())

    def next_due(self, step: int) -> int:
        """The next step of either cadence, the end of the window or that of the run."""
        due = [next_multiple(step, self._read_every), next_multiple(step, self._sampled_every), self._window_end]
        if self._end.forecast is not None:
            due.append(self._end.forecast.due - self.plan.skipped_steps())
        return max(step, min(due))

    def need(self, step: int) -> Need:
        """Touched rows on the cadence, all tracked rows for the quiet terms, norms at the end of a window."""
        need = Need.NOTHING
        if step % self._read_every == 0:
            need |= Need.TOUCHED
        if self._samples(step):
            need |= Need.TRACKED
        if step >= self._window_end or self._end.is_last(step):
            need |= Need.NORMS
        return need

    def passed(self, lr: float) -> None:
        """Notes the learning rate of a step."""
        assert self._window is not None
        self._window.rates.append(lr)

    def observe(self, step: int, seen: TableStep) -> None:
        """Adds a step to the window, and closes the window where it ends."""
        assert self._window is not None
        if seen.wants_touched and step % self._read_every == 0:
            self._window.moments.add(seen.embedding, seen.gradient, seen.slots)
        if seen.wants_tracked and self._samples(step):
            self._window.sample(seen.before, seen.after)
        if step >= self._window_end:
            self._close(step, seen.norms)
        if self._end.is_last(step):
            self._readings |= self._end.judge(seen.norms)

    def finish(self, step: int) -> None:
        """Closes a last window that is long enough to say something, and judges the forecast that came due."""
        assert self._window is not None
        length = step - self._window_start
        if length >= max(1, (self._window_end - self._window_start) // 4):
            self._close(step, self._norms_now())
        if self._end.is_due(step):
            self._readings |= self._end.judge(self._norms_now())

    def readings(self) -> Readings:
        """The fits of the last closed window, and the skill of the last forecast that came due."""
        readings, self._readings = self._readings, {}
        return readings

    def rows(self) -> dict[str, Tensor]:
        """Moments and predictions per row, when a window closed."""
        rows, self._rows = self._rows, {}
        return rows

    def _samples(self, step: int) -> bool:
        return step % self._sampled_every == 0

    def _norms_now(self) -> Tensor:
        return safe_norm(self.target.tracked())

    def _open(self, step: int, norms: Tensor) -> None:
        self._window = FitWindow(norms, self.plan.rule().power)
        self._set_window(step, next_window_end(step, self.plan.total_steps(), self.window))

    def _set_window(self, start: int, end: int) -> None:
        self._window_start, self._window_end = start, end
        self._read_every = self.every_n_steps or thinning(end - start)
        self._sampled_every = min(self.sample_every_n_steps, max(1, (end - start) // 20))

    def _close(self, step: int, norms: Tensor) -> None:
        window, rule = self._window, self.plan.rule()
        assert window is not None
        fit = window.close(norms, rule, self.target.dim)
        self._report_nonfinite(float(window.moments.nonfinite))
        self._readings |= _fit_readings(fit, window, rule)
        norms_at_end = self._norms_at_end(step, fit, rule)
        if rule.family is not None:
            self._judge_previous(window, fit, rule)
            self._end.keep(step, norms_at_end.where(fit.update_probability > 0, torch.nan), fit.norm)
        self._rows = {
            "norm": fit.norm,
            "second_moment": fit.second_moment,
            "update_probability": fit.update_probability,
            "mean_norm": fit.mean_norm,
            "equilibrium_norm": fit.equilibrium_norm,
            "transient_norm": fit.transient_norm,
            "forecast_norm": norms_at_end,
        }
        self._previous = (fit.second_moment, fit.update_probability)
        self._open(step, norms)

    def _judge_previous(self, window: FitWindow, fit: WindowFit, rule: EquilibriumRule) -> None:
        """How well the moments of the window before forecast the end of this one."""
        if self._previous is None:
            return
        v2, p = self._previous
        norms = rule.evolve(window.start, v2, self.target.dim, p, lrs=window.rates)
        self._readings |= judge_window(norms.where(p > 0, torch.nan), window.start, fit.norm)

    def _norms_at_end(self, step: int, fit: WindowFit, rule: EquilibriumRule) -> Tensor:
        total = self.plan.total_steps()
        if rule.family is None or total is None:
            return torch.full_like(fit.norm, torch.nan)
        future = self.plan.future_lrs(max(0, total - self.plan.skipped_steps() - step))
        return rule.evolve(fit.norm, fit.second_moment, self.target.dim, fit.update_probability, lrs=future)

    def _report_nonfinite(self, count: float) -> None:
        self._readings["nonfinite_gradients"] = count
        if count and not self._nonfinite_before:
            warnings.warn(
                f"normdyn: {int(count)} row gradients of '{self.target.name}' were NaN or infinite and were left out "
                "of the fit; check the loss, the learning rate or the loss scaler",
                stacklevel=2,
            )
        self._nonfinite_before += count

    def state_dict(self) -> dict[str, Any]:
        """The open window, the moments of the one before and the forecast."""
        return {
            "window": None if self._window is None else self._window.state_dict(),
            "window_start": self._window_start,
            "window_end": self._window_end,
            "previous": None if self._previous is None else torch.stack(self._previous),
            "forecast": self._end.state_dict(),
            "nonfinite_before": self._nonfinite_before,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        norms = self._norms_now()
        self._set_window(state["window_start"], state["window_end"])
        if state["window"] is not None:
            self._window = FitWindow(norms, state["window"]["power"])
            self._window.load_state_dict(state["window"])
        device = norms.device
        if state["previous"] is not None:
            v2, p = state["previous"].to(device).unbind()
            self._previous = (v2, p)
        self._end.load_state_dict(state["forecast"], device)
        self._nonfinite_before = state["nonfinite_before"]


def _fit_readings(fit: WindowFit, window: FitWindow, rule: EquilibriumRule) -> Readings:
    """The fits of a window over the rows that got a gradient in it."""
    updated = fit.update_probability > 0
    mean_norm = fit.mean_norm[updated]
    equilibrium, transient = fit.equilibrium_norm[updated], fit.transient_norm[updated]
    _, persistence_error, skill = judged = Forecast(0, transient, window.start[updated]).judge(fit.norm[updated])
    return {
        **named_fit("equilibrium", fit_log_log(equilibrium, mean_norm), equilibrium),
        **named_fit("transient", judged.fit, transient),
        "transient_persistence_error": persistence_error,
        "transient_skill": skill,
        "balance_median_error": _median_error(fit.balance_norm[updated], mean_norm)
        if rule.radial_decay > 0
        else math.nan,
        "stationarity": fit.stationarity,
        "relaxation_steps": rule.at(rule.lr_gain * window.rates.mean).relaxation_steps(),
    }


def _median_error(predicted: Tensor, observed: Tensor) -> float:
    return fit_log_log(predicted, observed).median_relative_error
