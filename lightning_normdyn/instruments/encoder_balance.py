"""The balance of an encoder's norms: its three terms for every probe item, window by window, and where they lead."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_normdyn.capture.call import Call
from lightning_normdyn.capture.probe import Probe
from lightning_normdyn.core.dynamics.balance import BalanceFit, BalanceTerms
from lightning_normdyn.core.dynamics.balance_window import BalanceSample, BalanceWindow
from lightning_normdyn.core.dynamics.geometry import most_precise, safe_norm, turning_angle
from lightning_normdyn.core.dynamics.optimizers import EquilibriumRule, memory_steps
from lightning_normdyn.instruments.balance_readings import balance_readings, balance_rows
from lightning_normdyn.instruments.base import Readings, check_every, is_due
from lightning_normdyn.instruments.fit import TrainingPlan
from lightning_normdyn.instruments.forecast import (
    EndForecast,
    check_forecast_at,
    check_window,
    judge_window,
    next_window_end,
)
from lightning_normdyn.instruments.split import finite_mean, split_update
from lightning_normdyn.instruments.trajectory import Snapshots

_DECAY_EVERY = 8  # measurements: it is quiet, and costs two encodings
_SEES_NO_LENGTHS = 0.01  # radial share of the gradient below which a loss counts as blind to lengths
_USUAL_DEGREE = 2.0


class EncoderPlan(NamedTuple):
    """What is known about an encoder's training.

    Attributes:
        training: law, schedule and length of the run, for the parameter group that counts.
        decays: gives the encoder's decayed parameters, each with its rate per unit of that group's effective lr.
        group: gives that parameter group.
        make_probe: makes the probe before the first step, from what this rank heard or, if so told, from what a
            checkpoint held of all; ``None`` gives none.
    """

    training: TrainingPlan
    decays: Callable[[], Sequence[tuple[nn.Parameter, float]]]
    group: Callable[[], dict[str, Any]]
    make_probe: Callable[[list[Call], bool], Probe | None]


class _Start(NamedTuple):
    """Vectors at the start of a lag, ``[n, d]``, the step that came before it and its effective learning rate."""

    step: int
    vectors: Tensor
    lr: float


class EncoderBalance:
    """Encodes a probe around measured steps and judges windows of them.

    Growth is taken over a lag of several steps, since successive steps are alike under momentum; drift is what is left
    over the whole window, since single steps cannot show it.

    Args:
        plan: what is known about the training.
        every_n_steps: cadence of the measurements.
        window: length of a window, as a share of the run (below 1) or in steps.
        forecast_at: when the forecast for the end of the run is made, as a share of it.
    """

    def __init__(
        self, plan: EncoderPlan, *, every_n_steps: int = 50, window: float = 0.2, forecast_at: float = 0.4
    ) -> None:
        self.plan = plan
        self.every_n_steps = check_every("every_n_steps", every_n_steps)
        self.window, self.forecast_at = check_window(window), check_forecast_at(forecast_at)
        self.probe: Probe | None = None
        self._gave_up = False
        self._window: BalanceWindow | None = None
        self._window_start = self._window_end = 0
        self._lag = 1
        self._measured = 0
        self._before: Tensor | None = None
        self._lagging: _Start | None = None
        self._decay: Tensor | None = None
        self._heard: list[Tensor | float] = [0.0, 0.0]
        self._previous: BalanceTerms | None = None
        self._end = EndForecast(self.forecast_at, plan.training.total_steps, plan.training.skipped_steps)
        self._snapshots = Snapshots(self.every_n_steps)
        self._readings: Readings = {}
        self._rows: dict[str, Tensor] = {}

    def is_due(self, step: int) -> bool:
        """Whether step number ``step`` is measured; without a window, the next is, and without a probe none."""
        return not self._gave_up and (self._window is None or is_due(step, self.every_n_steps))

    def look_before(self, step: int, calls: list[Call]) -> None:
        """Looks before step number ``step`` is made, if it is measured.

        Args:
            step: its number, from 1.
            calls: what the encoder was called with so far, for a first look.
        """
        if not self.is_due(step):
            return
        if self.probe is None:
            self.probe = self.plan.make_probe(calls, False)
        if self.probe is None:
            self._gave_up = True
            return
        self._before = self.probe.encode()
        if self._window is None:
            self._open(step - 1, safe_norm(self._before))
        self._measure_decay(self._before)

    def look_after(self, step: int, lr: float) -> None:
        """Looks after step number ``step`` was made.

        Args:
            step: its number, from 1.
            lr: nominal learning rate that it was made with.
        """
        if self._window is None:
            return
        self._window.rates.append(lr)
        ends = step >= self._window_end
        lag_ends = self._lagging is not None and step >= self._lagging.step + self._lag
        if self._before is None and not ends and not lag_ends and not self._end.is_last(step):
            return
        assert self.probe is not None
        after = self.probe.encode()
        if self._before is not None:
            self._take_step(step, self._before, after, lr)
        self._end_lag(step, after)
        if ends:
            self._close(step, safe_norm(after))
        if self._end.is_last(step):
            self._readings |= self._end.judge(safe_norm(after))

    def hear(self, radial_square: Tensor, gradient_square: Tensor) -> None:
        """Notes the radial part of the gradients that reached the vectors: it tells whether the loss sees lengths."""
        self._heard = [self._heard[0] + radial_square, self._heard[1] + gradient_square]

    def finish(self, step: int) -> None:
        """Closes a last window that is long enough to say something, and judges the forecast that came due."""
        if self._window is None or self.probe is None or not step:
            return
        long_enough = step - self._window_start >= max(1, (self._window_end - self._window_start) // 4)
        is_due = self._end.is_due(step)
        if long_enough or is_due:
            norms = safe_norm(self.probe.encode())
            if long_enough:
                self._close(step, norms)
            if is_due:
                self._readings |= self._end.judge(norms)

    def readings(self) -> Readings:
        """Scalars read since the last call."""
        readings, self._readings = self._readings, {}
        return readings

    def rows(self) -> dict[str, Tensor]:
        """Columns ``[items]`` for the trajectory, read since the last call."""
        rows, self._rows = self._rows, {}
        return rows

    def _measure_decay(self, vectors: Tensor) -> None:
        assert self.probe is not None
        assert self._window is not None
        if not self._window.decay_samples or self._measured % _DECAY_EVERY == 0:
            self._decay = self.probe.radial_decay(self.plan.decays(), vectors)
            self._window.add_radial_decay(self._decay)
        self._measured += 1

    def _take_step(self, step: int, before: Tensor, after: Tensor, lr: float) -> None:
        """Reads a measured step, and begins the lag that starts with it."""
        rule = self.plan.training.rule()
        rate = lr * rule.lr_gain
        assert self._decay is not None
        self._readings |= split_update(before, after, rate * self._decay if rule.decay_is_separable else None)
        self._readings["effective_lr"] = rate * finite_mean(most_precise(safe_norm(before)).pow(-2))
        if self._lagging is None and step - 1 + self._lag <= self._window_end:
            self._lagging = _Start(step - 1, before, rate)
        if self._snapshots.take(step):
            self._rows = {"norm": safe_norm(after)}
        self._before = None

    def _end_lag(self, step: int, after: Tensor) -> None:
        if self._lagging is None or step < self._lagging.step + self._lag:
            return
        assert self._window is not None
        (start, before, rate), self._lagging = self._lagging, None
        steps = step - start
        growth = most_precise(safe_norm(most_precise(after) - most_precise(before))).square() / steps
        turn = turning_angle(before, after).square() / steps
        self._window.add(BalanceSample(rate, most_precise(safe_norm(before)).square(), growth, turn))

    def _open(self, step: int, norms: Tensor) -> None:
        self._window = BalanceWindow(norms)
        self._window_start = step
        self._window_end = next_window_end(step, self.plan.training.total_steps(), self.window)
        self._lagging, self._heard = None, [0.0, 0.0]
        self._lag = min(memory_steps(self.plan.group()), self.every_n_steps)

    def _close(self, step: int, norms: Tensor) -> None:
        assert self._window is not None
        rule = self.plan.training.rule()
        fit = self._window.close(
            norms,
            lr_gain=rule.lr_gain,
            growth_power=_growth_power(self._window.radial_decay(), rule),
            drift_follows_lr=self._sees_no_lengths(),
        )
        self._rows = {"norm": norms}
        if fit is not None:
            self._readings |= balance_readings(fit, rule)
            self._judge_previous(fit, rule)
            at_end = self._norms_at_end(step, fit, rule)
            if at_end is not None:
                self._end.keep(step, at_end, fit.norm)
            self._rows = balance_rows(fit, at_end)
            self._previous = fit.terms
        self._open(step, norms)

    def _judge_previous(self, fit: BalanceFit, rule: EquilibriumRule) -> None:
        """How well the terms of the window before forecast the end of this one."""
        if self._previous is None or self._window is None:
            return
        norms = self._previous.evolve(self._window.start, self._window.rates.scaled(rule.lr_gain))
        self._readings |= judge_window(norms, self._window.start, fit.norm)

    def _norms_at_end(self, step: int, fit: BalanceFit, rule: EquilibriumRule) -> Tensor | None:
        """The norms at the end of the run under its schedule; ``None`` where it has no set end."""
        plan = self.plan.training
        total = plan.total_steps()
        if total is None:
            return None
        future = plan.future_lrs(max(0, total - plan.skipped_steps() - step))
        return fit.terms.evolve(fit.norm, future.scaled(rule.lr_gain))

    def _sees_no_lengths(self) -> bool:
        radial, whole = (float(heard) for heard in self._heard)
        return 0 < whole < math.inf and math.sqrt(radial / whole) < _SEES_NO_LENGTHS

    def state_dict(self) -> dict[str, Any]:
        """The probe's inputs, the open window, the terms of the one before and the forecast.

        Empty where a probe's inputs are not plain tensors and numbers: a resumed run then starts afresh.
        """
        if self.probe is None or self._window is None:
            return {}
        inputs = self.probe.plain_inputs()
        if inputs is None:
            return {}
        return {
            "inputs": inputs,
            "ranks": self.probe.ranks,
            "window": self._window.state_dict(),
            "window_start": self._window_start,
            "window_end": self._window_end,
            "lag": self._lag,
            "measured": self._measured,
            "lagging": None if self._lagging is None else list(self._lagging),
            "decay": self._decay,
            "heard": torch.stack([torch.as_tensor(heard, dtype=torch.float64) for heard in self._heard]),
            "previous": None if self._previous is None else list(self._previous),
            "forecast": self._end.state_dict(),
            "last_snapshot": self._snapshots.last,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave; encodes the probe once to be sure that it still can."""
        if not state:
            return
        saved = [Call.from_state(call) for call in state["inputs"]]
        probe = self.plan.make_probe(saved, True)
        if probe is None:
            return
        if not probe.has_inputs(saved) or probe.ranks != state["ranks"]:
            raise ValueError(f"the probe of '{probe.name}' has other items, or other ranks, than when it was saved")
        self.probe = probe
        device = self.probe.device
        self._window = BalanceWindow.from_state_dict(state["window"], device)
        self._window_start, self._window_end = state["window_start"], state["window_end"]
        self._lag, self._measured = state["lag"], state["measured"]
        self._snapshots.last = state["last_snapshot"]
        self._lagging = None if state["lagging"] is None else _Start(*_moved(state["lagging"], device))
        self._decay = None if state["decay"] is None else state["decay"].to(device)
        self._heard = list(state["heard"].to(device).unbind())
        self._previous = None if state["previous"] is None else BalanceTerms(*_moved(state["previous"], device))
        self._end.load_state_dict(state["forecast"], device)


def _moved(fields: list[Any], device: torch.device) -> list[Any]:
    return [field.to(device) if isinstance(field, Tensor) else field for field in fields]


def _growth_power(radial_decay: Tensor, rule: EquilibriumRule) -> Tensor:
    """``q`` of :class:`BalanceTerms` from the network's degree, ``lambda_rad/lambda``, and the optimizer's law."""
    degree = (radial_decay / rule.radial_decay) if rule.radial_decay > 0 else torch.full_like(radial_decay, torch.nan)
    degree = degree.nan_to_num(_USUAL_DEGREE).clamp(min=1)
    return 1 - (2 if rule.family == "sgd" else 1) / degree
