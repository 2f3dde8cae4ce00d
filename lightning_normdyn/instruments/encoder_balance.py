"""The balance of an encoder's norms: growth, radial decay and drift of every probe item, window by window."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_normdyn.capture.call import Call
from lightning_normdyn.capture.probe import Probe
from lightning_normdyn.caution import SettingsError
from lightning_normdyn.core.dynamics.balance import BalanceTerms
from lightning_normdyn.core.dynamics.balance_window import BalanceSample, BalanceWindow
from lightning_normdyn.core.dynamics.budget import UpdateSums
from lightning_normdyn.core.dynamics.geometry import most_precise, safe_norm, turning_angle
from lightning_normdyn.core.dynamics.rates import EffectiveTrace
from lightning_normdyn.core.dynamics.rule import EquilibriumRule
from lightning_normdyn.core.dynamics.step_rates import memory_steps
from lightning_normdyn.instruments.balance_readings import balance_columns, balance_readings
from lightning_normdyn.instruments.base import check_every, is_due
from lightning_normdyn.instruments.extent import Extent
from lightning_normdyn.instruments.gradient_split import finite_mean, split_update
from lightning_normdyn.instruments.safeguard import TargetEndedError, in_a_line
from lightning_normdyn.instruments.trajectory import Snapshots
from lightning_normdyn.instruments.windowed_fit import ClosedWindow, TrainingPlan, WindowedFit

_DECAY_EVERY = 8
"""Measurements between two of the radial decay, which is quiet and costs two encodings."""
_SEES_NO_LENGTHS = 0.01
"""Radial share of the gradient below which a loss counts as blind to lengths."""


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


class _Lag(NamedTuple):
    """Vectors at the start of a lag, ``[n, d]``, the step that came before it and its effective learning rate."""

    step: int
    vectors: Tensor
    lr: float


class OtherRanksError(ValueError):
    """A part of a state is of another number of ranks, on which the rest does not depend."""


class EncoderBalance(WindowedFit[BalanceTerms]):
    """Encodes a probe around measured steps and judges windows of them.

    Growth is taken over a lag of several steps, since successive steps are alike under momentum; drift is what is left
    over the whole window, since single steps cannot show it.

    Args:
        encoder_plan: what is known about the training.
        every_n_steps: cadence of the measurements.
        window: see :class:`WindowedFit`.
        forecast_at: see :class:`WindowedFit`.
    """

    def __init__(
        self,
        encoder_plan: EncoderPlan,
        *,
        every_n_steps: int = 50,
        window: Extent = 0.2,
        forecast_at: Extent = 0.4,
    ) -> None:
        super().__init__(encoder_plan.training, window=window, forecast_at=forecast_at)
        self.encoder_plan = encoder_plan
        self.every_n_steps = check_every("every_n_steps", every_n_steps)
        self.probe: Probe | None = None
        self.gave_up = False
        self._window: BalanceWindow | None = None
        self._lag_steps = 1
        self._measurements = 0
        self._vectors_before: Tensor | None = None
        self._lag: _Lag | None = None
        self._decay: Tensor | None = None
        self._gradient_squares: list[Tensor | float] = [0.0, 0.0]  # radial, and of the whole gradient
        self._snapshots = Snapshots(self.every_n_steps)

    def is_due(self, step: int) -> bool:
        """Whether step number ``step`` is measured; without a window, the next is, and without a probe none."""
        return not self.gave_up and (self._window is None or is_due(step, self.every_n_steps))

    def look_before(self, step: int, calls: list[Call]) -> None:
        """Looks before step number ``step`` is made, if it is measured.

        Args:
            step: its number, from 1.
            calls: what the encoder was called with so far, for a first look.
        """
        if not self.is_due(step):
            return
        if self.probe is None:
            self.probe = self.encoder_plan.make_probe(calls, False)
        if self.probe is None:
            self.gave_up = True
            return
        self._vectors_before = self._encode()
        if self._window is None:
            self._open(step - 1, safe_norm(self._vectors_before))
        self._measure_decay(self._vectors_before)

    def encodes_after(self, step: int, *, wants_vectors: bool) -> bool:
        """Whether the probe is encoded after step number ``step``."""
        is_due = self._vectors_before is not None or self._lag_ends(step) or self._ends_with(step)
        return self._window is not None and (wants_vectors or is_due)

    def look_after(self, step: int, lr: float, group_decay: float, *, wants_vectors: bool = False) -> Tensor | None:
        """Looks after step number ``step`` was made.

        Args:
            step: its number, from 1.
            lr: effective learning rate that it was made with.
            group_decay: ``lambda_rad`` of the parameter group that counts.
            wants_vectors: whether somebody else wants to see the probe's vectors.

        Returns:
            The probe's vectors ``[n, d]``, if they were encoded.
        """
        if self._window is None:
            return None
        self._window.rates.append(lr, group_decay)
        if not self.encodes_after(step, wants_vectors=wants_vectors):
            return None
        vectors = self._encode()
        if self._vectors_before is not None:
            self._read_step(step, self._vectors_before, vectors, lr)
        self._end_lag(step, vectors)
        self._conclude(step, lambda: safe_norm(vectors))
        return vectors

    def hear(self, radial_square: Tensor, gradient_square: Tensor) -> None:
        """Notes the radial part of the gradients that reached the vectors: it tells whether the loss sees lengths."""
        radial_sum, gradient_sum = self._gradient_squares
        self._gradient_squares = [radial_sum + radial_square, gradient_sum + gradient_square]

    def _encode(self) -> Tensor:
        """The probe's vectors as they are now, ``[n, d]``.

        Raises:
            TargetEndedError: if the encoder, which could once be called with them, cannot any more.
        """
        assert self.probe is not None
        try:
            return self.probe.encode()
        except (SettingsError, TargetEndedError):
            raise
        except Exception as error:  # of the user's module
            raise TargetEndedError(f"it cannot be called with its probe any more ({in_a_line(error)})") from error

    def _measure_decay(self, vectors: Tensor) -> None:
        assert self.probe is not None
        assert self._window is not None
        if not self._window.decay_samples or self._measurements % _DECAY_EVERY == 0:
            self._decay = self.probe.radial_decay(self.encoder_plan.decays(), vectors)
            self._window.add_radial_decay(self._decay)
        self._measurements += 1

    def _read_step(self, step: int, vectors_before: Tensor, vectors: Tensor, rate: float) -> None:
        """Reads a measured step, and begins the lag that starts with it."""
        rule = self.plan.rule()
        assert self._decay is not None
        decay_rate = rate * self._decay if rule.decay_is_separable else None
        self._readings |= split_update(
            UpdateSums.of(vectors_before, vectors), decay_rate, has_law=rule.family is not None
        )
        self._readings["effective_lr"] = rate * finite_mean(most_precise(safe_norm(vectors_before)).pow(-2))
        if self._lag is None and step - 1 + self._lag_steps <= self._window_end:
            self._lag = _Lag(step - 1, vectors_before, rate)
        if self._snapshots.take(step):
            self._columns = {"norm": safe_norm(vectors)}
        self._vectors_before = None

    def _lag_ends(self, step: int) -> bool:
        return self._lag is not None and step >= self._lag.step + self._lag_steps

    def _end_lag(self, step: int, vectors: Tensor) -> None:
        if self._lag is None or not self._lag_ends(step):
            return
        assert self._window is not None
        (start, vectors_before, rate), self._lag = self._lag, None
        steps = step - start
        growth = most_precise(safe_norm(most_precise(vectors) - most_precise(vectors_before))).square() / steps
        turn = turning_angle(vectors_before, vectors).square() / steps
        self._window.add(BalanceSample(rate, most_precise(safe_norm(vectors_before)).square(), growth, turn))

    def _is_open(self) -> bool:
        return self._window is not None and self.probe is not None

    def _norms_now(self) -> Tensor:
        return safe_norm(self._encode())

    def _start_window(self, norms: Tensor) -> None:
        self._window = BalanceWindow(norms)
        self._lag, self._gradient_squares = None, [0.0, 0.0]
        self._lag_steps = min(memory_steps(self.encoder_plan.group()), self.every_n_steps)

    def _window_course(self) -> tuple[Tensor, EffectiveTrace]:
        assert self._window is not None
        return self._window.start, self._window.rates

    def _judge_window(self, norms: Tensor, rule: EquilibriumRule) -> ClosedWindow[BalanceTerms] | None:
        assert self._window is not None
        fit = self._window.close(
            norms,
            growth_power=rule.growth_power(self._window.radial_decay()),
            drift_follows_lr=self._sees_no_lengths(),
        )
        if fit is None:
            return None
        return ClosedWindow(balance_readings(fit, rule), balance_columns(fit), fit.terms, fit.norm)

    def _evolve(self, moments: BalanceTerms, norms: Tensor, rates: EffectiveTrace, rule: EquilibriumRule) -> Tensor:
        return moments.evolve(norms, rates.segments, rates.decays())

    def _sees_no_lengths(self) -> bool:
        radial_sum, gradient_sum = (float(square) for square in self._gradient_squares)
        return 0 < gradient_sum < math.inf and math.sqrt(radial_sum / gradient_sum) < _SEES_NO_LENGTHS

    def state_dict(self) -> dict[str, Any]:
        """The probe's inputs, the open window, the terms of the one before and the forecast.

        Empty where a probe's inputs are not plain tensors and numbers: a resumed run then starts afresh.
        """
        if self.probe is None or self._window is None:
            return {}
        inputs = self.probe.plain_inputs()
        if inputs is None:
            return {}
        return self._window_state() | {
            "inputs": inputs,
            "ranks": self.probe.ranks,
            "window": self._window.state_dict(),
            "lag": self._lag_steps,
            "measured": self._measurements,
            "lagging": None if self._lag is None else list(self._lag),
            "decay": self._decay,
            "heard": torch.stack([torch.as_tensor(square, dtype=torch.float64) for square in self._gradient_squares]),
            "previous": None if self._last_moments is None else list(self._last_moments),
            "last_snapshot": self._snapshots.last,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave; encodes the probe once to be sure that it still can."""
        if not state:
            return
        self.probe = self._probe_of_state(state)
        if self.probe is None:
            return
        window = state["window"]
        if self.probe.ranks == 1 and len(window["start"]) != self.probe.shape[0]:
            raise ValueError(
                f"the probe of '{self.probe.name}' has {self.probe.shape[0]} vectors and had {len(window['start'])}"
            )
        lagging = state["lagging"]
        if lagging is not None and lagging[1].shape[1] != self.probe.shape[1]:
            raise ValueError(
                f"the vectors of '{self.probe.name}' have {self.probe.shape[1]} numbers and had {lagging[1].shape[1]}"
            )
        device = self.probe.device
        self._window = BalanceWindow.from_state_dict(state["window"], device, self.plan.rule())
        self._load_window_state(state, self._window.start)
        self._lag_steps, self._measurements = state["lag"], state["measured"]
        self._snapshots.last = state["last_snapshot"]
        self._lag = None if state["lagging"] is None else _Lag(*_moved(state["lagging"], device))
        self._decay = None if state["decay"] is None else state["decay"].to(device)
        self._gradient_squares = list(state["heard"].to(device).unbind())
        self._last_moments = None if state["previous"] is None else BalanceTerms(*_moved(state["previous"], device))

    def _probe_of_state(self, state: dict[str, Any]) -> Probe | None:
        calls = [Call.from_state(call) for call in state["inputs"]]
        probe = self.encoder_plan.make_probe(calls, True)
        if probe is not None and probe.ranks != state["ranks"]:
            raise OtherRanksError(
                f"the probe of '{probe.name}' was encoded on {state['ranks']} ranks and is on {probe.ranks} now, so "
                "its balance starts afresh; all else goes on"
            )
        if probe is not None and not probe.has_inputs(calls):
            raise ValueError(f"the probe of '{probe.name}' has other items than when it was saved")
        return probe


def _moved(fields: list[Any], device: torch.device) -> list[Any]:
    return [field.to(device) if isinstance(field, Tensor) else field for field in fields]
