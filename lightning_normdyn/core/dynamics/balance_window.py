"""Running sums over a window of an encoder's training, and the balance of its probe items at its end."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.balance import BalanceFit, BalanceTerms, Flow, equilibria
from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.core.dynamics.rates import EffectiveTrace
from lightning_normdyn.core.dynamics.rule import EquilibriumRule


class BalanceSample(NamedTuple):
    """What one measured step, or a lag of several, showed. Tensors are ``[n]``, float64.

    Attributes:
        lr: effective learning rate.
        squared_norm: ``R²`` when it began.
        growth: ``|x(t + k) - x(t)|²/k``.
        turn: squared angle by which the vector turned, over ``k``.
    """

    lr: float
    squared_norm: Tensor
    growth: Tensor
    turn: Tensor


class _Sums(NamedTuple):
    """Sums over samples, ``[n]``; ``decay_rate`` is lr·R²."""

    squared: Tensor
    decay_rate: Tensor
    decay_rate_square: Tensor
    growth: Tensor
    growth_square: Tensor
    turn: Tensor


class BalanceWindow:
    """Running sums from which a window is judged when it closes: 88 bytes an item.

    Args:
        norms: norms at the start, ``[n]``.
    """

    def __init__(self, norms: Tensor) -> None:
        self.start = most_precise(norms)
        self.rates = EffectiveTrace()
        self.samples = self.decay_samples = 0
        self._lr, self._lr_square = 0.0, 0.0
        self._sums = _Sums(*(torch.zeros_like(self.start) for _ in _Sums._fields))
        self._decays = torch.zeros_like(self.start), torch.zeros_like(self.start)

    def add(self, sample: BalanceSample) -> None:
        """Takes a sample."""
        rate = sample.lr * sample.squared_norm
        terms = (sample.squared_norm, rate, rate.square(), sample.growth, sample.growth.square(), sample.turn)
        self._sums = _Sums(*(total + term for total, term in zip(self._sums, terms, strict=True)))
        self._lr, self._lr_square = self._lr + sample.lr, self._lr_square + sample.lr**2
        self.samples += 1

    def add_radial_decay(self, radial_decay: Tensor) -> None:
        """Takes a measurement of ``lambda_rad``, ``[n]``."""
        total, squares = self._decays
        self._decays = total + radial_decay, squares + radial_decay.square()
        self.decay_samples += 1

    def radial_decay(self) -> Tensor:
        """Mean of the measured ``lambda_rad``, ``[n]``; NaN before the first measurement."""
        return _mean(*self._decays, self.decay_samples)[0]

    def close(self, norms: Tensor, *, growth_power: Tensor | float, drift_follows_lr: bool) -> BalanceFit | None:
        """Judges the window; ``None`` if it holds no sample.

        Args:
            norms: norms at its end, ``[n]``.
            growth_power: see :class:`BalanceTerms`, ``[n]`` or one number.
            drift_follows_lr: see :class:`BalanceTerms`.
        """
        if not self.samples:
            return None
        end, lr = most_precise(norms), self.rates.mean
        mean = _Sums(*(total / self.samples for total in self._sums))
        decay, decay_stderr = _mean(*self._decays, self.decay_samples)
        growth_stderr = _mean(self._sums.growth, self._sums.growth_square, self.samples)[1]
        rate_stderr = _mean(self._sums.decay_rate, self._sums.decay_rate_square, self.samples)[1]
        # Rates are known in every step, norms at samples alone: the mean of their product is put right by the rates'.
        per_lr = 2 * decay * (lr * self.samples / self._lr if self._lr else 0.0)
        change = (end.square() - self.start.square()) / max(self.rates.steps, 1)
        flow = Flow(change, per_lr * mean.decay_rate, mean.growth, lr)
        terms = BalanceTerms(
            second_moment=mean.growth * mean.squared * (self.samples / (self._lr_square or math.nan)),
            radial_decay=decay,
            drift=flow.drift,
            squared_norm=mean.squared,
            lr=lr,
            growth_power=torch.as_tensor(growth_power).to(end),
            drift_follows_lr=drift_follows_lr,
            group_decay=self.rates.radial_decay,
        )
        return BalanceFit(
            norm=end,
            mean_norm=mean.squared.sqrt(),
            flow=flow,
            terms=terms,
            growth_stderr=growth_stderr,
            radial_decay_stderr=decay_stderr,
            drift_stderr=torch.hypot(growth_stderr, per_lr * rate_stderr) / (2 * lr or math.nan),
            equilibria=equilibria(flow, terms, self.rates.noise_rate),
            angular_update=mean.turn.sqrt(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers, for a checkpoint."""
        return {
            "start": self.start.clone(),
            "rates": self.rates.state_dict(),
            "samples": [self.samples, self.decay_samples],
            "lr": [self._lr, self._lr_square],
            "sums": torch.stack(self._sums),
            "decays": torch.stack(self._decays),
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], device: torch.device, rule: EquilibriumRule) -> BalanceWindow:
        """Takes back what :meth:`state_dict` gave; nominal rates of an earlier release are taken as under this rule."""
        window = cls(state["start"].to(device))
        window.rates.load_state_dict(state["rates"], lr_gain=rule.lr_gain, radial_decay=rule.radial_decay)
        window.samples, window.decay_samples = state["samples"]
        window._lr, window._lr_square = state["lr"]
        window._sums = _Sums(*state["sums"].to(device).unbind())
        total, squares = state["decays"].to(device).unbind()
        window._decays = total, squares
        return window


def _mean(total: Tensor, squares: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """A mean and its standard error from sums; NaN of no sample, and an error of fewer than two."""
    mean = total / (samples or math.nan)
    variance = (squares / (samples or math.nan) - mean.square()).clamp(min=0)
    return mean, (variance / (samples - 1 if samples > 1 else math.nan)).sqrt()
