"""Laws of steps divided by the root of remembered squares: AdamW, with decay apart, and Adam with coupled decay."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

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
    direction_noise,
    direction_rate,
    overlap_noise,
    telescoped_noise,
)
from lightning_normdyn.core.dynamics.path_response import Coupling, PathResponse, SharedNoise
from lightning_normdyn.core.dynamics.rates import RateSegment
from lightning_normdyn.core.dynamics.shot_noise import ShotNoise, shot_noise, touch_noise

_FINEST = 0.1
"""Substep of a numerical path, as a share of the time in which anything changes."""
_NEARBY = 1.02
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
        return plain * _amendment(settings, noise) * _decayed_persistence(settings, noise, share)

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """``R² <- (1 - a)²·R² + e²·d·p/(1 - beta2 + p·R²·w)``, with ``w`` the remembered mean of ``1/R²``.

        Gradients shrink as 1/R, so while R grows Adam still divides by the larger ones of a shorter row. The average
        ``w`` forgets over 1/(1 - beta2) steps and is taken to have settled at the start; at rest ``w = 1/R²``.
        """
        return end_of(norm, self._course(norm, settings, noise, segments))

    @staticmethod
    def _course(norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Iterator[Stretch]:
        forgets = 1 - settings.second_beta
        p, squared, amendment = noise.update_probability, norm.square(), _amendment(settings, noise)
        memory_mean = squared.reciprocal()
        for steps, lr, lr_squared in segments:
            substeps = math.ceil(max(1.0, min(steps, steps * forgets / _FINEST)))
            span = steps / substeps
            share = settings.decay_share(lr, lr_squared)
            step_retention = max(0.0, 1 - share) ** 2
            persistence = _decayed_persistence(settings, noise, share)
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

        Momentum hands the norm a touch late, when the memory has forgotten a part of it, see :func:`_left_in_memory`.
        A memory of few gradients holds them longer, and what a touch makes varies with what it finds there:
        :class:`_Chance`.
        """
        if noise.kurtosis is None or settings.radial_decay <= 0 or not 0 < settings.second_beta < 1:
            return None
        rate, chance = settings.lr * settings.radial_decay, _Chance.of(settings, noise)
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
        varies, low = _from_kurtosis(settings, noise, sampling.readings)
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
        chance = _Chance.of(settings, noise)
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
        growth, decay = _growth_and_decay(settings, noise)
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
        growth_share, decay_share = _growth_and_decay(settings, noise)
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
        rate, chance = self._relative_decay(settings, noise), _Chance.of(settings, noise)
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
        width, mean = telescoped_noise(_direction_variance(settings, noise, rate), noise.dim, rate, sampling.steps)
        errors = errors._replace(width=(errors.width.square() + width).sqrt(), observed=errors.observed + mean)
        shift = _shift(errors.width.square(), rate * (touches + sizes))
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
        chance = _Chance.of(settings, noise)
        touches, sizes, memory, left, forgets = chance.touches, chance.sizes, chance.memory, chance.left, chance.forgets
        response = PathResponse(touches, 3, forgets / 2 * (touches + sizes + chance.unequal))
        remainder, last_rate = torch.ones_like(touches), torch.zeros_like(touches)
        settled = _direction_variance(settings, noise, _SLOW) / (2 * direction_rate(_SLOW, noise.dim))
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
                (SharedNoise(1.0, 1.0, _direction_variance(settings, noise, rate)),),
                0.0,
            )
            remainder = remainder * stretch.inherited
        gains = response.gains()
        bias = (touches * gains[0] + sizes * gains[1]) / sampling.readings / 2
        inaccuracy = self.accuracy * (1 - remainder) + ROUNDING
        errors = response.errors(sampling, inaccuracy, bias, (*gains[:2], 0.0))
        errors = errors._replace(observed=errors.observed + direction.variance)
        shift = _shift(errors.observed, last_rate * (touches + sizes)) * (1 - remainder)
        return errors._replace(log_bias=bias + shift)

    def judges(self, settings: Settings, noise: Noise, sampling: Sampling) -> Tensor:
        """Rows of 20 gradients' worth of information and 3 in the second moment, that decay does not outrun."""
        p, rate, kurtosis = noise.update_probability, self._relative_decay(settings, noise), known_kurtosis(noise)
        is_read = p / kurtosis * sampling.readings >= 20
        return is_read & (p >= 3 * (1 - settings.second_beta)) & (rate <= 0.005 * p)

    def _relative_decay(self, settings: Settings, noise: Noise) -> Tensor:
        """``a = lr²·d·S'/(2·R²)``: the share of a settled norm that decay takes in a step."""
        norm = (settings.lr / (2 * settings.radial_decay) * self.source(settings, noise)).pow(1 / 3)
        return settings.lr**2 * noise.dim * _growth_and_decay(settings, noise)[0] / (2 * norm.square())


