"""The online fit of a table's norms: equilibrium law, transient and forecast, window by window."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.capture.scarce_step import ScarceStep
from lightning_normdyn.capture.table import TableStep
from lightning_normdyn.caution import caution
from lightning_normdyn.core.dynamics.fit import fit_log_log, weighted_fit_log_log
from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.core.dynamics.law_inputs import OptimizerMemory
from lightning_normdyn.core.dynamics.norm_errors import NormErrors
from lightning_normdyn.core.dynamics.rates import EffectiveTrace
from lightning_normdyn.core.dynamics.rule import EquilibriumRule
from lightning_normdyn.core.dynamics.window import FitWindow, WindowFit
from lightning_normdyn.instruments.base import Columns, Need, Readings, check_every, next_multiple
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
        kurtosis: ``E[s⁴]/E[s²]²`` over those.
        readings: steps in which the row was read, int32.
        judged: rows whose errors are known, by what steps before the window said; a mask.
        memory: what the optimizer had in store of them when the window closed.
    """

    second_moment: Tensor
    update_probability: Tensor
    kurtosis: Tensor
    readings: Tensor
    judged: Tensor
    memory: OptimizerMemory = OptimizerMemory()


class EquilibriumFit(WindowedFit[RowNoise]):
    """Accumulates moments over windows; at the end of each compares predicted with observed norms.

    Args:
        target: the table.
        plan: the optimizer's law and its schedule.
        every_n_steps: cadence of the quiet terms (norm and growth of all tracked rows).
        fit_every_n_steps: cadence of the gradient moments; ``None`` to thin them out in long windows, each row as far
            as leaves it 50 readings: one that is touched fewer times than that is read whenever it is touched.
        window: see :class:`WindowedFit`.
        forecast_at: see :class:`WindowedFit`.

    Attributes:
        typical_row: the gradients of the middle row of the latest window; ``None`` before one closed.
        resets_norms: whether something was seen to set norms back between steps.
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
        self._window: FitWindow | None = None
        self._set_window(0, 0)
        self._nonfinite_before = 0.0
        self._masks: dict[int, Tensor] = {}
        self._reads_all_for_scarce = False
        self._touch_share: Tensor | None = None
        self._counted_steps = 0
        self._announced_plain_fit = self._announced_resets = False
        self.resets_norms = False

    def begin(self, step: int) -> None:
        """Opens the first window, unless a checkpoint brought one."""
        if self._window is None:
            self._open(step, self._norms_now())

    def next_due(self, step: int) -> int:
        """The next step of either cadence, the end of the window or that of the run."""
        read_due = step if self._reads_all_for_scarce else next_multiple(step, self._read_every)
        due = [read_due, next_multiple(step, self._sample_every), self._window_end]
        if self._end_forecast.forecast is not None:
            due.append(self._end_forecast.forecast.due - self.plan.skipped_steps())
        return max(step, min(due))

    def need(self, step: int) -> Need:
        """Touched rows on the cadence, all rows for the quiet terms, norms at a window's end."""
        need = Need.TOUCHED if self._reads_touched(step) else Need.NOTHING
        if step % self._sample_every == 0:
            need |= Need.TRACKED
        if self._ends_with(step):
            need |= Need.NORMS
        return need

    def scarce(self, step: int) -> Tensor | None:
        """The rows whose cadence the step belongs to, where it does not show all of them."""
        return self._mask(step) if step % self._sample_every else None

    def observe_scarce(self, step: int, scarce_step: ScarceStep) -> None:
        """Adds their readings to the window."""
        assert self._window is not None
        self._window.moments.add_scarce(
            scarce_step.embedding, scarce_step.gradient, scarce_step.slots, shared_cadence(step)
        )

    def note_rate(self, lr: float, radial_decay: float) -> None:
        """Notes the rate and the decay of a step."""
        assert self._window is not None
        self._window.rates.append(lr, radial_decay)

    def observe(self, step: int, table_step: TableStep) -> None:
        """Adds a step to the window, and closes the window where it ends."""
        assert self._window is not None
        if table_step.wants_touched:
            self._window.moments.add_reading(table_step.reading, table_step.slots)
        if table_step.wants_tracked and step % self._sample_every == 0:
            self._window.sample(table_step.update_sums)
        self._conclude(step, lambda: table_step.norms)

    def _rule(self) -> EquilibriumRule:
        rule, reason = super()._rule(), self._reset_reason()
        if not reason:
            return rule
        if not self._announced_resets:
            caution(
                f"normdyn: norms of '{self.target.name}' are {reason}, so no law of the norm holds: no equilibrium is "
                "predicted and nothing is forecast",
                stacklevel=2,
            )
        self._announced_resets = True
        return replace(rule, family=None, family_with_decay=None, reason=f"norms are {reason}")

    def _reset_reason(self) -> str:
        """What is done to norms besides optimizer steps; empty for nothing."""
        assert self._window is not None
        limit = self.target.max_norm
        if limit is not None and bool((self._norms_now() >= _AT_LIMIT * limit).any()):
            return f"cut to max_norm={limit} by the embedding layer"
        if self._window.resets.are_certain():
            self.resets_norms = True
            return "set back between optimizer steps (rows on a sphere, or that training code renormalises)"
        return ""

    def _is_open(self) -> bool:
        return self._window is not None

    def _norms_now(self) -> Tensor:
        norms: Tensor = self.target.norms()
        return norms

    def _set_window(self, start: int, end: int) -> None:
        super()._set_window(start, end)
        self._read_every = self.fit_every_n_steps or thinning(end - start)
        self._sample_every = min(self.every_n_steps, max(1, (end - start) // 20))

    def _start_window(self, norms: Tensor) -> None:
        self._use(FitWindow(norms, self.plan.rule().observed_mean, self._cadences(norms), self._memory()))

    def _memory(self) -> OptimizerMemory:
        return self.plan.memory(self.target.parameter, self.target.tracked_products)

    def _use(self, window: FitWindow) -> None:
        self._window = window
        masks = {every: window.moments.scarce(every) for every in _CADENCES if every < self._read_every}
        has_scarce = any(bool(mask.any()) for mask in masks.values())
        self._reads_all_for_scarce = has_scarce and not self.target.selects
        self._masks = {every: mask for every, mask in masks.items() if self.target.selects and bool(mask.any())}

    def _cadences(self, norms: Tensor) -> Tensor | None:
        """Every how many steps each row is to be read, the most that leave it enough readings, ``[rows]``.

        Goes by all steps before the window; ``None`` where all rows are read in the same steps.
        """
        if self.fit_every_n_steps is not None or self._read_every == 1:
            return None
        if self._touch_share is None:
            return torch.ones_like(norms, dtype=torch.int8)
        touches = self._touch_share * (self._window_end - self._window_start)
        cadences = torch.ones_like(norms, dtype=torch.int8)
        for every in _CADENCES:
            if every <= self._read_every:
                cadences[touches / every >= _ENOUGH_READINGS] = every
        return cadences

    def _mask(self, step: int) -> Tensor | None:
        return self._masks.get(shared_cadence(step)) if step % self._read_every else None

    def _reads_touched(self, step: int) -> bool:
        """Whether a step is to show all rows that it touches; with all tracked ones, scarce ones come among them."""
        if self._reads_all_for_scarce or step % self._read_every == 0:
            return True
        return step % self._sample_every == 0 and self._mask(step) is not None

    def _window_course(self) -> tuple[Tensor, EffectiveTrace]:
        assert self._window is not None
        return self._window.start, self._window.rates

    def _judge_window(self, norms: Tensor, rule: EquilibriumRule) -> ClosedWindow[RowNoise]:
        window = self._window
        assert window is not None
        fit = window.close(norms, rule, self.target.dim)
        nonfinite = self._report_nonfinite(float(window.moments.nonfinite))
        judged = self._judged_rows(fit, window, rule)
        noise = RowNoise(
            fit.second_moment,
            fit.update_probability,
            fit.kurtosis,
            window.moments.readings.int(),
            judged,
            self._memory(),
        )
        self._count_touches(fit.update_probability, window.rates.steps)
        if rule.family is not None and rule.radial_decay > 0 and fit.equilibrium_errors is None:
            self._announce_plain_fit(rule)
        self._note_typical_row(noise, fit.norm)
        readings = nonfinite | _fit_readings(fit, window, rule, judged) | self._read_directions(noise, fit.norm)
        return ClosedWindow(readings, _columns(fit, judged, rule), noise, fit.norm)

    def _judged_rows(self, fit: WindowFit, window: FitWindow, rule: EquilibriumRule) -> Tensor:
        """Rows that the window was to say enough about, by the steps before it or, if there are none, by its own."""
        if rule.family is None:
            return torch.zeros_like(fit.norm, dtype=torch.bool)
        share = fit.update_probability if self._touch_share is None else self._touch_share
        rule, readings = rule.averaged(window.rates), window.moments.readings
        steps = window.rates.steps
        return rule.judges(fit.second_moment, self.target.dim, share, fit.kurtosis, steps=steps, readings=readings)

    def _count_touches(self, share: Tensor, steps: int) -> None:
        total = self._counted_steps + steps
        if self._touch_share is None:
            self._touch_share = share.clone()
        elif total:
            self._touch_share = (self._touch_share * self._counted_steps + share * steps) / total
        self._counted_steps = total

    def _announce_plain_fit(self, rule: EquilibriumRule) -> None:
        if not self._announced_plain_fit:
            _LOG.info(
                "normdyn: the fit of '%s' is plain least squares: how far chance takes norms from the law of %s is not "
                "known",
                self.target.name,
                rule.optimizer,
            )
        self._announced_plain_fit = True

    def _note_typical_row(self, noise: RowNoise, norm: Tensor) -> None:
        """What rules and levers need to know of the gradients, as plain numbers."""
        has_gradient = noise.update_probability > 0
        if bool(has_gradient.any()):
            assert self._touch_share is not None
            unmet_rows = int(((self._touch_share == 0) & (norm > 0)).sum())  # a row of zeros is padding
            second_moment, probability = (
                float(values[has_gradient].median()) for values in (noise.second_moment, noise.update_probability)
            )
            self.typical_row = TypicalRow(second_moment, probability, unmet_rows)

    def _read_directions(self, noise: RowNoise, norms: Tensor) -> Readings:
        """How far the rows that got a gradient point one way; one alone tells nothing."""
        has_gradient = noise.update_probability > 0
        if int(has_gradient.sum()) < 2:
            return {}
        return {"common_direction": self.target.common_direction(has_gradient, norms)}

    def _has_law(self, moments: RowNoise, rule: EquilibriumRule) -> bool:
        return rule.path_is_known(**moments.memory._asdict())

    def _evolve(self, moments: RowNoise, norms: Tensor, rates: EffectiveTrace, rule: EquilibriumRule) -> Tensor:
        v2, p, dim = moments.second_moment, moments.update_probability, self.target.dim
        return rule.evolve(norms, v2, dim, p, lrs=rates, kurtosis=moments.kurtosis, **moments.memory._asdict())

    def _forecast_errors(
        self, moments: RowNoise, start: Tensor, norms: Tensor, rates: EffectiveTrace, rule: EquilibriumRule
    ) -> NormErrors | None:
        errors = rule.path_errors(
            start,
            norms,
            moments.second_moment,
            self.target.dim,
            moments.update_probability,
            moments.kurtosis,
            lrs=rates,
            steps=max(rates.steps, 1),
            readings=most_precise(moments.readings),
        )
        return None if errors is None else errors.ahead().among(moments.judged)

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
            **_noise_state(self._last_moments),
            "nonfinite_before": self._nonfinite_before,
            "touch_share": self._touch_share,
            "counted_steps": self._counted_steps,
            "typical_row": None if self.typical_row is None else list(self.typical_row),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        norms = self._norms_now()
        self._load_window_state(state, norms)
        if state["window"] is not None:
            window = FitWindow(norms, state["window"]["observed_mean"])
            window.load_state_dict(state["window"], self.plan.rule())
            self._use(window)
        self._counted_steps, share = state["counted_steps"], state["touch_share"]
        self._touch_share = None if share is None else share.to(norms.device)
        if state["previous"] is not None:
            self._last_moments = _noise_of(state, norms.device)
        self._nonfinite_before = state["nonfinite_before"]
        typical_row = state.get("typical_row")
        self.typical_row = None if typical_row is None else TypicalRow(*typical_row)


def _noise_state(noise: RowNoise | None) -> dict[str, Any]:
    if noise is None:
        return {"previous": None}
    return {
        "previous": torch.stack(noise[:3]),
        "previous_readings": [noise.readings, noise.judged],
        "previous_memory": list(noise.memory),
    }


def _noise_of(state: dict[str, Any], device: torch.device) -> RowNoise:
    """Takes back what :func:`_noise_state` gave, or an earlier release, which held everything in ``previous``."""
    rows = [*state["previous"].unbind(), *state.get("previous_readings", ())]
    second_moment, probability, kurtosis, readings, judged = (values.to(device) for values in rows)
    memory = OptimizerMemory.from_state(state.get("previous_memory", ()), device)
    return RowNoise(second_moment, probability, kurtosis, readings.int(), judged > 0, memory)


def _columns(fit: WindowFit, judged: Tensor, rule: EquilibriumRule) -> Columns:
    """One value a row for the history."""
    columns = {
        "norm": fit.norm,
        "second_moment": fit.second_moment,
        "second_moment_stderr": fit.second_moment_stderr,
        "update_probability": fit.update_probability,
        "kurtosis": fit.kurtosis,
        "mean_norm": fit.mean_norm,
        "equilibrium_norm": fit.equilibrium_norm,
        "transient_norm": fit.transient_norm,
    }
    errors = fit.equilibrium_errors
    if errors is not None:
        gap_stderr = (errors.difference + rule.accuracy**2).sqrt()
        columns |= {
            "norm_width": errors.width,
            "equilibrium_norm_stderr": errors.predicted.sqrt(),
            "equilibrium_gap_stderr": gap_stderr.where(judged, torch.nan),
        }
    return columns


def _fit_readings(fit: WindowFit, window: FitWindow, rule: EquilibriumRule, judged: Tensor) -> Readings:
    """The fits of a window over the rows that got a gradient in it."""
    has_gradient = fit.update_probability > 0
    mean_norm = fit.mean_norm[has_gradient]
    equilibrium, transient = fit.equilibrium_norm[has_gradient], fit.transient_norm[has_gradient]
    errors, path_errors = fit.equilibrium_errors, fit.transient_errors
    weighted = None
    if errors is not None:
        weighted = weighted_fit_log_log(
            fit.equilibrium_norm, fit.mean_norm, errors, accuracy=rule.accuracy, judged=judged & has_gradient
        )
    if path_errors is not None:
        path_errors = NormErrors(*(values[has_gradient] for values in path_errors.among(judged)))
    judgement = Forecast(0, transient, window.start[has_gradient], path_errors).judge(fit.norm[has_gradient])
    return {
        **fit_readings("equilibrium", fit_log_log(equilibrium, mean_norm), equilibrium, weighted),
        **fit_readings("transient", judgement.fit, transient, judgement.weighted),
        "transient_persistence_error": judgement.persistence_error,
        **judgement.skill_readings("transient_skill"),
        "balance_median_error": _median_error(fit.balance_norm[has_gradient], fit.rms_norm[has_gradient])
        if rule.radial_decay > 0
        else math.nan,
        "equilibrium_norm_p50": equilibrium.median() if bool(has_gradient.any()) else math.nan,
        "stationarity": fit.stationarity,
        "relaxation_steps": rule.averaged(window.rates).at(window.rates.mean).relaxation_steps(),
    }


def _median_error(predicted: Tensor, observed: Tensor) -> float:
    return fit_log_log(predicted, observed).median_relative_error


_LOG = logging.getLogger(__name__)
_ENOUGH_READINGS = 50
_ENOUGH_STEPS = 500
_AT_LIMIT = 0.99
_CADENCES = (1, 2, 4)


def thinning(window_steps: int) -> int:
    """Every how many steps of a window to read the gradient: the longer it is, the more are left.

    Example:
        >>> thinning(100), thinning(1_600), thinning(100_000)
        (1, 2, 4)
    """
    return max(every for every in _CADENCES if every == 1 or every * _ENOUGH_STEPS <= window_steps)


def shared_cadence(step: int) -> int:
    """The longest cadence that a step belongs to.

    Example:
        >>> [shared_cadence(step) for step in range(1, 9)]
        [1, 2, 1, 4, 1, 2, 1, 4]
    """
    return min(step & -step, _CADENCES[-1])
