"""Laws of steps divided by the root of remembered squares: AdamW, with decay apart, and Adam with coupled decay."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.adam_chance import (
    GradientChance,
    decayed_persistence,
    direction_variance,
    growth_and_decay,
    growth_by_chance,
    kurtosis_errors,
    mean_shift,
)
from lightning_normdyn.core.dynamics.law import (
    ROUNDING,
    CommonLaw,
    DecayApart,
    Law,
    ObservedMean,
    Stretch,
    end_of,
    known_kurtosis,
    often_met,
    repeats,
)
from lightning_normdyn.core.dynamics.law_inputs import Noise, Settings
from lightning_normdyn.core.dynamics.laws import Family
from lightning_normdyn.core.dynamics.norm_errors import (
    LinearResponse,
    NormErrors,
    Sampling,
    direction_rate,
    telescoped_noise,
)
from lightning_normdyn.core.dynamics.path_response import Coupling, PathResponse, SharedNoise
from lightning_normdyn.core.dynamics.rates import RateSegment

_FINEST = 0.1
"""Substep of a numerical path, as a share of the time in which anything changes."""
_SLOW = 1e-9
"""A rate at which directions outlast every memory."""


class AdamWLaw(DecayApart):
    """Steps of a size of their own, decay apart: ``R²`` relaxes linearly once the second moment has settled.

    Directions turn by ``sqrt(2·lr·lambda·(1 - beta1)/(1 + beta1))`` a step.
    """

    formula = "R² = lr·d / (2·lambda_rad) · p / (p + 1 - beta2)"
    growth = "R² grows by lr²·d·p / (p + 1 - beta2) a step"
    power = 2
    growth_power = 0
    observed_mean: ObservedMean = "rms"
    accuracy = 0.002
    norm_needs: tuple[str, ...] = ("dim",)

    def source(self, settings: Settings, noise: Noise) -> Tensor:
        """``d·p/(p + 1 - beta2)``: a rare row divides by a second moment that has partly decayed.

        Where the kurtosis of gradients is known, ``d·S·T·P`` with what is left out of that: the chance in the second
        moment, ``S`` of :func:`~lightning_normdyn.core.dynamics.shot_noise.shot_noise`, and what momentum does
        meanwhile, ``T`` of :func:`_tail`; and decay that takes from steps that are still alike::

            P = (1 - beta1)·(1 + b)/((1 + beta1)·(1 - b)),    b = beta1·(1 - lr·lambda)
        """
        p = noise.update_probability
        plain = noise.dim * p / (p + 1 - settings.second_beta)
        share = settings.decay_share(settings.lr, settings.lr**2)
        return plain * growth_by_chance(settings, noise) * decayed_persistence(settings, noise, share)

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """``R² <- (1 - a)²·R² + e²·d·p/(1 - beta2 + p·R²·w)``, with ``w`` the remembered mean of ``1/R²``.

        Gradients shrink as 1/R, so while R grows Adam still divides by the larger ones of a shorter row. The average
        ``w`` forgets over 1/(1 - beta2) steps and is taken to have settled at the start; at rest ``w = 1/R²``.
        """
        return end_of(norm, self._course(norm, settings, noise, segments))

    @staticmethod
    def _course(norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Iterator[Stretch]:
        forgets = 1 - settings.second_beta
        p, squared, amendment = noise.update_probability, norm.square(), growth_by_chance(settings, noise)
        memory_mean = squared.reciprocal()
        for steps, lr, lr_squared in segments:
            substeps = math.ceil(max(1.0, min(steps, steps * forgets / _FINEST)))
            span = steps / substeps
            share = settings.decay_share(lr, lr_squared)
            step_retention = max(0.0, 1 - share) ** 2
            persistence = decayed_persistence(settings, noise, share)
            retention, memory = step_retention**span, settings.second_beta**span
            gain = repeats(step_retention, retention, span)
            for _ in range(substeps):
                source = p / (forgets + p * (squared * memory_mean).nan_to_num(1, 1, 1))
                growth = lr_squared * noise.dim * amendment * persistence * source
                memory_mean = memory * memory_mean + (1 - memory) / squared
                before, squared = squared, retention * squared + gain * growth
                yield Stretch(span, before, squared, growth, retention)

    def errors(self, settings: Settings, noise: Noise, sampling: Sampling) -> NormErrors | None:
        """Norm and second moment together: touches move both at once, and so cancel in frequent rows.

        With ``r = lr·lambda``, ``f = 1 - beta2`` and ``1 - A = d ln S/d ln p``, near ``1/(1 + alpha)``::

            d log R = -2r·(1 + A)·log R - r·A·u + r·(touches + A·sizes + apart)
            du      = -2f·log R - f·u + f·(touches + sizes)

        Momentum hands the norm a touch late, when the memory has forgotten a part of it, see :func:`left_in_memory`.
        A memory of few gradients holds them longer, and what a touch makes varies with what it finds there:
        :class:`GradientChance`.
        """
        if noise.kurtosis is None or settings.radial_decay <= 0 or not 0 < settings.second_beta < 1:
            return None
        rate, chance = settings.lr * settings.radial_decay, GradientChance.of(settings, noise)
        touches, memory, left, forgets = chance.touches, chance.memory, chance.left, chance.forgets
        of_touch = (rate * (1 - memory * (1 - left)), forgets * left)
        response = LinearResponse.of(
            matrix=((-2 * rate * (1 + memory), -rate * memory), (-2 * forgets, -forgets)),
            inputs=(
                (of_touch[0], rate * memory * left, of_touch[0], rate),
                (of_touch[1], forgets * left, of_touch[1], 0.0),
            ),
            noise=(touches, chance.saturated, chance.unequal, chance.apart(settings, noise, rate) / rate**2),
            gain=((1 - memory) / 2, 0.0, 0.0, 0.0),
        )
        errors = response.errors(sampling.steps, touches / sampling.readings * (1 - memory.square()) / 4)
        unread = touches * (1 - memory).square() / 4 * (1 / sampling.readings - 1 / sampling.steps)
        varies, low = kurtosis_errors(settings, noise, sampling.readings)
        # the law is of the mean of R², and the logarithm of a mean that varies is low by half its variance
        bias = errors.log_bias - errors.observed - low
        return errors._replace(predicted=errors.predicted + unread + varies, log_bias=bias)

    def path_errors(
        self,
        start: Tensor,
        end: Tensor,
        settings: Settings,
        noise: Noise,
        sampling: Sampling,
        segments: list[RateSegment],
    ) -> NormErrors | None:
        """The same system along the path, where growth is the share ``r`` of ``2·R²`` that each step adds.

        The second moment at the start is the one thing that is not known there.
        """
        if noise.kurtosis is None or not 0 < settings.second_beta < 1:
            return None
        chance = GradientChance.of(settings, noise)
        touches, memory, left, forgets = chance.touches, chance.memory, chance.left, chance.forgets
        memory_variance = forgets / 2 * (touches + chance.saturated + chance.unequal)
        response, remainder = PathResponse(touches, 3, memory_variance), torch.ones_like(touches)
        for stretch in self._course(start, settings, noise, segments):
            rate = stretch.rate
            of_touch = (rate * (1 - memory * (1 - left)), forgets * left)
            response.advance(
                stretch.steps,
                Coupling(-2 * rate * (1 + memory), -rate * memory, -2 * forgets, -forgets),
                (
                    SharedNoise(*of_touch, touches),
                    SharedNoise(rate * memory * left, forgets * left, chance.saturated),
                    SharedNoise(*of_touch, chance.unequal),
                ),
                chance.apart(settings, noise, rate),
            )
            remainder = remainder * stretch.inherited
        gain = response.gains()[0]
        bias = touches / sampling.readings * gain * (memory + gain)
        inaccuracy = self.accuracy * (1 - remainder) + ROUNDING
        errors = response.errors(sampling, inaccuracy, bias, (gain, 0.0, 0.0))
        return errors._replace(log_bias=bias - errors.observed)

    def judges(self, settings: Settings, noise: Noise, sampling: Sampling) -> Tensor:
        """Rows with 20 gradients, that decay shortens by less than 10% between two of them."""
        return often_met(settings, noise, sampling)


class CoupledAdamLaw(CommonLaw):
    """Gradient and decay normalised together, as in Adam and RMSprop with coupled decay: ``R³`` settles.

    It relaxes at a rate that depends on the gradient.
    """

    formula = "R³ = lr·sqrt(d)·V / (2·lambda_rad)"
    growth = "R² grows by lr²·d a step"
    power = 3
    growth_power = 0
    observed_mean: ObservedMean = "geometric"
    accuracy = 0.002
    decay_is_separable = False
    norm_needs: tuple[str, ...] = ("second_moment", "dim")
    turn_needs: tuple[str, ...] = norm_needs
    path_needs: tuple[str, ...] = ()
    settles = True

    def source(self, settings: Settings, noise: Noise) -> Tensor:
        """``sqrt(d)·V``, for rows updated more often than once in 1/(1 - beta2) steps.

        Where the kurtosis of gradients is known, ``sqrt(d)·V·S'/D``: growth is less by ``S'``, that of AdamW's law, and
        decay more by ``D = sqrt(E v)·E[v^(-1/2)]``, see
        :func:`~lightning_normdyn.core.dynamics.shot_noise.shot_noise`. For rows with less than half a gradient in
        memory ``D`` is infinite: nothing then holds them against decay.
        """
        growth, decay = growth_and_decay(settings, noise)
        return math.sqrt(noise.dim) * noise.second_moment.sqrt() * growth / decay

    def turn(self, settings: Settings, noise: Noise) -> Tensor:
        """``e·sqrt(d·q)/R``: short rows, with little noise, turn faster."""
        norm = (settings.lr / (2 * settings.radial_decay) * self.source(settings, noise)).pow(1 / 3)
        return settings.lr * math.sqrt(noise.dim * settings.step_share) / norm

    def decay_for_turn(self, angle: float, settings: Settings, noise: Noise) -> Tensor:
        """``e·source/(2·R³)`` for the norm ``R = e·sqrt(d·q)/angle``."""
        norm = settings.lr * math.sqrt(noise.dim * settings.step_share) / angle
        return settings.lr * self.source(settings, noise) / (2 * norm**3)

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """Integrates ``dR³/dt = -3·e·lambda·sqrt(d)·R⁴·D/V + 1.5·e²·d·R·S'``, exactly for R frozen within a substep.

        Adam normalises noise and decay together, so ``V`` is ``sqrt(V² + lambda²·R⁴)`` here: a row without gradients
        then shrinks by ``e·sqrt(d)`` a step instead of vanishing at once.
        """
        return end_of(norm, self._course(norm, settings, noise, segments))

    @staticmethod
    def _course(
        norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment], substeps: int = 8
    ) -> Iterator[Stretch]:
        cube, root = norm.pow(3), math.sqrt(noise.dim)
        growth_share, decay_share = growth_and_decay(settings, noise)
        tiny = torch.finfo(norm.dtype).tiny
        for steps, lr, lr_squared in segments:
            count = min(steps, substeps)
            span = steps / count
            for _ in range(count):
                radius = cube.pow(1 / 3)
                scale = (
                    (noise.second_moment + (settings.radial_decay * radius.square()).square()).sqrt().clamp(min=tiny)
                )
                share = settings.decay_share(lr, lr_squared) * root * radius * decay_share / scale
                exponent = -3 * share * span
                # expm1(x)/x tends to 1 without decay
                mean_retention = torch.where(exponent < 0, torch.expm1(exponent) / exponent, 1.0)
                growth = lr_squared * noise.dim * growth_share
                cube = cube * exponent.exp() + 1.5 * growth * radius * span * mean_retention
                yield Stretch(span, radius.square(), cube.pow(2 / 3), growth, (exponent * (2 / 3)).exp())

    def errors(self, settings: Settings, noise: Noise, sampling: Sampling) -> NormErrors | None:
        """Norm and second moment together, with ``a = lr²·d·S'/(2·R²)``, ``f = 1 - beta2`` and A as under AdamW.

        Decay falls as ``v^(-1/2)``::

            d log R = a·(-2·(1 + A)·log R - (A - 1/2)·u + touches + A·sizes + apart)
            du      = f·(touches + sizes - 2·log R - u)
        """
        if noise.kurtosis is None or settings.radial_decay <= 0 or not 0 < settings.second_beta < 1:
            return None
        rate, chance = self._relative_decay(settings, noise), GradientChance.of(settings, noise)
        touches, sizes, memory, left, forgets = chance.touches, chance.sizes, chance.memory, chance.left, chance.forgets
        tilt = memory - 0.5
        gains = ((1 - tilt) / 3, torch.full_like(memory, 1 / 6))
        of_touch = (rate * (1 - tilt * (1 - left)), forgets * left)
        apart = chance.apart(settings, noise, rate, telescopes=True)
        response = LinearResponse.of(
            matrix=((-2 * rate * (1 + memory), -rate * tilt), (-2 * forgets, -forgets)),
            inputs=(
                (of_touch[0], rate * (memory - tilt * (1 - left)), of_touch[0], rate),
                (of_touch[1], forgets * left, of_touch[1], 0.0),
            ),
            noise=(touches, sizes, chance.unequal, apart / rate.square()),
            gain=(*gains, 0.0, 0.0),
        )
        errors = response.errors(sampling.steps, (touches + sizes) / sampling.readings / 12)
        width, mean = telescoped_noise(direction_variance(settings, noise, rate), noise.dim, rate, sampling.steps)
        errors = errors._replace(width=(errors.width.square() + width).sqrt(), observed=errors.observed + mean)
        shift = mean_shift(errors.width.square(), rate * (touches + sizes))
        errors = errors._replace(log_bias=errors.log_bias + shift)
        unread = touches * gains[0].square() + sizes * gains[1].square()
        return errors._replace(predicted=errors.predicted + unread * (1 / sampling.readings - 1 / sampling.steps))

    def path_errors(
        self,
        start: Tensor,
        end: Tensor,
        settings: Settings,
        noise: Noise,
        sampling: Sampling,
        segments: list[RateSegment],
    ) -> NormErrors | None:
        """The same system along the path, growth and decay being what they are there."""
        if noise.kurtosis is None or not 0 < settings.second_beta < 1:
            return None
        chance = GradientChance.of(settings, noise)
        touches, sizes, memory, left, forgets = chance.touches, chance.sizes, chance.memory, chance.left, chance.forgets
        response = PathResponse(touches, 3, forgets / 2 * (touches + sizes + chance.unequal))
        remainder, last_rate = torch.ones_like(touches), torch.zeros_like(touches)
        settled = direction_variance(settings, noise, _SLOW) / (2 * direction_rate(_SLOW, noise.dim))
        direction = PathResponse(touches, 1, settled)
        for stretch in self._course(start, settings, noise, segments, substeps=16):
            rate, decay = stretch.rate, -torch.as_tensor(stretch.retention).log() / (2 * stretch.steps)
            tilt, last_rate = rate * memory - decay / 2, rate
            of_touch = (rate - tilt * (1 - left), forgets * left)
            response.advance(
                stretch.steps,
                Coupling(-2 * rate * (1 + memory), -tilt, -2 * forgets, -forgets),
                (
                    SharedNoise(*of_touch, touches),
                    SharedNoise(rate * memory - tilt * (1 - left), forgets * left, sizes),
                    SharedNoise(*of_touch, chance.unequal),
                ),
                chance.apart(settings, noise, rate, telescopes=True),
            )
            direction.advance(
                stretch.steps,
                Coupling(-2 * rate - decay, -4 * decay, 0.0, -direction_rate(rate, noise.dim)),
                (SharedNoise(1.0, 1.0, direction_variance(settings, noise, rate)),),
                0.0,
            )
            remainder = remainder * stretch.inherited
        gains = response.gains()
        bias = (touches * gains[0] + sizes * gains[1]) / sampling.readings / 2
        inaccuracy = self.accuracy * (1 - remainder) + ROUNDING
        errors = response.errors(sampling, inaccuracy, bias, (*gains[:2], 0.0))
        errors = errors._replace(observed=errors.observed + direction.variance)
        shift = mean_shift(errors.observed, last_rate * (touches + sizes)) * (1 - remainder)
        return errors._replace(log_bias=bias + shift)

    def judges(self, settings: Settings, noise: Noise, sampling: Sampling) -> Tensor:
        """Rows of 20 gradients' worth of information and 3 in the second moment, that decay does not outrun."""
        p, rate, kurtosis = noise.update_probability, self._relative_decay(settings, noise), known_kurtosis(noise)
        is_read = p / kurtosis * sampling.readings >= 20
        return is_read & (p >= 3 * (1 - settings.second_beta)) & (rate <= 0.005 * p)

    def _relative_decay(self, settings: Settings, noise: Noise) -> Tensor:
        """``a = lr²·d·S'/(2·R²)``: the share of a settled norm that decay takes in a step."""
        norm = (settings.lr / (2 * settings.radial_decay) * self.source(settings, noise)).pow(1 / 3)
        return settings.lr**2 * noise.dim * growth_and_decay(settings, noise)[0] / (2 * norm.square())


LAWS: dict[Family, Law] = {"adamw": AdamWLaw(), "adam": CoupledAdamLaw()}
