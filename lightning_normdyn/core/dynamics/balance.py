"""The balance of squared norms where drift is real: what moved them over a window, and where that leads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.equilibrium import equilibrium_norm
from lightning_normdyn.core.dynamics.rates import RateSegment

_FINEST = 0.02
"""Substep of a numerical path, as a share of the time in which a squared norm changes by itself."""


class Flow(NamedTuple):
    """Mean change of ``R²`` in a step over a window, and what made it. Tensors are ``[n]``, float64, unit ``x²``.

    Attributes:
        change: net change.
        decay: what weight decay took, positive.
        growth: ``|Δ|²``, what steps of any direction add.
        lr: mean effective learning rate.
    """

    change: Tensor
    decay: Tensor
    growth: Tensor
    lr: float

    @property
    def push(self) -> Tensor:
        """``2·lr·D``: what is left for the radial push, which no sparse sampling could find."""
        return self.change + self.decay - self.growth

    @property
    def drift(self) -> Tensor:
        """``D = [(R²(end) - R²(start))/n + E(2·lr·lambda_rad·R²) - E|Δ|²] / (2·lr)``, telescoped; NaN at lr 0."""
        return self.push / (2 * self.lr) if self.lr else torch.full_like(self.change, torch.nan)

    @property
    def stationarity(self) -> Tensor:
        """1 - |net change| / gross flow, over all rows: 1 has settled, 0 moves one way; NaN if nothing is finite."""
        gross = (self.decay + self.push.abs() + self.growth).where(self.change.isfinite(), torch.nan)
        return 1 - self.change.nansum().abs() / gross.nansum()


class BalanceTerms(NamedTuple):
    """The three terms of the balance equation, as they were at one norm and one learning rate. Float64, ``[n]``.

    ``dR²/dt = -2·lr·lambda_rad·R² + 2·lr·D + lr²·V²/R²`` (Su, Ren, Veitch 2026, arXiv 2606.30625, Eq. 4.15). How the
    last two go on when norm and rate change is not in the equation. In a network of degree ``L`` in its weights
    (``L = lambda_rad/lambda``) outputs go as ``R ~ θ^L`` and Jacobians as ``θ^(L-1)``, so growth goes as ``R^2q`` with
    ``q = 1 - 2/L`` where steps are as long as gradients, which shrink as 1/R, and ``q = 1 - 1/L`` where the optimizer
    sets their size; a table has ``L = 1``. A push is radius times step: ``R^(1 + q)``. Its mean is of first order in
    the learning rate if the loss sees lengths; if not, gradients have no net outward part and what remains, curvature
    along the steps, is of second order, as growth is. There the two can be large and cancel, so that their sum goes on
    as a push does (benchmarks/forecasts.py).

    Attributes:
        second_moment: ``V²``.
        radial_decay: ``lambda_rad``.
        drift: ``D``.
        squared_norm: ``R²`` at which they were measured.
        lr: effective learning rate at which they were measured.
        growth_power: ``q``.
        drift_follows_lr: whether ``D`` is proportional to the learning rate.
        group_decay: ``lambda_rad`` of the parameter group that counts as they were measured: ``radial_decay`` of the
            vectors goes with it; 0 where that is not known, or 0.
    """

    second_moment: Tensor
    radial_decay: Tensor
    drift: Tensor
    squared_norm: Tensor
    lr: float
    growth_power: Tensor
    drift_follows_lr: bool
    group_decay: float = 0.0

    def evolve(self, norm: Tensor, segments: list[RateSegment], group_decays: Sequence[float] | None = None) -> Tensor:
        """The norm after stretches of effective learning rates, from where it stands now.

        Args:
            norm: norms at the start, ``[n]``.
            segments: effective learning rates.
            group_decays: ``lambda_rad`` of the parameter group in each segment; ``None`` where it stays as it was.

        Returns:
            ``[n]``, float64; zero where an inward push would carry a norm through zero.
        """
        squared = norm.square().to(self.drift)
        decays = [self.group_decay] * len(segments) if group_decays is None else group_decays
        for (steps, lr, lr_squared), group_decay in zip(segments, decays, strict=True):
            decay_rate = lr * self.radial_decay * (group_decay / self.group_decay if self.group_decay else 1.0)
            substeps = self._substeps(squared, steps, lr, lr_squared, decay_rate)
            span = steps / substeps
            step_retention = (1 - decay_rate).clamp(min=0).square()
            retention = step_retention.pow(span)
            repeats = ((1 - retention) / (1 - step_retention)).where(step_retention < 1, span)
            for _ in range(substeps):
                squared = (retention * squared + repeats * self._gain(squared, lr, lr_squared)).clamp(min=0)
        return squared.sqrt()

    def _gain(self, squared: Tensor, lr: float, lr_squared: float) -> Tensor:
        """What drift and growth add to ``R²`` in a step."""
        ratio, push_power = squared / self.squared_norm, (1 + self.growth_power) / 2
        growth = lr_squared * self.second_moment / self.squared_norm
        if self.drift_follows_lr:
            return (2 * lr_squared / (self.lr or math.nan) * self.drift + growth) * ratio.pow(push_power)
        return 2 * lr * self.drift * ratio.pow(push_power) + growth * ratio.pow(self.growth_power)

    def _substeps(self, squared: Tensor, steps: int, lr: float, lr_squared: float, decay_rate: Tensor) -> int:
        rates = self._gain(squared, lr, lr_squared).abs() / squared + 2 * decay_rate
        fastest = float(rates.nan_to_num(0, 0, 0).max()) if rates.numel() else 0.0
        return max(1, min(steps, math.ceil(steps * fastest / _FINEST)))


class Equilibria(NamedTuple):
    """Roots of the balance equation, ``[n]``; norms.

    Attributes:
        full: where the norm settles if the terms stay.
        variance: without drift, ``R⁴ = lr·V²/(2·lambda_rad)``.
        drift: without growth, ``R² = D/lambda_rad``; NaN where drift is inward.
        balance: with the window's own change taken out of the drift, so that it gives back the mean norm if all terms
            were booked right: an identity, up to the noise of sampling.
    """

    full: Tensor
    variance: Tensor
    drift: Tensor
    balance: Tensor


class BalanceFit(NamedTuple):
    """What a window says about every item. Tensors are ``[n]``, float64; norms, never their squares.

    Attributes:
        norm: observed at the end of the window.
        mean_norm: root mean square over it.
        flow: what changed the norms.
        terms: the terms of the balance equation.
        growth_stderr: standard error of ``flow.growth``.
        radial_decay_stderr: standard error of ``terms.radial_decay``.
        drift_stderr: standard error of ``terms.drift``, from those of growth and decay; the ends are exact.
        equilibria: where the norm would settle.
        angular_update: RMS angle by which the vector turned, over the square root of the steps; radians.
    """

    norm: Tensor
    mean_norm: Tensor
    flow: Flow
    terms: BalanceTerms
    growth_stderr: Tensor
    radial_decay_stderr: Tensor
    drift_stderr: Tensor
    equilibria: Equilibria
    angular_update: Tensor


def equilibria(flow: Flow, terms: BalanceTerms, noise_lr: float) -> Equilibria:
    """The roots of the balance equation with a window's terms.

    Args:
        flow: what changed the norms.
        terms: the terms of the equation.
        noise_lr: ``E(lr²)/E(lr)``: noise enters with lr², decay and drift with lr.
    """
    v2, decay, drift = terms.second_moment, terms.radial_decay, terms.drift
    net = drift - flow.change / (2 * flow.lr or math.nan)
    return Equilibria(
        full=equilibrium_norm(v2, decay, noise_lr, drift),
        variance=equilibrium_norm(v2, decay, noise_lr),
        drift=(drift / decay).where(drift > 0, torch.nan).sqrt(),
        balance=equilibrium_norm(v2, decay, noise_lr, net),
    )
