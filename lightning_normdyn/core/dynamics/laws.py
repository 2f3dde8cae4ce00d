"""The laws of the norm, by the way an optimizer sizes its steps.

To add a law: a class here, derived from :class:`~lightning_normdyn.core.dynamics.law.CommonLaw`, which states its
formulas, which mean of the norm they are of and, where that is known, how far chance takes rows from it; its names in
:data:`Family` and :data:`LAWS`; and in :mod:`lightning_normdyn.core.dynamics.optimizers` a rule factory for the
optimizers that obey it. Here are the laws of rows by themselves; those of Adam and its kin, of optimizers for embedding
tables, of optimizers that look at a whole matrix, and of those that average their weights have modules of their own,
each with its ``LAWS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.law import (
    ROUNDING,
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
from lightning_normdyn.core.dynamics.lion import (
    fresh_share,
    pending_growth,
    sign_overlap_noise,
    sign_persistence,
    sign_residue,
)
from lightning_normdyn.core.dynamics.norm_errors import (
    NormErrors,
    Sampling,
    direction_noise,
    one_relaxation,
    overlap_noise,
    settling_share,
)
from lightning_normdyn.core.dynamics.path_response import Coupling, PathResponse, SharedNoise
from lightning_normdyn.core.dynamics.rates import RateSegment

Family = Literal[
    "sgd",
    "adamw",
    "adam",
    "lion",
    "adagrad",
    "rowwise_adagrad",
    "rowwise_adagradw",
    "sparse_adam",
    "muon",
    "adafactor",
    "schedule_free_adamw",
    "schedule_free_sgd",
]
"""How an optimizer sizes its steps: by the gradient (sgd), by its sign-like normalised value with decay apart (adamw),
normalised together with the decay (adam), by the sign alone (lion), and so on. A law's entry in the ``LAWS`` of its
module; :mod:`lightning_normdyn.core.dynamics.families` has them all."""

_NEARBY = 1.05
_FINEST = 0.05
"""Share of a norm that decay takes in a stretch along which errors are followed."""


class SgdLaw(DecayApart):
    """Steps as long as the gradient: ``R⁴`` relaxes linearly.

    Directions turn by ``sqrt(2·lr·lambda/(1 + mu))`` a step in the nominal lr of SGD with momentum mu.
    """

    formula = "R⁴ = lr·V² / (2·lambda_rad)"
    growth = "R⁴ grows by 2·lr²·V² a step"
    power = 4
    growth_power = -1
    observed_mean: ObservedMean = "geometric"
    accuracy = 0.001
    norm_needs: tuple[str, ...] = ("second_moment",)

    def source(self, settings: Settings, noise: Noise) -> Tensor:
        """``V²``."""
        return noise.second_moment

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """``R⁴ <- (1 - a)⁴·R⁴ + 2·(1 - a)²·e²·V²`` with ``a = e·lambda_rad``, summed up over each segment."""
        retention, gain = 1.0, 0.0
        for steps, lr, lr_squared in segments:
            shrink = max(0.0, 1 - settings.decay_share(lr, lr_squared))
            segment_retention = shrink ** (4 * steps)
            segment_gain = 2 * shrink**2 * lr_squared * repeats(shrink**4, segment_retention, steps)
            retention, gain = segment_retention * retention, segment_retention * gain + segment_gain
        return (retention * norm.pow(4) + gain * noise.second_moment).pow(1 / 4)

    def errors(self, settings: Settings, noise: Noise, sampling: Sampling) -> NormErrors | None:
        """``c = kappa/p - 1`` shared, the overlap in the momentum apart; ``tau = 1/(4·e·lambda)``.

        A touch also moves ``log R`` by up to ``j/2``, ``j = kappa·e·lambda/p``, which to second order widens the
        difference from the prediction by ``1 + 3·j·(1 - F)^4`` (fitted to simulations).
        """
        if noise.kurtosis is None or settings.radial_decay <= 0:
            return None
        rate = settings.lr * settings.radial_decay
        shared = _shot_noise(noise)
        apart = overlap_noise(settings.first_beta, noise.dim)
        bias = shared / sampling.readings / 8
        errors = one_relaxation(4, shared, apart, 1 / (4 * rate), sampling, bias)
        jump = rate * (shared + 1)
        widening = (1 + 3 * jump * (1 - settling_share(sampling.steps, 1 / (4 * rate))) ** 4).square() - 1
        return errors._replace(observed=errors.observed + widening * errors.difference)

    def path_errors(
        self,
        start: Tensor,
        end: Tensor,
        settings: Settings,
        noise: Noise,
        sampling: Sampling,
        segments: list[RateSegment],
    ) -> NormErrors | None:
        """``R⁴`` at the end is ``A·R⁴(0) + sum of w·s²``; the prediction has ``V²`` for each ``s²``.

        What the law is right to at best counts for the share of ``R⁴`` that the path has made.
        """
        if noise.kurtosis is None:
            return None
        total, total_square = 0.0, 0.0
        for steps, lr, lr_squared in segments:
            shrink = max(0.0, 1 - settings.decay_share(lr, lr_squared))
            weight, retention = 2 * shrink**2 * lr_squared, shrink**4
            span_retention = retention**steps
            total = span_retention * total + weight * repeats(retention, span_retention, steps)
            squared = weight**2 * repeats(retention**2, span_retention**2, steps)
            total_square = span_retention**2 * total_square + squared
        share = noise.second_moment / end.pow(4)
        scale, inaccuracy = share.square() / 16, (self.accuracy * share * total).square() + ROUNDING**2
        shared, apart = _shot_noise(noise), overlap_noise(settings.first_beta, noise.dim)
        observed = scale * (shared + apart) * total_square + inaccuracy
        predicted = scale * shared * total**2 / sampling.readings
        return NormErrors(
            observed.sqrt(), observed, predicted, scale * shared * total**2 / sampling.steps, 2 * predicted
        )

    def judges(self, settings: Settings, noise: Noise, sampling: Sampling) -> Tensor:
        """Rows with 8 gradients' worth of information, that none of them moves by more than 5%."""
        relative = noise.update_probability / known_kurtosis(noise)
        rate = settings.lr * settings.radial_decay
        return (relative * sampling.readings >= 8) & (rate <= 0.2 * relative)


