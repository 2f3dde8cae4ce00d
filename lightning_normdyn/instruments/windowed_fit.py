"""Base class of the fits: opens and closes windows of training, and forecasts norms from each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor

from lightning_normdyn.core.dynamics.law_inputs import OptimizerMemory
from lightning_normdyn.core.dynamics.norm_errors import NormErrors
from lightning_normdyn.core.dynamics.rates import EffectiveTrace
from lightning_normdyn.core.dynamics.rule import EquilibriumRule
from lightning_normdyn.instruments.base import Columns, Readings, TableInstrument
from lightning_normdyn.instruments.extent import Extent, check_extent, extent_steps
from lightning_normdyn.instruments.forecast import EndForecast, Forecast

Products = Callable[[Tensor, Tensor | None], Tensor]
"""Gives the product of each tracked row of two tensors of a table's shape, or its sum over one, ``[n]``."""


def _nothing_in_store(_table: Tensor, _products: Products) -> OptimizerMemory:
    return OptimizerMemory()


class TrainingPlan(NamedTuple):
    """What an optimizer has done and will do, as far as anybody knows.

    Attributes:
        rule: gives the law at the present hyper-parameters.
        total_steps: gives the number of optimizer steps that the run will try; ``None`` if it has no set end.
        skipped_steps: gives the number of those that a loss scaler has skipped so far.
        future_rates: gives the effective learning rates and decays of the next so many steps, given those of the steps
            before; ``None`` if they are too many.
        memory: gives what the optimizer has in store of the tracked rows of a table.
    """

    rule: Callable[[], EquilibriumRule]
    total_steps: Callable[[], int | None]
    skipped_steps: Callable[[], int]
    future_rates: Callable[[int, EffectiveTrace], EffectiveTrace | None]
    memory: Callable[[Tensor, Products], OptimizerMemory] = _nothing_in_store


Moments = TypeVar("Moments")
"""What a closed window knows that tells how norms go on."""


@dataclass(frozen=True)
class ClosedWindow(Generic[Moments]):
    """What a window came to.

    Attributes:
        readings: the fits, for the loggers.
        columns: one value a row for the history; the forecast for the end of the run is added.
        moments: what tells how norms go on.
        norm: norms at its end, ``[rows]``, float64.
    """

    readings: Readings
    columns: Columns
    moments: Moments
    norm: Tensor


