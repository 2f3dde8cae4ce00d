"""The laws of the norm, by the way an optimizer sizes its steps: where it settles, its path, how fast directions turn.

At equilibrium every law reads ``R^power = e·source/(2·lambda_rad)``, so a law states its source, and both the norm and
the decay that gives a norm follow from it.

A law sees :class:`Settings` (learning rate, decay, betas, nesterov) and :class:`Noise` (the gradients of the rows). It
does not see what an optimizer has averaged (momentum buffers, second moments), so it knows no bias correction and takes
these averages as settled. What it must be told of the past, sums that never settle and the steps made so far, stands
in the same two records.

To add a law: a class here, derived from :class:`CommonLaw`, which states its formulas, which mean of the norm they are
of and, where that is known, how far chance takes rows from it; its names in :data:`Family` and :data:`LAWS`; and in
:mod:`lightning_normdyn.core.dynamics.optimizers` a rule factory for the optimizers that obey it. Here are the laws of
rows by themselves; those of Adam and its kin, of optimizers for embedding tables, of optimizers that look at a whole
matrix, and of those that average their weights have modules of their own, each with its ``LAWS``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.lion import sign_persistence
from lightning_normdyn.core.dynamics.norm_errors import (
    SIGN_RADIAL_SHARE,
    NormErrors,
    Sampling,
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

ObservedMean = Literal["geometric", "rms"]
"""Which mean of a row's norm over time a law predicts: ``exp(E log R)`` or ``sqrt(E R²)``."""

_NEARBY = 1.05
_FINEST = 0.05
"""Share of a norm that decay takes in a stretch along which errors are followed."""
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


class DecayCorrection(NamedTuple):
    """Decay that falls with the learning rate, as in AdamC: ``lambda_rad = full_decay·lr/peak_lr``.

    Attributes:
        full_decay: ``lambda_rad`` at the peak.
        peak_lr: effective learning rate there.
    """

    full_decay: float
    peak_lr: float

    def radial_decay(self, lr: float) -> float:
        """``lambda_rad`` at an effective learning rate."""
        return self.full_decay * lr / self.peak_lr


class StepMemory(NamedTuple):
    """Steps of a set size that stay alike for a while.

    Attributes:
        mean_square: of the numbers of a step, per unit of lr².
        persistence: sum over all lags of the autocorrelation of steps: by how much a walk outgrows independent ones.
    """

    mean_square: float
    persistence: float


class Settings(NamedTuple):
    """What a parameter group is set to.

    Attributes:
        lr: ``e``, effective learning rate.
        radial_decay: ``lambda_rad``, shrinkage per unit of it.
        first_beta: decay of the average of gradients that makes the step, beta1 or momentum; 0 where there is none.
        second_beta: decay of the second-moment average; 0 where there is none.
        nesterov: whether a step looks ahead along that average.
        correction: how decay follows the learning rate; ``None`` where it does not.
        step_memory: size and persistence of steps, where the optimizer's shape and options alone set them.
        steps_made: optimizer steps before those that a law is asked about.
    """

    lr: float
    radial_decay: float
    first_beta: float
    second_beta: float
    nesterov: bool
    correction: DecayCorrection | None = None
    step_memory: StepMemory | None = None
    steps_made: int = 0

    def decay_share(self, lr: float, lr_squared: float) -> float:
        """The share of a norm that decay takes in a step, ``e·lambda_rad``, averaged over a segment of rates.

        Args:
            lr: mean effective rate of the segment.
            lr_squared: mean square of it, which counts where decay follows the rate.
        """
        if self.correction is None:
            return lr * self.radial_decay
        return self.correction.full_decay * lr_squared / self.correction.peak_lr

    @property
    def step_share(self) -> float:
        """``q = sum(h²)/(sum h)²``, h the weight in a step of the gradient of so many steps ago.

        The mean square of one step over the growth of ``R²`` that the same noise makes in the long run, where steps in
        a row are alike: (1 - beta)/(1 + beta).
        """
        beta = self.first_beta
        if self.nesterov:
            return (1 - beta**2) ** 2 + beta**4 * (1 - beta) / (1 + beta)
        return (1 - beta) / (1 + beta)


class Noise(NamedTuple):
    """What reaches the rows.

    Attributes:
        second_moment: ``V²``, mean of ``|R·g_tan|²`` with absent steps counted as zero, ``[n]``.
        dim: ``d``, length of a row.
        update_probability: ``p``, share of steps in which a row gets a gradient, ``[n]``.
        kurtosis: ``kappa = E[s⁴]/E[s²]²`` over the steps in which a row gets a gradient, ``[n]``: 1 where all of them
            are alike. ``None`` where nobody knows: a law then says nothing of errors.
        accumulated: ``A`` of :class:`OptimizerMemory`, ``[n]``; for laws that name it in ``path_needs`` alone.
        averages: likewise, ``[n, 2]``.
    """

    second_moment: Tensor
    dim: int
    update_probability: Tensor
    kurtosis: Tensor | None = None
    accumulated: Tensor | None = None
    averages: Tensor | None = None


