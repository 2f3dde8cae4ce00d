"""Running sums over a window of a table's training, and the observed and predicted norms at its end."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.balance import Flow
from lightning_normdyn.core.dynamics.equilibrium import equilibrium_norm
from lightning_normdyn.core.dynamics.geometry import most_precise, safe_norm
from lightning_normdyn.core.dynamics.moments import RowMoments
from lightning_normdyn.core.dynamics.optimizers import EquilibriumRule
from lightning_normdyn.core.dynamics.rates import RateTrace


class WindowFit(NamedTuple):
    """What a window says about every tracked row. Tensors are ``[rows]``, float64; norms, never their squares.

    Attributes:
        norm: observed at the end of the window.
        mean_norm: observed on average over it, as the power mean that the closed form predicts.
        second_moment: ``V²`` from the gradients.
        update_probability: share of steps in which the row got a gradient.
        equilibrium_norm: the closed form, from gradients and hyper-parameters alone; compare with ``mean_norm``.
        transient_norm: the recursion from the norm at the window's start through the window's own learning rates;
            compare with ``norm``.
        balance_norm: the balance equation fed with the measured growth and drift: bookkeeping, not a prediction.
        stationarity: 1 - |net change of R²| / gross flow, over all rows: 1 has settled, 0 moves one way; no dimension.
    """

    norm: Tensor
    mean_norm: Tensor
    second_moment: Tensor
    update_probability: Tensor
    equilibrium_norm: Tensor
    transient_norm: Tensor
    balance_norm: Tensor
    stationarity: Tensor


class FitWindow:
    """Running sums from which a window is judged when it closes: 56 bytes a row.

    Args:
        norms: norms at the start, ``[rows]``.
        power: the power of R to average, :attr:`EquilibriumRule.power`.
    """

    def __init__(self, norms: Tensor, power: int) -> None:
        self.power = power
        self.start = most_precise(norms)
        self.moments = RowMoments(len(norms), norms.device)
        self.rates = RateTrace()
        self.samples = 0
        self._squares = torch.zeros_like(self.start)
        self._powers = torch.zeros_like(self.start)
        self._growth = torch.zeros_like(self.start)

    def sample(self, before: Tensor, after: Tensor) -> None:
        """Takes the quiet terms, norm and growth, from one step of all rows.

        Args:
            before: rows before the step, ``[rows, d]``.
            after: rows after it, ``[rows, d]``.
        """
        norm = most_precise(safe_norm(after))
        self.samples += 1
        self._squares += norm.square()
        self._powers += norm.pow(self.power)
        self._growth += most_precise(safe_norm(after.float() - before.float())).square()

    def close(self, norms: Tensor, rule: EquilibriumRule, dim: int) -> WindowFit:
        """Judges the window.

        Args:
            norms: norms at its end, ``[rows]``.
            rule: the optimizer's law; its own learning rate is replaced by the window's.
            dim: length of an embedding.

        Returns:
            Observed and predicted norms. Predictions are NaN where the optimizer has no known law.
        """
        end = most_precise(norms)
        v2, p = self.moments.second_moment, self.moments.update_probability
        samples = max(self.samples, 1)
        mean_norm = (self._powers / samples).pow(1 / self.power) if self.samples else end
        no_norms = torch.full_like(end, torch.nan)
        has_law = rule.family is not None
        balance, stationarity = self._balance(end, rule)
        return WindowFit(
            norm=end,
            mean_norm=mean_norm,
            second_moment=v2,
            update_probability=p,
            equilibrium_norm=rule.at(nominal_lr=self.rates.noise_rate).predict(v2, dim, p) if has_law else no_norms,
            transient_norm=rule.evolve(self.start, v2, dim, p, lrs=self.rates) if has_law else no_norms,
            balance_norm=balance if rule.decay_is_separable else no_norms,
            stationarity=stationarity,
        )

    def _balance(self, end: Tensor, rule: EquilibriumRule) -> tuple[Tensor, Tensor]:
        """The root of the balance equation with telescoped drift, and the stationarity."""
        lr, samples = rule.lr_gain * self.rates.mean, max(self.samples, 1)
        squared, growth = self._squares / samples, self._growth / samples
        change = (end.square() - self.start.square()) / max(self.rates.steps, 1)
        flow = Flow(change, 2 * lr * rule.radial_decay * squared, growth, lr)
        v2 = growth * squared / (lr**2 or torch.nan)
        return equilibrium_norm(v2, rule.radial_decay, lr, flow.drift), flow.stationarity

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers, for a checkpoint."""
        return {
            "power": self.power,
            "start": self.start.clone(),
            "samples": self.samples,
            "sums": torch.stack((self._squares, self._powers, self._growth)),
            "moments": self.moments.state_dict(),
            "rates": self.rates.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        self.power, self.samples = state["power"], state["samples"]
        self.start.copy_(state["start"])
        for total, state_total in zip((self._squares, self._powers, self._growth), state["sums"], strict=True):
            total.copy_(state_total)
        self.moments.load_state_dict(state["moments"])
        self.rates.load_state_dict(state["rates"])