def _shot_noise_of(settings: Settings, noise: Noise) -> ShotNoise:
    assert noise.kurtosis is not None
    return shot_noise(noise.update_probability, settings.second_beta, noise.kurtosis, noise.dim)


def _amendment(settings: Settings, noise: Noise) -> Tensor:
    """``S·T`` over ``alpha/(1 + alpha)``; 1 where nobody knows the kurtosis."""
    p, forgets = noise.update_probability, 1 - settings.second_beta
    if noise.kurtosis is None or not 0 < forgets < 1:
        return torch.ones_like(p)
    chance = _shot_noise_of(settings, noise).gain * (p + forgets) / p
    return (chance * _tail(settings, noise)).nan_to_num(1)


def _tail(settings: Settings, noise: Noise) -> Tensor:
    """``T``, by which steps grow since momentum moves a row after its gradient too, ``[n]``.

    With ``alpha = p/(1 - beta2)``: of a rare row the second moment falls meanwhile, ``t``; of a frequent one it forgets
    the gradient itself, which stands out by ``3/alpha``, and its chance averages out over the momentum, ``c/alpha``::

        t = [(1 - beta1)/(1 - beta1/sqrt(beta2))]²,    T = 1 + (t - 1)/(1 + (t - 1)·alpha/c) + K/d·alpha/(1 + alpha)
        c = (3 - p)·[1 - m - (1 - m·(1 + beta1·beta2)/(1 + beta1))/8],    m = (1 - beta1)/(1 - beta1·beta2)

    And it knows the walk of the last few steps, as far as it remembers them: it is smaller, as ``1 - z_i²``, in the
    numbers in which the row became long. That pushes outwards, ``K = 2·(1 - beta2)·beta1/((1 + beta1)·(1 -
    beta1·beta2))``.
    """
    p, (first, second) = noise.update_probability, (settings.first_beta, settings.second_beta)
    alpha = p / (1 - second)
    rare = ((1 - first) / (1 - first / math.sqrt(second))) ** 2 - 1
    mean = (1 - first) / (1 - first * second)
    frequent = (3 - p) * (1 - mean - (1 - mean * (1 + first * second) / (1 + first)) / 8)
    walk = 2 * (1 - second) * first / ((1 + first) * (1 - first * second)) / noise.dim
    return 1 + rare / (1 + rare * alpha / frequent.clamp(min=1e-12)) + walk * alpha / (1 + alpha)


def _decayed_persistence(settings: Settings, noise: Noise, share: float) -> float:
    """``P``, by which decay by a share a step shortens steps that momentum makes alike; 1 in the plain law."""
    if noise.kurtosis is None:
        return 1.0
    first = settings.first_beta
    later = first * (1 - share)
    return (1 - first) * (1 + later) / ((1 + first) * (1 - later))


def _left_in_memory(settings: Settings, noise: Noise) -> Tensor:
    """What the second moment still has of a gradient by the time that momentum has moved the row, ``[n]``.

    Of the ``R²`` that a gradient adds, ``(1 - beta1^k)²`` is there after k steps: on average it comes after
    ``2·beta1/(1 - beta1) - beta1²/(1 - beta1²)``, and ``beta2`` to that is left. A rare row has nothing else in its
    memory, so the loss counts for the share ``alpha/(1 + alpha)``.
    """
    first, alpha = settings.first_beta, noise.update_probability / (1 - settings.second_beta)
    delay = 2 * first / (1 - first) - first**2 / (1 - first**2)
    return 1 - (1 - math.pow(settings.second_beta, delay)) * alpha / (1 + alpha)