class OptimizerMemory(NamedTuple):
    """What an optimizer has in store of each row that its law cannot do without.

    Attributes:
        accumulated: ``A``, sum of the squared gradients of a row under Adagrad, ``[n]``.
        averages: ``<z, z>`` and ``<z, y>`` under a schedule-free optimizer, y the row and z what takes the steps,
            ``[n, 2]``.
    """

    accumulated: Tensor | None = None
    averages: Tensor | None = None

    @classmethod
    def from_state(cls, state: Iterable[Tensor | None], device: torch.device) -> OptimizerMemory:
        """What a list of the attributes in a checkpoint holds."""
        return cls(*(None if values is None else values.to(device) for values in state))


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


class SgdLaw(DecayApart):
    """Steps as long as the gradient: ``R⁴`` relaxes linearly.

    Directions turn by ``sqrt(2·lr·lambda/(1 + mu))`` a step in the nominal lr of SGD with momentum mu.
    """

    formula = "R⁴ = lr·V² / (2·lambda_rad)"
    growth = "R⁴ grows by 2·lr²·V² a step"
    power = 4
    growth_power = -1
    observed_mean: ObservedMean = "geometric"
    accuracy = 0.003
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
    accuracy = 0.01
    norm_needs: tuple[str, ...] = ("dim",)

    def source(self, settings: Settings, noise: Noise) -> Tensor:
        """``d·F``, see :func:`lightning_normdyn.core.dynamics.lion.sign_persistence`.

        Times ``1 + k·(d - 1)/(d·(d + 2))``: gradients of a row are weaker in the numbers in which the row is long, as
        ``1 - z_i²``, and signs do not care, so that outward steps are larger. ``k = p/(p + 1 - beta2)`` is the part of
        the memory that has many gradients in it.
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
        """One relaxation time, ``1/(2·lr·lambda)``; limits of rare and frequent rows exact, fitted in between.

        With ``l = d log F/d log p`` the prediction shares ``l²·(1 - p)/p``. Apart from it vary the lengths of straight
        walks, which last some 1/p steps, the overlap of what the average holds, and the radial part of a sign.
        """
        if settings.radial_decay <= 0 or not 0 < settings.second_beta < 1:
            return None
        rate = settings.lr * settings.radial_decay
        p, relaxation = noise.update_probability, 1 / (2 * rate)
        elasticity = self._elasticity(settings, noise)
        shared = elasticity.square() * (1 - p) / p
        apart = self._apart_variance(settings, noise, rate, elasticity) / rate**2
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
        touches = (1 - p) / p
        response, remainder = PathResponse(touches, 1), torch.ones_like(touches)
        for stretch in self._course(start, settings, noise, segments, finest=_FINEST):
            rate = stretch.rate
            apart = self._apart_variance(settings, noise, rate, elasticity)
            shared = SharedNoise(rate * elasticity, 0.0, touches)
            response.advance(stretch.steps, Coupling(-2 * rate), (shared,), apart)
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

    @staticmethod
    def _apart_variance(settings: Settings, noise: Noise, rate: Tensor | float, elasticity: Tensor) -> Tensor:
        """What ``log R`` gains in a step from the lengths of walks, the overlap and the radial part of signs."""
        p, forgets = noise.update_probability, 1 - settings.second_beta
        walks = elasticity.pow(4) * (1 - p) / p / (1 + 2 * rate / p)
        held = 4 * settings.first_beta**2 / ((1 - settings.second_beta**2) * max(noise.dim - 1, 1))
        overlap = held / (1 + 2 * rate / forgets)
        radial: Tensor = 2 * rate * SIGN_RADIAL_SHARE / (1 + p / forgets / 2) / noise.dim
        return rate**2 * (walks + overlap) + radial

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
        size, share = known_kurtosis(noise) - 2 / dim, forgets / 20
        without, within = (
            sign_persistence(settings.first_beta, settings.second_beta, p, kurtosis=size, decay=decay)
            for decay in (0.0, share)
        )
        lag = ((without / within - 1) / share).nan_to_num(0)
        return without * (1 + p / (p + forgets) * (dim - 1) / (dim * (dim + 2))), lag


LAWS: dict[Family, Law] = {"sgd": SgdLaw(), "lion": LionLaw()}


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


def _shot_noise(noise: Noise) -> Tensor:
    """``c = kappa/p - 1``, the variance of ``s²/V²`` from step to step, ``[n]``."""
    return (known_kurtosis(noise) / noise.update_probability - 1).clamp(min=0)


def often_met(settings: Settings, noise: Noise, sampling: Sampling) -> Tensor:
    """Rows with 20 gradients, that decay shortens by less than 10% between two of them; a mask ``[n]``."""
    p = noise.update_probability
    return (p * sampling.readings >= 20) & (settings.lr * settings.radial_decay <= 0.1 * p)