class LionLaw(DecayApart):
    """Every number of a row moves by lr in every step: ``R²`` relaxes linearly, and rare rows walk the longest.

    Directions turn by ``sqrt(2·lr·lambda/F)`` a step, F the persistence of the sign.
    """

    formula = "R² = lr·d·F / (2·lambda_rad), F the persistence of the sign"
    growth = "R² grows by lr²·d·F a step, F the persistence of the sign"
    power = 2
    growth_power = 0
    observed_mean: ObservedMean = "rms"
    accuracy = 0.004
    norm_needs: tuple[str, ...] = ("dim",)

    def source(self, settings: Settings, noise: Noise) -> Tensor:
        """``d·F``, see :func:`lightning_normdyn.core.dynamics.lion.sign_persistence`.

        Times ``1 + k·w·(d - 1)/(d·(d + 2))``: gradients of a row are weaker in the numbers in which the row is long, as
        ``1 - z_i²``, and signs do not care, so that outward steps are larger. ``k = p/(p + 1 - beta2)`` is the part of
        the memory that has many gradients in it, and ``w`` how much of the walk a mean over the memory knows: all of it
        the gradient of the same step, 2/3 those before.
        """
        return noise.dim * self._persistence(settings, noise)

    def step_share(self, settings: Settings, noise: Noise) -> Tensor:
        """``1/F``: a step is as long as any other, whatever came before."""
        return self._persistence(settings, noise).reciprocal()

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """``R² <- (1 - a)²·R² + e²·d·F``, summed up over each segment."""
        return end_of(norm, self._course(norm, settings, noise, segments))

    def _course(
        self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment], finest: float = math.inf
    ) -> Iterator[Stretch]:
        """In stretches in which decay takes no more than a share ``finest`` of the norm."""
        squared = norm.square()
        persistence, lag = self._undecayed_persistence(settings, noise)
        for steps, lr, lr_squared in segments:
            share = settings.decay_share(lr, lr_squared)
            source = noise.dim * persistence / (1 + share * lag)
            step_retention = max(0.0, 1 - share) ** 2
            count = min(steps, max(1, math.ceil(steps * share / finest)))
            span = steps / count
            retention = step_retention**span
            growth, gain = lr_squared * source, repeats(step_retention, retention, span)
            for _ in range(count):
                before, squared = squared, retention * squared + gain * growth
                yield Stretch(span, before, squared, growth, retention)

    def decay_for_norm(self, norm: float, settings: Settings, noise: Noise) -> Tensor:
        """The root of ``a·(1 + a·lag) = lr²·d·F/(2·R²)`` over lr."""
        return self._decay_share(settings.lr**2 * noise.dim / norm**2, settings, noise) / settings.lr

    def decay_for_turn(self, angle: float, settings: Settings, noise: Noise) -> Tensor:
        """The root of ``a·(1 + a·lag) = angle²·F/2`` over lr."""
        return self._decay_share(angle**2, settings, noise) / settings.lr

    def _decay_share(self, squared_step: float, settings: Settings, noise: Noise) -> Tensor:
        """The share that decay takes where a step is so long against the norm."""
        persistence, lag = self._undecayed_persistence(settings, noise)
        growth: Tensor = squared_step * persistence / 2
        return 2 * growth / (1 + (1 + 4 * lag * growth).sqrt())

    def errors(self, settings: Settings, noise: Noise, sampling: Sampling) -> NormErrors | None:
        """One relaxation time, ``1/(2·lr·lambda)``.

        With ``l = d log F/d log p`` the prediction shares ``l²·(1 - p)/p``. Apart from it vary the lengths of straight
        walks, by as much again (exactly for rare rows, whose walks last 1/p steps, and not at all for frequent ones; an
        interpolation between), the overlap of what the average holds
        (:func:`~lightning_normdyn.core.dynamics.lion.sign_overlap_noise`), and the radial part of signs, ``2·r/d`` of
        :func:`~lightning_normdyn.core.dynamics.lion.sign_residue` over ``F`` and of
        :func:`~lightning_normdyn.core.dynamics.norm_errors.direction_noise`.
        """
        if settings.radial_decay <= 0 or not 0 < settings.second_beta < 1:
            return None
        rate = settings.lr * settings.radial_decay
        p, relaxation = noise.update_probability, 1 / (2 * rate)
        elasticity = self._elasticity(settings, noise)
        shared = elasticity.square() * (1 - p) / p
        apart = self._apart(settings, noise, elasticity)(rate, False) / rate**2
        bias = elasticity * (1 - p) / p / sampling.readings / 4
        errors = one_relaxation(2, shared, apart, relaxation, sampling, bias)
        return errors._replace(log_bias=bias - errors.observed)  # since the law is of the mean of R²

    def path_errors(
        self,
        start: Tensor,
        end: Tensor,
        settings: Settings,
        noise: Noise,
        sampling: Sampling,
        segments: list[RateSegment],
    ) -> NormErrors | None:
        """The same along the path, where growth is the share ``r`` of ``2·R²`` that each step adds."""
        if not 0 < settings.second_beta < 1:
            return None
        p, elasticity = noise.update_probability, self._elasticity(settings, noise)
        touches, apart = (1 - p) / p, self._apart(settings, noise, elasticity)
        response, remainder = PathResponse(touches, 1), torch.ones_like(touches)
        for stretch in self._course(start, settings, noise, segments, finest=_FINEST):
            rate = stretch.rate
            shared = SharedNoise(rate * elasticity, 0.0, touches)
            response.advance(stretch.steps, Coupling(-2 * rate), (shared,), apart(rate, True))
            remainder = remainder * stretch.inherited
        gains = response.gains()
        bias = touches / sampling.readings * gains[0] * (1 - elasticity + 2 * gains[0]) / 2
        errors = response.errors(sampling, self.accuracy * (1 - remainder) + ROUNDING, bias, gains)
        return errors._replace(log_bias=bias - errors.observed)

    def _elasticity(self, settings: Settings, noise: Noise) -> Tensor:
        """``d log F/d log p``."""
        nearby = noise._replace(update_probability=noise.update_probability / _NEARBY)
        change = (self._persistence(settings, noise) / self._persistence(settings, nearby)).log()
        return change / math.log(_NEARBY)

    def _apart(self, settings: Settings, noise: Noise, elasticity: Tensor) -> Callable[[Tensor | float, bool], Tensor]:
        """What ``log R`` gains in a step from lengths of walks, overlap and the radial part of signs, by the rate.

        At one time, as at the end of a path, a walk of 1/p steps is not all there yet: one that decays by r a step and
        turns with the chance p has ``Var(R²) = E(R²)²·(2·r/p)·s``, ``s = 1/[(1 + 2·r/p)·(1 + 3·r/p)]``, since its
        moments are closed. That is so for what is shared too, so that ``2·s - 1`` is left here.

        What a sign has that is not along c, and that a step with a gradient makes anew, meets the row as it will be
        when all that is in memory has moved it, which is longer by ``2·r`` times
        :func:`~lightning_normdyn.core.dynamics.lion.pending_growth`.
        """
        p, dim = noise.update_probability, noise.dim
        betas, size = (settings.first_beta, settings.second_beta), _size_kurtosis(noise)
        walks, overlap = elasticity.square() * (1 - p) / p, sign_overlap_noise(*betas, p, dim, kurtosis=size)
        residue = sign_residue(*betas, p, kurtosis=size) / sign_persistence(*betas, p, kurtosis=size)
        pending = 2 * p * pending_growth(*betas, p, kurtosis=size)
        direction = direction_noise(dim) * p / (p + 1 - settings.second_beta)

        def variance(rate: Tensor | float, at_one_time: bool) -> Tensor:
            decayed = 1 / (1 + 2 * rate / p)
            share = 2 * decayed / (1 + 3 * rate / p) - 1 if at_one_time else decayed
            return rate**2 * (walks * share.clamp(min=0) + overlap) + 2 * rate / dim * (
                residue * (1 + rate * pending) + direction
            )

        return variance

    def judges(self, settings: Settings, noise: Noise, sampling: Sampling) -> Tensor:
        """Rows with 20 gradients, that decay shortens by less than 10% between two of them."""
        return often_met(settings, noise, sampling)

    def _persistence(self, settings: Settings, noise: Noise) -> Tensor:
        persistence, lag = self._undecayed_persistence(settings, noise)
        return persistence / (1 + settings.lr * settings.radial_decay * lag)

    @staticmethod
    def _undecayed_persistence(settings: Settings, noise: Noise) -> tuple[Tensor, Tensor]:
        """``F`` without decay, and the mean lag of what persists: with a share ``a`` it is ``F/(1 + a·lag)``."""
        p, forgets, dim = noise.update_probability, 1 - settings.second_beta, noise.dim
        betas, share = (settings.first_beta, settings.second_beta), forgets / 20
        without, within = (
            sign_persistence(*betas, p, kurtosis=_size_kurtosis(noise), decay=decay) for decay in (0.0, share)
        )
        lag = ((without / within - 1) / share).nan_to_num(0)
        knowledge = p / (p + forgets) * (1 - (1 - fresh_share(*betas, p)) / 3)
        return without * (1 + knowledge * (dim - 1) / (dim * (dim + 2))), lag


def _size_kurtosis(noise: Noise) -> Tensor | float:
    """That of the lengths of gradients beyond the ``2/d`` of Gaussian numbers; 1 where nobody knows."""
    return 1.0 if noise.kurtosis is None else noise.kurtosis.clamp(min=1) - 2 / noise.dim


def _shot_noise(noise: Noise) -> Tensor:
    """``c = kappa/p - 1``, the variance of ``s²/V²`` from step to step, ``[n]``."""
    return (known_kurtosis(noise) / noise.update_probability - 1).clamp(min=0)


LAWS: dict[Family, Law] = {"sgd": SgdLaw(), "lion": LionLaw()}
