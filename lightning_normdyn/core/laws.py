"""The laws of the norm: where it settles and the path it takes, by the way an optimizer sizes its steps."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_normdyn.core.equilibrium import Family
from lightning_normdyn.core.rates import RateSegment

_FINEST = 0.1
"""Substep of a numerical path, as a share of the time in which anything changes."""


class Settings(NamedTuple):
    """What a parameter group is set to.

    Attributes:
        lr: ``e``, effective learning rate.
        radial_decay: ``lambda_rad``, shrinkage per unit of it.
        second_beta: decay of the second-moment average; 0 where there is none.
    """

    lr: float
    radial_decay: float
    second_beta: float


class Noise(NamedTuple):
    """What reaches the rows.

    Attributes:
        second_moment: ``V²``, mean of ``|R·g_tan|²`` with absent steps counted as zero, ``[n]``.
        dim: ``d``, length of a row.
        update_probability: ``p``, share of steps in which a row gets a gradient, ``[n]``.
    """

    second_moment: Tensor
    dim: int
    update_probability: Tensor


class Law(Protocol):
    """One way in which norms move."""

    formula: str
    growth: str
    power: int
    decay_is_separable: bool

    def settle(self, settings: Settings, noise: Noise) -> Tensor:
        """The equilibrium norm under positive decay, ``[n]``."""

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """The norm after segments of effective learning rates, ``[n]``."""


class SgdLaw:
    """Steps as long as the gradient: ``R⁴`` relaxes linearly."""

    formula = "R⁴ = lr·V² / (2·lambda_rad)"
    growth = "R⁴ grows by 2·lr²·V² a step"
    power = 4
    decay_is_separable = True

    def settle(self, settings: Settings, noise: Noise) -> Tensor:
        """``R⁴ = e·V²/(2·lambda_rad)``."""
        return (settings.lr / (2 * settings.radial_decay) * noise.second_moment).pow(1 / 4)

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """``R⁴ <- (1 - a)⁴·R⁴ + 2·(1 - a)²·e²·V²`` with ``a = e·lambda_rad``, summed up over each segment."""
        kept, gained = 1.0, 0.0
        for steps, lr, lr_squared in segments:
            shrink = max(0.0, 1 - lr * settings.radial_decay)
            kept_now = shrink ** (4 * steps)
            gained_now = 2 * shrink**2 * lr_squared * _repeats(shrink**4, kept_now, steps)
            kept, gained = kept_now * kept, kept_now * gained + gained_now
        return (kept * norm.pow(4) + gained * noise.second_moment).pow(1 / 4)


class AdamWLaw:
    """Steps of a size of their own, decay apart: ``R²`` relaxes linearly once the second moment has settled."""

    formula = "R² = lr·d / (2·lambda_rad) · p / (p + 1 - beta2)"
    growth = "R² grows by lr²·d·p / (p + 1 - beta2) a step"
    power = 2
    decay_is_separable = True

    def settle(self, settings: Settings, noise: Noise) -> Tensor:
        """``R² = e·d/(2·lambda)·p/(p + 1 - beta2)``: a rare row divides by a second moment that has partly decayed."""
        p = noise.update_probability
        presence = p / (p + 1 - settings.second_beta)
        return (settings.lr / (2 * settings.radial_decay) * noise.dim * presence).sqrt()

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """``R² <- (1 - a)²·R² + e²·d·p/(1 - beta2 + p·R²·w)``, with ``w`` the remembered mean of ``1/R²``.

        Gradients shrink as 1/R, so while R grows Adam still divides by the larger ones of a shorter row. The average
        ``w`` forgets over 1/(1 - beta2) steps and is taken to have settled at the start; at rest ``w = 1/R²``.
        """
        forgets = 1 - settings.second_beta
        p, squared = noise.update_probability, norm.square()
        remembered = squared.reciprocal()
        for steps, lr, lr_squared in segments:
            substeps = math.ceil(max(1.0, min(steps, steps * forgets / _FINEST)))
            span = steps / substeps
            kept_once = max(0.0, 1 - lr * settings.radial_decay) ** 2
            kept, memory = kept_once**span, settings.second_beta**span
            gained = lr_squared * noise.dim * _repeats(kept_once, kept, span)
            for _ in range(substeps):
                source = p / (forgets + p * (squared * remembered).nan_to_num(1, 1, 1))
                remembered = memory * remembered + (1 - memory) / squared
                squared = kept * squared + gained * source
        return squared.sqrt()


class CoupledAdamLaw:
    """Gradient and decay normalised together: ``R³`` settles."""

    formula = "R³ = lr·sqrt(d)·V / (2·lambda_rad)"
    growth = "R² grows by lr²·d a step"
    power = 3
    decay_is_separable = False

    def settle(self, settings: Settings, noise: Noise) -> Tensor:
        """``R³ = e·sqrt(d)·V/(2·lambda)``, for rows updated more often than once in 1/(1 - beta2) steps."""
        scale = settings.lr / (2 * settings.radial_decay) * math.sqrt(noise.dim)
        return (scale * noise.second_moment.sqrt()).pow(1 / 3)

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """Integrates ``dR³/dt = -3·e·lambda·sqrt(d)·R⁴/V + 1.5·e²·d·R``, exactly for R frozen within a substep.

        Adam normalises noise and decay together, so ``V`` is ``sqrt(V² + lambda²·R⁴)`` here: a row without gradients
        then shrinks by ``e·sqrt(d)`` a step instead of vanishing at once.
        """
        cubed, root = norm.pow(3), math.sqrt(noise.dim)
        tiny = torch.finfo(norm.dtype).tiny
        for steps, lr, lr_squared in segments:
            substeps = min(steps, 8)
            span = steps / substeps
            for _ in range(substeps):
                radius = cubed.pow(1 / 3)
                scale = (
                    (noise.second_moment + (settings.radial_decay * radius.square()).square()).sqrt().clamp(min=tiny)
                )
                exponent = -3 * lr * settings.radial_decay * root * radius / scale * span
                # expm1(x)/x tends to 1 without decay
                mean_kept = torch.where(exponent < 0, torch.expm1(exponent) / exponent, 1.0)
                cubed = cubed * exponent.exp() + 1.5 * lr_squared * noise.dim * radius * span * mean_kept
        return cubed.pow(1 / 3)


LAWS: dict[Family, Law] = {"sgd": SgdLaw(), "adamw": AdamWLaw(), "adam": CoupledAdamLaw()}


def _repeats(kept_once: float, kept: float, steps: float) -> float:
    """``1 + k + k² + ...`` over so many steps, of which each keeps ``k``."""
    return (1 - kept) / (1 - kept_once) if kept_once < 1 else float(steps)