def _growth_and_decay(settings: Settings, noise: Noise) -> tuple[Tensor, Tensor]:
    """``S'`` and ``D`` under coupled decay; 1 where nobody knows the kurtosis.

    Besides chance, v knows the direction z of the row, since ``E g_i²`` goes as ``1 - z_i²``: where a row is long,
    decay is divided by less. That adds ``k·(d - 1)/(d·(d + 2))``, with ``k = f/(f + 2·a)`` for the part of the memory
    over which directions last.
    """
    p, forgets, dim = noise.update_probability, 1 - settings.second_beta, noise.dim
    if noise.kurtosis is None or not 0 < forgets < 1:
        return torch.ones_like(p), torch.ones_like(p)
    growth = _amendment(settings, noise) * p / (p + forgets)
    plain_cube = settings.lr / (2 * settings.radial_decay or math.inf) * (dim * noise.second_moment).sqrt()
    turning = settings.lr**2 * dim / plain_cube.pow(2 / 3)
    knowledge = (forgets / (forgets + turning)).nan_to_num(0) * (dim - 1) / (dim * (dim + 2))
    return growth, _shot_noise_of(settings, noise).decay * (1 + knowledge)


class _Chance(NamedTuple):
    """What rows owe to when they get gradients and how large these are, to second order. Tensors are ``[n]``.

    Attributes:
        touches: variance a step of whether there is a gradient, ``(1 - p)/p``.
        sizes: of how large it is, ``(kappa - 1)/p``.
        saturated: what that comes to in the growth of a row, which a large gradient does not make in proportion.
        unequal: of what a gradient makes, by how much is in memory. Where a gradient makes more, it also is more of
            the memory, so that what it then takes off later growth is in proportion: as with the touch itself.
        memory: ``A``, 1 less the elasticity: by how much a touch lessens later growth in all.
        left: see :func:`_left_in_memory`.
        forgets: the rate at which the memory's effect on growth fades.
        lasting: variance a step of what the sizes of gradients make in the long run.
        turned: share of a step that is not along the gradient.
    """

    touches: Tensor
    sizes: Tensor
    saturated: Tensor
    unequal: Tensor
    memory: Tensor
    left: Tensor
    forgets: Tensor
    lasting: Tensor
    turned: Tensor

    @classmethod
    def of(cls, settings: Settings, noise: Noise) -> _Chance:
        assert noise.kurtosis is not None
        p, dim, second_beta = noise.update_probability, noise.dim, settings.second_beta
        of_touch = touch_noise(p, second_beta, noise.kurtosis, dim)
        sizes, alpha = (known_kurtosis(noise) - 1) / p, p / (1 - second_beta)
        # numbers of a direction have less to tell them apart than Gaussian ones, which counts where there are many
        fixed_length = 1 - (1 - dim * max(dim - 2, 0) / max(dim**2 - 1, 1)) * alpha / (1 + alpha)
        return cls(
            touches=(1 - p) / p,
            sizes=sizes,
            saturated=sizes * of_touch.sizes,
            unequal=of_touch.memory / p,
            memory=1 - _shot_noise_of(settings, noise).elasticity,
            left=_left_in_memory(settings, noise),
            forgets=of_touch.forgetting * (1 - second_beta),
            lasting=of_touch.lasting / p,
            turned=of_touch.turned * fixed_length * _averaged(settings, alpha),
        )

    def apart(self, settings: Settings, noise: Noise, rate: Tensor | float, *, telescopes: bool = False) -> Tensor:
        """What ``log R`` gains in a step from the overlap in the momentum, sizes and the radial part of steps.

        At a growth by the share ``rate`` of ``2·R²`` a step. What numbers of a row do alike, when they get gradients
        and how large these are, turns nothing; the rest does, ``2·rate·turned/d``, and so does what v knows of the
        row's direction, which is left out where it ``telescopes``.
        """
        radial = 2 * rate * self.turned / noise.dim
        direction = 0.0 if telescopes else _direction_variance(settings, noise, rate)
        return rate**2 * (overlap_noise(settings.first_beta, noise.dim) + self.lasting) + radial + direction


