"""What a law of the norm is: where norms settle, their path, how fast directions turn, and how far chance takes a row.

At equilibrium every law reads ``R^power = e·source/(2·lambda_rad)``, so a law states its source, and both the norm and
the decay that gives a norm follow from it.

A law sees :class:`Settings` (learning rate, decay, betas, nesterov) and :class:`Noise` (the gradients of the rows). It
does not see what an optimizer has averaged (momentum buffers, second moments), so it knows no bias correction and takes
these averages as settled. What it must be told of the past, sums that never settle and the steps made so far, stands
in the same two records.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.law_inputs import Noise, Settings
from lightning_normdyn.core.dynamics.norm_errors import NormErrors, Sampling
from lightning_normdyn.core.dynamics.rates import RateSegment

ObservedMean = Literal["geometric", "rms"]
"""Which mean of a row's norm over time a law predicts: ``exp(E log R)`` or ``sqrt(E R²)``."""

ROUNDING = 1e-6
"""Of norms, in logs."""


class Stretch(NamedTuple):
    """Consecutive steps of a path over which little changes. Tensors are ``[n]``.

    Attributes:
        steps: how many.
        before: ``R²`` at their start.
        after: ``R²`` at their end.
        growth: what ``R²`` gains in a step.
        retention: what decay leaves of ``R²`` over all of them.
    """

    steps: float
    before: Tensor
    after: Tensor
    growth: Tensor
    retention: Tensor | float

    @property
    def rate(self) -> Tensor:
        """Growth by the share of ``2·R²`` a step, which at equilibrium is the share of R that decay takes."""
        return self.growth / (self.before + self.after)

    @property
    def inherited(self) -> Tensor:
        """The share of ``R²`` at the end that was there at the start."""
        return self.retention * self.before / self.after


class Law(Protocol):
    """One way in which norms move.

    Attributes:
        formula: where they settle, in words.
        growth: how they grow without decay, in words.
        power: the power of R that settles, and relaxes linearly where decay is apart.
        growth_power: ``q`` of the growth that steps give a table's row, ``R²`` growing as ``R^(2q)``.
        observed_mean: which mean of the norm over time it predicts: the geometric one where steps grow as rows shrink,
            since a touch of a short row then adds what the formula leaves out and a high power weighs most; the root
            mean square where steps do not depend on the norm.
        accuracy: what the formula itself is right to at best, in ``log R``.
        decay_is_separable: whether the update that weight decay makes can be told from the task's.
        norm_needs: what a prediction of the norm takes, as arguments of ``EquilibriumRule.predict``.
        turn_needs: the same for the rate of turning.
        path_needs: what :meth:`evolve` takes beyond what all laws are given: ``"accumulated"``, or ``"averages"`` if
            it starts elsewhere than at the first step.
        settles: whether there is a norm at which rows stay under weight decay.
    """

    formula: str
    growth: str
    power: int
    growth_power: int
    observed_mean: ObservedMean
    accuracy: float
    decay_is_separable: bool
    norm_needs: tuple[str, ...]
    turn_needs: tuple[str, ...]
    path_needs: tuple[str, ...]
    settles: bool

    def source(self, settings: Settings, noise: Noise) -> Tensor:
        """What decay is up against: ``R^power = e·source/(2·lambda_rad)`` at equilibrium, ``[n]``."""

    def turn(self, settings: Settings, noise: Noise) -> Tensor:
        """RMS angle by which a direction turns in a step at equilibrium, in radians, ``[n]``."""

    def decay_for_turn(self, angle: float, settings: Settings, noise: Noise) -> Tensor:
        """The radial decay at which directions turn by this angle a step, ``[n]``."""

    def decay_for_norm(self, norm: float, settings: Settings, noise: Noise) -> Tensor:
        """The radial decay at which rows settle at this norm, ``[n]``."""

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """The norm after segments of effective learning rates, ``[n]``."""

    def errors(self, settings: Settings, noise: Noise, sampling: Sampling) -> NormErrors | None:
        """How far chance takes a settled row from the law within a window; ``None`` where that is not known."""

    def path_errors(
        self,
        start: Tensor,
        end: Tensor,
        settings: Settings,
        noise: Noise,
        sampling: Sampling,
        segments: list[RateSegment],
    ) -> NormErrors | None:
        """The same of the norm at the end of segments of effective rates, given the norm at their start.

        With what the law is right to at best, which is less the less the norm has moved.

        Args:
            start: the norm at their start, ``[n]``.
            end: what :meth:`evolve` makes of it, ``[n]``.
            settings: as for :meth:`evolve`.
            noise: likewise.
            sampling: of the window that the moments are from. The covariance is that of a window that these segments
                are the rates of; a forecast from moments of steps before has none.
            segments: the rates.
        """

    def judges(self, settings: Settings, noise: Noise, sampling: Sampling) -> Tensor:
        """Rows that a window says enough about, and within reach of the law and its errors; a mask, ``[n]``.

        It is to be told what was to be expected of the window (``noise`` of the steps before it): rows that are chosen
        by the window's own count are chosen by its errors.
        """


