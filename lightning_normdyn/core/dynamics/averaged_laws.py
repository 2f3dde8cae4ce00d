"""Laws of schedule-free optimizers, which train one average of the weights and hand out another.

Three sequences (Defazio et al. 2024, arXiv 2405.15682): ``z`` takes the steps, ``x`` is the plain mean of all ``z`` so
far, and gradients are taken, and decay acts, at ``y = (1 - beta)·z + beta·x``. While training the weights that torch
holds are ``y``; after ``optimizer.eval()`` they are ``x``.

Noise of steps across ``y`` has no mean, so the second moments ``<z,z>``, ``<z,x>`` and ``<x,x>`` follow a closed linear
recursion. In the long run ``x`` stands still and falls to what noise leaves of it, ``y`` moves as ``(1 - beta)·z``, and
the norm of ``y`` settles as under the plain optimizer with the rate ``e = (1 - beta)·lr``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.law import DecayApart, Law, ObservedMean
from lightning_normdyn.core.dynamics.law_inputs import Noise, Settings
from lightning_normdyn.core.dynamics.laws import Family
from lightning_normdyn.core.dynamics.rates import RateSegment

_FINEST = 0.02
"""Substep of a path, as a share of the steps in which the mean or the norm changes."""

StepSquare = Callable[[Tensor, float], Tensor]
"""``|step|²/lr²`` at ``|y|²``, after so many steps since the last time it was asked, ``[n]``."""


class ScheduleFreeAdamWLaw(DecayApart):
    """AdamW on ``z`` with gradients and decay at ``y``; the norm is that of ``y``."""

    formula = "R² = (1 - beta1)·lr·d / (2·lambda_rad) · p / (p + 1 - beta2) after some 1/((1 - beta1)·lr·lambda) steps"
    growth = "R² grows as that of the running mean of the weights does"
    power = 2
    growth_power = 0
    observed_mean: ObservedMean = "rms"
    norm_needs: tuple[str, ...] = ("dim",)
    path_needs: tuple[str, ...] = ("averages",)

    def source(self, settings: Settings, noise: Noise) -> Tensor:
        """``d·p/(p + 1 - beta2)``, as under AdamW."""
        p = noise.update_probability
        return noise.dim * p / (p + 1 - settings.second_beta)

    def step_share(self, settings: Settings, noise: Noise) -> Tensor:
        """1: steps at ``y`` have no memory."""
        del settings
        return torch.ones_like(noise.update_probability)

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """The recursion of second moments, from the first step on, or from z as it is; NaN where that is not known."""
        beta2, p = settings.second_beta, noise.update_probability
        memory_mean, step_count = norm.square().reciprocal(), float(settings.steps_made)

        def step_square(squared: Tensor, steps: float) -> Tensor:
            """``d·p/(f + (1 - f)·p·R²·w)``, f the weight of the present in the average since the first step."""
            nonlocal memory_mean, step_count
            forgets = (1 - beta2) / (1 - beta2 ** (step_count + 1))
            square: Tensor = noise.dim * p / (forgets + (1 - forgets) * p * (squared * memory_mean).nan_to_num(1, 1, 1))
            memory_mean = memory_mean.lerp(
                squared.reciprocal(), (1 - beta2**steps) / (1 - beta2 ** (step_count + steps))
            )
            step_count += steps
            return square

        return _averaged_path(norm, settings, noise.averages, segments, step_square)


class ScheduleFreeSgdLaw(DecayApart):
    """SGD on ``z`` with gradients and decay at ``y``; the norm is that of ``y``."""

    formula = "R⁴ = (1 - momentum)·lr·V² / (2·lambda_rad) after some 1/((1 - momentum)·lr·lambda) steps"
    growth = "R² grows as that of the running mean of the weights does"
    power = 4
    growth_power = -1
    observed_mean: ObservedMean = "geometric"
    norm_needs: tuple[str, ...] = ("second_moment",)
    path_needs: tuple[str, ...] = ("averages",)

    def source(self, settings: Settings, noise: Noise) -> Tensor:
        """``V²``, as under SGD."""
        return noise.second_moment

    def step_share(self, settings: Settings, noise: Noise) -> Tensor:
        """1: steps at ``y`` have no memory."""
        del settings
        return torch.ones_like(noise.update_probability)

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """The recursion of second moments, from the first step on, or from z as it is; NaN where that is not known."""
        return _averaged_path(
            norm, settings, noise.averages, segments, lambda squared, _: noise.second_moment / squared
        )


def _averaged_path(
    norm: Tensor, settings: Settings, averages: Tensor | None, segments: list[RateSegment], step_square: StepSquare
) -> Tensor:
    """``|y|`` after the segments, from z as it is; at the first step ``z`` and ``x`` are one.

    Over m steps in which y changes little, ``z`` loses ``m·lr·lambda·y`` and gains m independent steps, of which the
    mean of the m points holds the share ``(m + 1)/(2m)``, and ``(m + 1)·(2m + 1)/(6m²)`` of their square.
    """
    beta, step_count = settings.first_beta, float(settings.steps_made)
    zz = zx = xx = norm.square()
    if step_count and segments:
        if averages is None:
            return torch.full_like(norm, torch.nan)
        zz, zx, xx = _products(norm, averages, beta)
    for steps, effective_lr, effective_square in segments:
        lr_squared = effective_square / (1 - beta) ** 2
        decay = settings.decay_share(effective_lr, effective_square) / (1 - beta)
        left = float(steps)
        while left > 0:
            m = min(left, max(1.0, _FINEST * min(step_count, 1 / decay if decay else step_count)))
            c, half, a = m / (step_count + m), (m + 1) / (2 * m), decay * m
            zy, xy = (1 - beta) * zz + beta * zx, (1 - beta) * zx + beta * xx
            yy = (1 - beta) * zy + beta * xy
            noise = lr_squared * step_square(yy, m) * m
            # of the next z with the mean of the points on the way there, and of that mean with itself
            cross = zz - (1 + half) * a * zy + half * a**2 * yy + noise * half
            mean = zz - 2 * half * a * zy + (half * a) ** 2 * yy + noise * (m + 1) * (2 * m + 1) / (6 * m**2)
            xx = (1 - c) ** 2 * xx + 2 * c * (1 - c) * (zx - half * a * xy) + c**2 * mean
            zx = (1 - c) * (zx - a * xy) + c * cross
            zz = zz - 2 * a * zy + a**2 * yy + noise
            step_count, left = step_count + m, left - m
    norm_squared: Tensor = (1 - beta) ** 2 * zz + 2 * beta * (1 - beta) * zx + beta**2 * xx
    return norm_squared.sqrt()


def _products(norm: Tensor, averages: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """``<z, z>``, ``<z, x>`` and ``<x, x>``, x being ``(y - (1 - beta)·z)/beta``."""
    zz, zy = averages.to(norm).unbind(1)
    if not beta:
        return zz, zz, zz  # y is z, and x moves nothing
    zx = (zy - (1 - beta) * zz) / beta
    xx = (norm.square() - (1 - beta) * (2 * zy - (1 - beta) * zz)) / beta**2
    return zz, zx, xx


LAWS: dict[Family, Law] = {
    "schedule_free_adamw": ScheduleFreeAdamWLaw(),
    "schedule_free_sgd": ScheduleFreeSgdLaw(),
}