def _from_kurtosis(settings: Settings, noise: Noise, readings: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and mean of what AdamW's law errs by since it takes the kurtosis from the window, in ``log R``.

    Where ``s²`` is gamma distributed and n gradients were seen, with ``c = kappa - 1``, the estimate of ``kappa`` has
    the mean ``kappa·n/(n + c)`` and the variance ``2·kappa·c²·n²·(n - 1)/[(n + c)²·(n + 2·c)·(n + 3·c)]``, since shares
    of a sum are Dirichlet distributed and independent of the sum.
    """
    kurtosis = torch.as_tensor(known_kurtosis(noise)).to(noise.update_probability)
    gain, nearby = (_shot_noise_of(settings, noise._replace(kurtosis=k * kurtosis)).gain for k in (1.0, _NEARBY))
    slope = (nearby / gain).log() / ((_NEARBY - 1) * kurtosis) / 2
    count, excess = (noise.update_probability * readings).clamp(min=1), kurtosis - 1
    spread = count.square() * (count - 1) / ((count + excess).square() * (count + 2 * excess) * (count + 3 * excess))
    return slope.square() * 2 * kurtosis * excess.square() * spread, -slope * kurtosis * excess / (count + excess)


def _averaged(settings: Settings, alpha: Tensor) -> Tensor:
    """What momentum leaves of the chance in v, since a gradient moves the row over several steps, ``[n]``.

    With the weights ``(1 - beta1)·beta1^k`` a mean of what forgets as ``beta2^k`` has the share ``(1 - beta1)·(1 +
    beta1·beta2)/[(1 + beta1)·(1 - beta1·beta2)]`` of its variance. A rare row meets nothing new meanwhile.
    """
    first, beta_product = settings.first_beta, settings.first_beta * settings.second_beta
    return 1 - (1 - (1 - first) * (1 + beta_product) / ((1 + first) * (1 - beta_product))) * alpha / (1 + alpha)


def _direction_variance(settings: Settings, noise: Noise, rate: Tensor | float) -> Tensor:
    """What ``log R`` gains in a step since v knows the direction of the row, ``[n]``.

    Steps are longer by ``z_i²/2`` in the numbers in which the row is long, as far as that lasts as long as the memory,
    ``k = f/(f + 2·rate)``, and have the part ``sum of z_i·g_i·w_i/2`` along it. Of the remembered squares ``w_i`` the
    share k is what ``z_i²`` is now and the rest of their variance has nothing to do with it::

        E[z_i²·w_i²] - E[(z_i²·w_i)²] = k²·[15/((d + 2)·(d + 4)) - 9/(d + 2)²] + k·(1 - k)·2·(d - 1)/(d·(d + 2)²)

    (sums over i), of which a quarter counts.
    """
    forgets, dim = 1 - settings.second_beta, noise.dim
    alpha = noise.update_probability / forgets
    known = forgets / (forgets + 2 * rate)
    before = (dim - 1) / (2 * dim * (dim + 2) ** 2)
    square = known**2 * direction_noise(dim) + known * (1 - known) * before
    variance: Tensor = 2 * rate / dim * square * alpha / (1 + alpha)
    return variance


def _shift(variance: Tensor, touched: Tensor) -> Tensor:
    """How far the mean of ``log R`` lies above the formula of coupled decay, to second order in chance: ``[n]``.

    Norm and memory follow the same gradients, of relative variance c, while growth goes as ``exp(-4·x - u)`` and decay
    as ``exp(-u/2)``, with x the departure of ``log R`` and u that of the memory, ``n - 2·<x>``, ``<x>`` what it
    remembers of x and n the noise in it. With ``E[x·n] = 3/4·a·c`` and ``E[<x>·n] = 3/8·a·c``, a the share that decay
    takes in a step, what growth gains by the curvature of both makes ``Var(x)/2 + 11/16·a·c``.

    Args:
        variance: of ``log R``, ``[n]``.
        touched: ``a·c``, ``[n]``.
    """
    return variance / 2 + 11 / 16 * touched


LAWS: dict[Family, Law] = {"adamw": AdamWLaw(), "adam": CoupledAdamLaw()}