class WindowedFit(TableInstrument, Generic[Moments]):
    """Judges window after window, and forecasts from each.

    Windows double from 100 steps until they last ``window``, so that a fit appears early and is exact late. One
    forecast is made for the end of the run at ``forecast_at`` of it and judged there; besides, each window's moments
    forecast the end of the next, so that a skill is known all along.

    Args:
        plan: the optimizer's law and its schedule.
        window: length of a window: a float is a share of the run, an int a number of steps.
        forecast_at: when the forecast for the end is made: a float is a share of the run, an int a step.
    """

    def __init__(self, plan: TrainingPlan, *, window: Extent, forecast_at: Extent) -> None:
        super().__init__()
        self.plan = plan
        self.window = check_extent("window", window)
        self.forecast_at = check_extent("forecast_at", forecast_at, whole_run=False)
        self._window_start = self._window_end = 0
        self._last_moments: Moments | None = None
        self.has_closed = self.has_judged = False
        self._end_forecast = EndForecast(self.forecast_at, plan.total_steps, plan.skipped_steps)

    def finish(self, step: int) -> None:
        """Closes a last window that is long enough to say something, and judges the forecast that came due."""
        if not self._is_open() or not step:
            return
        is_long_enough = step - self._window_start >= max(1, (self._window_end - self._window_start) // 4)
        is_due = self._end_forecast.is_due(step)
        if is_long_enough or is_due:
            norms = self._norms_now()
            if is_long_enough:
                self._close(step, norms)
            if is_due:
                self._readings |= self._end_forecast.judge(norms)

    @property
    def unclosed_steps(self) -> int | None:
        """Length of the first window while none has closed; ``None`` once one has, or where none was opened."""
        return self._window_end - self._window_start if self._is_open() and not self.has_closed else None

    def _ends_with(self, step: int) -> bool:
        """Whether norms are wanted after this step: a window closes, or the run ends as it was forecast to."""
        return step >= self._window_end or self._end_forecast.is_last(step)

    def _conclude(self, step: int, norms: Callable[[], Tensor]) -> None:
        """Closes the window where it ends, and judges the forecast where the run does.

        Args:
            step: steps made so far.
            norms: gives the norms now, ``[rows]``.
        """
        if step >= self._window_end:
            self._close(step, norms())
        if self._end_forecast.is_last(step):
            self._readings |= self._end_forecast.judge(norms())

    def _open(self, step: int, norms: Tensor) -> None:
        self._set_window(step, next_window_end(step, self.plan.total_steps(), self.window))
        self._start_window(norms)

    def _set_window(self, start: int, end: int) -> None:
        self._window_start, self._window_end = start, end

    def _close(self, step: int, norms: Tensor) -> None:
        rule, (start, rates) = self._rule(), self._window_course()
        self.has_closed = True
        conclusion = self._judge_window(norms, rule)
        self.has_judged |= conclusion is not None
        if conclusion is None:
            self._columns = {"norm": norms}
        else:
            self._readings |= conclusion.readings
            self._judge_last_moments(start, rates, conclusion.norm, rule)
            norms_at_end = self._norms_at_end(step, conclusion, rates, rule)
            self._columns = conclusion.columns | {"forecast_norm": norms_at_end}
            self._last_moments = conclusion.moments
        self._open(step, norms)

    def _judge_last_moments(self, start: Tensor, rates: EffectiveTrace, norm: Tensor, rule: EquilibriumRule) -> None:
        """How well the moments of the window before forecast the end of this one."""
        rule = rule.steps_earlier(rates.steps)
        if self._last_moments is None or not self._has_law(self._last_moments, rule):
            return
        path = self._evolve(self._last_moments, start, rates, rule)
        errors = self._forecast_errors(self._last_moments, start, path, rates, rule)
        judgement = Forecast(0, self._known(self._last_moments, path), start, errors).judge(norm)
        self._readings["window_forecast_median_error"] = judgement.fit.median_relative_error
        self._readings |= judgement.skill_readings("window_forecast_skill")
        if judgement.weighted is not None and judgement.weighted.n:
            self._readings["window_forecast_coverage"] = judgement.weighted.coverage

    def _norms_at_end(
        self, step: int, conclusion: ClosedWindow[Moments], rates: EffectiveTrace, rule: EquilibriumRule
    ) -> Tensor:
        """The norms at the end of the run under its schedule, NaN where it has no set end; kept if it is time."""
        total, future = self.plan.total_steps(), None
        if total is not None and self._has_law(conclusion.moments, rule):
            future = self.plan.future_rates(max(0, total - self.plan.skipped_steps() - step), rates)
        if future is None:
            return conclusion.norm.new_full(conclusion.norm.shape, float("nan"))
        norms = self._evolve(conclusion.moments, conclusion.norm, future, rule)
        errors = self._forecast_errors(conclusion.moments, conclusion.norm, norms, future, rule)
        self._end_forecast.keep(step, self._known(conclusion.moments, norms), conclusion.norm, errors)
        return norms

    def _rule(self) -> EquilibriumRule:
        """The law at the present settings, or none where norms do not follow it."""
        return self.plan.rule()

    @abstractmethod
    def _is_open(self) -> bool:
        """Whether there is a window."""

    @abstractmethod
    def _norms_now(self) -> Tensor:
        """The norms as they are now, ``[rows]``."""

    @abstractmethod
    def _start_window(self, norms: Tensor) -> None:
        """Begins to gather, from these norms ``[rows]`` on."""

    @abstractmethod
    def _window_course(self) -> tuple[Tensor, EffectiveTrace]:
        """The norms ``[rows]`` at the start of the window, and the effective rates and decays since."""

    @abstractmethod
    def _judge_window(self, norms: Tensor, rule: EquilibriumRule) -> ClosedWindow[Moments] | None:
        """What the window says, given the norms ``[rows]`` at its end; ``None`` if it saw nothing."""

    @abstractmethod
    def _evolve(self, moments: Moments, norms: Tensor, rates: EffectiveTrace, rule: EquilibriumRule) -> Tensor:
        """Norms ``[rows]`` after steps with these rates and decays."""

    def _has_law(self, moments: Moments, rule: EquilibriumRule) -> bool:
        """Whether norms can be evolved under this rule."""
        return True

    def _known(self, moments: Moments, norms: Tensor) -> Tensor:
        """The forecast of rows that the moments know anything about, NaN for others, ``[rows]``."""
        return norms

    def _forecast_errors(
        self, moments: Moments, start: Tensor, norms: Tensor, rates: EffectiveTrace, rule: EquilibriumRule
    ) -> NormErrors | None:
        """What chance does to norms that were forecast from a start along these rates; ``None`` if nobody knows."""
        return None

    def _window_state(self) -> dict[str, Any]:
        """Where the window lies, and the forecast, for a checkpoint."""
        return {
            "window_start": self._window_start,
            "window_end": self._window_end,
            "forecast": self._end_forecast.state_dict(),
        }

    def _load_window_state(self, state: dict[str, Any], norms: Tensor) -> None:
        """Takes back what :meth:`_window_state` gave."""
        self._set_window(state["window_start"], state["window_end"])
        self.has_closed = self.has_judged = state["window_start"] > 0
        self._end_forecast.load_state_dict(state["forecast"], norms.device)


_FIRST_WINDOW = 100
_LONGEST_WINDOW_WITHOUT_END = 10_000


def next_window_end(step: int, total_steps: int | None, window: Extent) -> int:
    """The step at which a window that opens now will close.

    A window that is a number of steps is as long from the start. One that is a share of the run doubles from 100 steps
    until it is that long, so that a fit appears early and is exact late.

    Args:
        step: steps so far.
        total_steps: steps of the whole run, if known.
        window: a float is a share of the run, an int a number of steps.

    Example:
        >>> ends = [0]
        >>> while ends[-1] < 12_000:
        ...     ends.append(next_window_end(ends[-1], 12_000, 0.2))
        >>> ends[1:]
        [100, 200, 400, 800, 1600, 2400, 4800, 7200, 9600, 12000]
        >>> next_window_end(0, 12_000, 1), next_window_end(6_400, 12_000, 1.0)
        (1, 12000)
    """
    steps = extent_steps(window, total_steps or None)
    full = _LONGEST_WINDOW_WITHOUT_END if steps is None else max(1, int(steps))
    if isinstance(window, int) or step >= full:
        return (step // full + 1) * full
    twice = max(2 * step, _FIRST_WINDOW)
    return full if full < 1.5 * twice else twice