class CommonLaw:
    """What a law is unless it says otherwise: nothing is known of how far chance takes a row from it."""

    accuracy = 0.02
    power: int

    def decay_for_norm(self, norm: float, settings: Settings, noise: Noise) -> Tensor:
        """``lambda_rad = e·source/(2·R^power)``."""
        return settings.lr * self.source(settings, noise) / (2 * norm**self.power)

    def source(self, settings: Settings, noise: Noise) -> Tensor:
        """Stated by each law."""
        raise NotImplementedError

    def errors(self, settings: Settings, noise: Noise, sampling: Sampling) -> NormErrors | None:
        """``None``."""
        del settings, noise, sampling
        return None

    def path_errors(
        self,
        start: Tensor,
        end: Tensor,
        settings: Settings,
        noise: Noise,
        sampling: Sampling,
        segments: list[RateSegment],
    ) -> NormErrors | None:
        """``None``."""
        del start, end, settings, noise, sampling, segments
        return None

    def judges(self, settings: Settings, noise: Noise, sampling: Sampling) -> Tensor:
        """Every row that got a gradient."""
        del settings, sampling
        return noise.update_probability > 0


class DecayApart(CommonLaw):
    """Decay that takes the same share of every row, so that all rows turn alike (Kosson et al. 2023, arXiv 2305.17212).

    At equilibrium growth makes up for decay, ``2·e·lambda_rad·R²`` a step, and a step is ``sqrt(q)`` of it.
    """

    decay_is_separable = True
    turn_needs: tuple[str, ...] = ()
    path_needs: tuple[str, ...] = ()
    settles = True

    def turn(self, settings: Settings, noise: Noise) -> Tensor:
        """``sqrt(2·e·lambda_rad·q)``, whatever the gradients are."""
        return (2 * settings.lr * settings.radial_decay * self.step_share(settings, noise)).sqrt()

    def decay_for_turn(self, angle: float, settings: Settings, noise: Noise) -> Tensor:
        """``angle²/(2·e·q)``."""
        return angle**2 / (2 * settings.lr * self.step_share(settings, noise))

    def step_share(self, settings: Settings, noise: Noise) -> Tensor:
        """``q``, ``[n]``."""
        return torch.full_like(noise.update_probability, settings.step_share)


def repeats(step_retention: float, retention: float, steps: float) -> float:
    """``1 + k + k² + ...`` over so many steps, of which each keeps ``k``."""
    return (1 - retention) / (1 - step_retention) if step_retention < 1 else float(steps)


def end_of(norm: Tensor, course: Iterable[Stretch]) -> Tensor:
    """The norm after all stretches of a course, ``[n]``."""
    squared = norm.square()
    for stretch in course:
        squared = stretch.after
    return squared.sqrt()


def known_kurtosis(noise: Noise) -> Tensor | float:
    """``kappa``, at least 1; 1 where nobody knows."""
    return 1.0 if noise.kurtosis is None else noise.kurtosis.clamp(min=1)


def often_met(settings: Settings, noise: Noise, sampling: Sampling) -> Tensor:
    """Rows with 20 gradients, that decay shortens by less than 10% between two of them; a mask ``[n]``."""
    p = noise.update_probability
    return (p * sampling.readings >= 20) & (settings.lr * settings.radial_decay <= 0.1 * p)
