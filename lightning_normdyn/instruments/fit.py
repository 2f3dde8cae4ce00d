"""The online fit of a table's norms: equilibrium law, transient and forecast, window by window."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.capture.table import TableStep
from lightning_normdyn.caution import caution
from lightning_normdyn.core.dynamics.fit import fit_log_log
from lightning_normdyn.core.dynamics.geometry import safe_norm
from lightning_normdyn.core.dynamics.optimizers import EquilibriumRule
from lightning_normdyn.core.dynamics.rates import RateTrace
from lightning_normdyn.core.dynamics.window import FitWindow, WindowFit
from lightning_normdyn.instruments.base import Need, Readings, check_every, next_multiple
from lightning_normdyn.instruments.extent import Extent
from lightning_normdyn.instruments.forecast import Forecast, fit_readings
from lightning_normdyn.instruments.verdicts.evidence import TypicalRow
from lightning_normdyn.instruments.windowed_fit import ClosedWindow, TrainingPlan, WindowedFit

__all__ = ["EquilibriumFit", "TrainingPlan"]


class RowNoise(NamedTuple):
    """What a window has measured of the gradients of each row, ``[rows]``.

    Attributes:
        second_moment: ``V²``.
        update_probability: share of steps in which the row got a gradient.
    """

    second_moment: Tensor
    update_probability: Tensor


class EquilibriumFit(WindowedFit[RowNoise]):
    """Accumulates moments over windows; at the end of each compares predicted with observed norms.

    Args:
        target: the table.
        plan: the optimizer's law and its schedule.
        every_n_steps: cadence of the quiet terms (norm and growth of all tracked rows).
        fit_every_n_steps: cadence of the gradient moments; ``None`` to thin them out in long windows.
        window: see :class:`WindowedFit`.
        forecast_at: see :class:`WindowedFit`.

    Attributes:
        typical_row: the gradients of the middle row of the latest window; ``None`` before one closed.
    """

    def __init__(
        self,
        target: Any,
        plan: TrainingPlan,
        *,
        every_n_steps: int = 50,
        fit_every_n_steps: int | None = None,
        window: Extent = 0.2,
        forecast_at: Extent = 0.4,
    ) -> None:
        super().__init__(plan, window=window, forecast_at=forecast_at)
        self.target = target
        self.every_n_steps = check_every("every_n_steps", every_n_steps)
        if fit_every_n_steps is not None:
            check_every("fit_every_n_steps", fit_every_n_steps)
        self.fit_every_n_steps = fit_every_n_steps
        self.typical_row: TypicalRow | None = None
        self._met_rows: Tensor | None = None
        self._window: FitWindow | None = None
        self._set_window(0, 0)
        self._nonfinite_before = 0.0

    def begin(self, step: int) -> None:
        """Opens the first window, unless a checkpoint brought one."""
        if self._window is None:
            self._open(step, self._norms_now())

    def next_due(self, step: int) -> int:
        """The next step of either cadence, the end of the window or that of the run."""
        due = [next_multiple(step, self._read_every), next_multiple(step, self._sample_every), self._window_end]
        if self._end_forecast.forecast is not None:
            due.append(self._end_forecast.forecast.due - self.plan.skipped_steps())
        return max(step, min(due))

    def need(self, step: int) -> Need:
        """Touched rows on the cadence, all tracked rows for the quiet terms, norms at the end of a window."""
        need = Need.NOTHING
        if step % self._read_every == 0:
            need |= Need.TOUCHED
        if step % self._sample_every == 0:
            need |= Need.TRACKED
        if self._ends_with(step):
            need |= Need.NORMS
        return need

    def note_lr(self, lr: float) -> None:
        """Notes the learning rate of a step."""
        assert self._window is not None
        self._window.rates.append(lr)

    def observe(self, step: int, table_step: TableStep) -> None:
        """Adds a step to the window, and closes the window where it ends."""
        assert self._window is not None
        if table_step.wants_touched and step % self._read_every == 0:
            self._window.moments.add(table_step.embedding, table_step.gradient, table_step.slots)
        if table_step.wants_tracked and step % self._sample_every == 0:
            self._window.sample(table_step.before, table_step.after)
        self._conclude(step, lambda: table_step.norms)

    def _is_open(self) -> bool:
        return self._window is not None

    def _norms_now(self) -> Tensor:
        return safe_norm(self.target.tracked())

    def _set_window(self, start: int, end: int) -> None:
        super()._set_window(start, end)
        self._read_every = self.fit_every_n_steps or thinning(end - start)
        self._sample_every = min(self.every_n_steps, max(1, (end - start) // 20))

    def _start_window(self, norms: Tensor) -> None:
        self._window = FitWindow(norms, self.plan.rule().power)

    def _window_course(self) -> tuple[Tensor, RateTrace]:
        assert self._window is not None
        return self._window.start, self._window.rates

    def _judge_window(self, norms: Tensor, rule: EquilibriumRule) -> ClosedWindow[RowNoise]:
        window = self._window
        assert window is not None
        fit = window.close(norms, rule, self.target.dim)
        nonfinite = self._report_nonfinite(float(window.moments.nonfinite))
        columns = {
            "norm": fit.norm,
            "second_moment": fit.second_moment,
            "update_probability": fit.update_probability,
            "mean_norm": fit.mean_norm,
            "equilibrium_norm": fit.equilibrium_norm,
            "transient_norm": fit.transient_norm,
        }
        noise = RowNoise(fit.second_moment, fit.update_probability)
        self._note_typical_row(noise, fit.norm)
        readings = nonfinite | _fit_readings(fit, window, rule) | self._read_directions(noise.update_probability > 0)
        return ClosedWindow(readings, columns, noise, fit.norm)

    def _note_typical_row(self, noise: RowNoise, norm: Tensor) -> None:
        """What rules and levers need to know of the gradients, as plain numbers."""
        has_gradient = noise.update_probability > 0
        self._met_rows = has_gradient if self._met_rows is None else self._met_rows | has_gradient
        if bool(has_gradient.any()):
            unmet_rows = int((~self._met_rows & (norm > 0)).sum())  # a row of zeros is padding
            middle = (float(values[has_gradient].median()) for values in noise)
            self.typical_row = TypicalRow(*middle, unmet_rows)

    def _read_directions(self, has_gradient: Tensor) -> Readings:
        """How far the rows that got a gradient point one way."""
        rows = self.target.tracked()[has_gradient].float()
        directions = rows / safe_norm(rows, keepdim=True)
        return {"common_direction": directions.nanmean(0).norm()}

    def _has_law(self, rule: EquilibriumRule) -> bool:
        return rule.family is not None

    def _evolve(self, moments: RowNoise, norms: Tensor, rates: RateTrace, rule: EquilibriumRule) -> Tensor:
        return rule.evolve(norms, moments.second_moment, self.target.dim, moments.update_probability, lrs=rates)

    def _known(self, moments: RowNoise, norms: Tensor) -> Tensor:
        return norms.where(moments.update_probability > 0, torch.nan)

    def _report_nonfinite(self, count: float) -> Readings:
        if count and not self._nonfinite_before:
            caution(
                f"normdyn: {int(count)} row gradients of '{self.target.name}' were NaN or infinite and were left out "
                "of the fit; check the loss, the learning rate or the loss scaler",
                stacklevel=2,
            )
        self._nonfinite_before += count
        return {"nonfinite_gradients": count}

    def state_dict(self) -> dict[str, Any]:
        """The open window, the moments of the one before and the forecast."""
        return self._window_state() | {
            "window": None if self._window is None else self._window.state_dict(),
            "previous": None if self._last_moments is None else torch.stack(self._last_moments),
            "nonfinite_before": self._nonfinite_before,
            "met_rows": self._met_rows,
            "typical_row": None if self.typical_row is None else list(self.typical_row),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        norms = self._norms_now()
        self._load_window_state(state, norms)
        if state["window"] is not None:
            self._window = FitWindow(norms, state["window"]["power"])
            self._window.load_state_dict(state["window"])
        if state["previous"] is not None:
            self._last_moments = RowNoise(*state["previous"].to(norms.device).unbind())
        self._nonfinite_before = state["nonfinite_before"]
        met_rows, typical_row = state.get("met_rows"), state.get("typical_row")
        self._met_rows = None if met_rows is None else met_rows.to(norms.device)
        self.typical_row = None if typical_row is None else TypicalRow(*typical_row)


def _fit_readings(fit: WindowFit, window: FitWindow, rule: EquilibriumRule) -> Readings:
    """The fits of a window over the rows that got a gradient in it."""
    has_gradient = fit.update_probability > 0
    mean_norm = fit.mean_norm[has_gradient]
    equilibrium, transient = fit.equilibrium_norm[has_gradient], fit.transient_norm[has_gradient]
    judgement = Forecast(0, transient, window.start[has_gradient]).judge(fit.norm[has_gradient])
    return {
        **fit_readings("equilibrium", fit_log_log(equilibrium, mean_norm), equilibrium),
        **fit_readings("transient", judgement.fit, transient),
        "transient_persistence_error": judgement.persistence_error,
        "transient_skill": judgement.skill,
        "balance_median_error": _median_error(fit.balance_norm[has_gradient], mean_norm)
        if rule.radial_decay > 0
        else math.nan,
        "equilibrium_norm_p50": equilibrium.median() if bool(has_gradient.any()) else math.nan,
        "stationarity": fit.stationarity,
        "relaxation_steps": rule.at(nominal_lr=window.rates.mean).relaxation_steps(),
    }


def _median_error(predicted: Tensor, observed: Tensor) -> float:
    return fit_log_log(predicted, observed).median_relative_error


_ENOUGH_STEPS = 500
_SPARSEST = 5


def thinning(window_steps: int) -> int:
    """Every how many steps of a window to read the gradient: the longer it is, the more are left.

    Example:
        >>> thinning(100), thinning(1_600), thinning(100_000)
        (1, 3, 5)
    """
    return min(max(1, window_steps // _ENOUGH_STEPS), _SPARSEST)
