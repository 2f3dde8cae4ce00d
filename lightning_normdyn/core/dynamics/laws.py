"""The laws of the norm, by the way an optimizer sizes its steps: where it settles, its path, how fast directions turn.

At equilibrium every law reads ``R^power = e·source/(2·lambda_rad)``, so a law states its source, and both the norm and
the decay that gives a norm follow from it.

A law sees :class:`Settings` (learning rate, decay, betas, nesterov) and :class:`Noise` (the gradients of the rows). It
does not see what an optimizer has averaged (momentum buffers, second moments), so it knows no bias correction and takes
these averages as settled. What it must be told of the past, sums that never settle and the steps made so far, stands
in the same two records.

To add a law: a class here, which states its formulas and which mean of the norm they are of (one whose scatter around
them is not known derives from :class:`WithoutErrors`), with its names in :data:`Family` and :data:`LAWS`, and in
:mod:`lightning_normdyn.core.dynamics.optimizers` a rule factory for the optimizers that obey it. Here are the laws of
rows by themselves; those of optimizers for embedding tables, of optimizers that look at a whole matrix, and of those
that average their weights have modules of their own, each with its ``LAWS``.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.lion import sign_persistence
from lightning_normdyn.core.dynamics.norm_errors import (
    SIGN_RADIAL_SHARE,
    LinearResponse,
    NormErrors,
    Sampling,
    one_relaxation,
    overlap_noise,
    radial_share,
    settling_share,
)
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
_ROUNDING = 1e-6
_FINEST = 0.1
"""Substep of a numerical path, as a share of the time in which anything changes."""


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
        accumulated: ``A``, sum of the squared gradients of a row that an optimizer which never forgets has in store,
            ``[n]``; for laws that name it in ``path_needs`` alone.
    """

    second_moment: Tensor
    dim: int
    update_probability: Tensor
    kurtosis: Tensor | None = None
    accumulated: Tensor | None = None


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
        path_needs: what :meth:`evolve` takes beyond what all laws are given: ``"accumulated"``, or ``"first_step"`` if
            it can only start there.
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

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """The norm after segments of effective learning rates, ``[n]``."""

    def errors(self, settings: Settings, noise: Noise, sampling: Sampling) -> NormErrors | None:
        """How far chance takes a settled row from the law within a window; ``None`` where that is not known."""

    def path_errors(
        self, end: Tensor, settings: Settings, noise: Noise, sampling: Sampling, segments: list[RateSegment]
    ) -> NormErrors | None:
        """The same of the norm at the end of segments of effective rates, given the norm at their start.

        With what the law is right to at best, which is less the less the norm has moved.

        Args:
            end: what :meth:`evolve` gives, ``[n]``.
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


class WithoutErrors:
    """A law of which it is not known how far chance takes a row from it."""

    accuracy = 0.02

    def errors(self, settings: Settings, noise: Noise, sampling: Sampling) -> NormErrors | None:
        """``None``."""
        del settings, noise, sampling
        return None

    def path_errors(
        self, end: Tensor, settings: Settings, noise: Noise, sampling: Sampling, segments: list[RateSegment]
    ) -> NormErrors | None:
        """``None``."""
        del end, settings, noise, sampling, segments
        return None

    def judges(self, settings: Settings, noise: Noise, sampling: Sampling) -> Tensor:
        """Every row that got a gradient."""
        del settings, sampling
        return noise.update_probability > 0


class DecayApart(WithoutErrors):
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
        self, end: Tensor, settings: Settings, noise: Noise, sampling: Sampling, segments: list[RateSegment]
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
        scale, inaccuracy = share.square() / 16, (self.accuracy * share * total).square() + _ROUNDING**2
        shared, apart = _shot_noise(noise), overlap_noise(settings.first_beta, noise.dim)
        observed = scale * (shared + apart) * total_square + inaccuracy
        predicted = scale * shared * total**2 / sampling.readings
        return NormErrors(
            observed.sqrt(), observed, predicted, scale * shared * total**2 / sampling.steps, 2 * predicted
        )

    def judges(self, settings: Settings, noise: Noise, sampling: Sampling) -> Tensor:
        """Rows with 8 gradients' worth of information, that none of them moves by more than 5%."""
        relative = noise.update_probability / _known_kurtosis(noise)
        rate = settings.lr * settings.radial_decay
        return (relative * sampling.readings >= 8) & (rate <= 0.2 * relative)


class AdamWLaw(DecayApart):
    """Steps of a size of their own, decay apart: ``R²`` relaxes linearly once the second moment has settled.

    Directions turn by ``sqrt(2·lr·lambda·(1 - beta1)/(1 + beta1))`` a step.
    """

    formula = "R² = lr·d / (2·lambda_rad) · p / (p + 1 - beta2)"
    growth = "R² grows by lr²·d·p / (p + 1 - beta2) a step"
    power = 2
    growth_power = 0
    observed_mean: ObservedMean = "rms"
    accuracy = 0.005
    norm_needs: tuple[str, ...] = ("dim",)

    def source(self, settings: Settings, noise: Noise) -> Tensor:
        """``d·p/(p + 1 - beta2)``: a rare row divides by a second moment that has partly decayed.

        Where the kurtosis of gradients is known, ``d·S`` with what is left out of that: the chance in the second
        moment, and momentum that goes on while the second moment falls already. It takes coordinates of gradients for
        Gaussian, and is exact to first order for ``alpha = p/(1 - beta2)`` small or large::

            S = alpha·(alpha + h)/(alpha² + (h + 1.5·k)·alpha + h)·(1 + (t - 1)/(1 + alpha))
            k = max(0.8, kappa/(1 + 2/d)),    h = (1.5·k - 1)/(2·ln 2 - 1 + 0.267·ln k)
            t = [(1 - beta1)/(1 - beta1/sqrt(beta2))]²
        """
        p = noise.update_probability
        plain = noise.dim * p / (p + 1 - settings.second_beta)
        return plain if noise.kurtosis is None else plain * self._amendment(settings, noise)

    @staticmethod
    def _amendment(settings: Settings, noise: Noise) -> Tensor:
        """``S`` over ``alpha/(1 + alpha)``; 1 where the kurtosis is not known, or no second moment is kept."""
        p, forgets = noise.update_probability, 1 - settings.second_beta
        if noise.kurtosis is None or not 0 < forgets < 1:
            return torch.ones_like(p)
        alpha = p / forgets
        kurtosis = (noise.kurtosis / (1 + 2 / noise.dim)).clamp(min=0.8)
        near = (1.5 * kurtosis - 1) / (2 * math.log(2) - 1 + 0.267 * kurtosis.log())
        tail = ((1 - settings.first_beta) / (1 - settings.first_beta / math.sqrt(settings.second_beta))) ** 2
        chance = (alpha + near) * (1 + alpha) / (alpha.square() + (near + 1.5 * kurtosis) * alpha + near)
        return (chance * (1 + (tail - 1) / (1 + alpha))).nan_to_num(1)

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """``R² <- (1 - a)²·R² + e²·d·p/(1 - beta2 + p·R²·w)``, with ``w`` the remembered mean of ``1/R²``.

        Gradients shrink as 1/R, so while R grows Adam still divides by the larger ones of a shorter row. The average
        ``w`` forgets over 1/(1 - beta2) steps and is taken to have settled at the start; at rest ``w = 1/R²``.
        """
        forgets = 1 - settings.second_beta
        p, squared, amendment = noise.update_probability, norm.square(), self._amendment(settings, noise)
        memory_mean = squared.reciprocal()
        for steps, lr, lr_squared in segments:
            substeps = math.ceil(max(1.0, min(steps, steps * forgets / _FINEST)))
            span = steps / substeps
            step_retention = max(0.0, 1 - settings.decay_share(lr, lr_squared)) ** 2
            retention, memory = step_retention**span, settings.second_beta**span
            gain = lr_squared * noise.dim * amendment * repeats(step_retention, retention, span)
            for _ in range(substeps):
                source = p / (forgets + p * (squared * memory_mean).nan_to_num(1, 1, 1))
                memory_mean = memory * memory_mean + (1 - memory) / squared
                squared = retention * squared + gain * source
        return squared.sqrt()

    def errors(self, settings: Settings, noise: Noise, sampling: Sampling) -> NormErrors | None:
        """Norm and second moment together: touches move both at once, and so cancel in frequent rows.

        With ``r = lr·lambda``, ``f = 1 - beta2`` and ``A = p/(p + f)``::

            d log R = -2r·(1 + A)·log R - r·A·u + r·(touches + A·sizes + apart)
            du      = -2f·log R - f·u + f·(touches + sizes)
        """
        if noise.kurtosis is None or settings.radial_decay <= 0 or not 0 < settings.second_beta < 1:
            return None
        p, rate, forgets = noise.update_probability, settings.lr * settings.radial_decay, 1 - settings.second_beta
        memory = p / (p + forgets)
        touches, sizes = (1 - p) / p, (noise.kurtosis.clamp(min=1) - 1) / p
        response = LinearResponse.of(
            matrix=((-2 * rate * (1 + memory), -rate * memory), (-2 * forgets, -forgets)),
            inputs=((rate, rate * memory, rate), (forgets, forgets, 0.0)),
            noise=(touches, sizes, _apart_noise(settings, noise, rate)),
            gain=((1 - memory) / 2, 0.0, 0.0),
        )
        errors = response.errors(sampling.steps, touches / sampling.readings * (1 - memory.square()) / 4)
        unread = touches * (1 - memory).square() / 4 * (1 / sampling.readings - 1 / sampling.steps)
        return errors._replace(predicted=errors.predicted + unread)

    def judges(self, settings: Settings, noise: Noise, sampling: Sampling) -> Tensor:
        """Rows with 20 gradients, that decay shortens by less than 10% between two of them."""
        return _often_met(settings, noise, sampling)


class CoupledAdamLaw(WithoutErrors):
    """Gradient and decay normalised together, as in Adam and RMSprop with coupled decay: ``R³`` settles.

    It relaxes at a rate that depends on the gradient.
    """

    formula = "R³ = lr·sqrt(d)·V / (2·lambda_rad)"
    growth = "R² grows by lr²·d a step"
    power = 3
    growth_power = 0
    observed_mean: ObservedMean = "geometric"
    accuracy = 0.02
    decay_is_separable = False
    norm_needs: tuple[str, ...] = ("second_moment", "dim")
    turn_needs: tuple[str, ...] = norm_needs
    path_needs: tuple[str, ...] = ()
    settles = True

    def source(self, settings: Settings, noise: Noise) -> Tensor:
        """``sqrt(d)·V``, for rows updated more often than once in 1/(1 - beta2) steps."""
        return math.sqrt(noise.dim) * noise.second_moment.sqrt()

    def turn(self, settings: Settings, noise: Noise) -> Tensor:
        """``e·sqrt(d·q)/R``: short rows, with little noise, turn faster."""
        norm = (settings.lr / (2 * settings.radial_decay) * self.source(settings, noise)).pow(1 / 3)
        return settings.lr * math.sqrt(noise.dim * settings.step_share) / norm

    def decay_for_turn(self, angle: float, settings: Settings, noise: Noise) -> Tensor:
        """``e·source/(2·R³)`` for the norm ``R = e·sqrt(d·q)/angle``."""
        norm = settings.lr * math.sqrt(noise.dim * settings.step_share) / angle
        return settings.lr * self.source(settings, noise) / (2 * norm**3)

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """Integrates ``dR³/dt = -3·e·lambda·sqrt(d)·R⁴/V + 1.5·e²·d·R``, exactly for R frozen within a substep.

        Adam normalises noise and decay together, so ``V`` is ``sqrt(V² + lambda²·R⁴)`` here: a row without gradients
        then shrinks by ``e·sqrt(d)`` a step instead of vanishing at once.
        """
        cube, root = norm.pow(3), math.sqrt(noise.dim)
        tiny = torch.finfo(norm.dtype).tiny
        for steps, lr, lr_squared in segments:
            substeps = min(steps, 8)
            span = steps / substeps
            for _ in range(substeps):
                radius = cube.pow(1 / 3)
                scale = (
                    (noise.second_moment + (settings.radial_decay * radius.square()).square()).sqrt().clamp(min=tiny)
                )
                exponent = -3 * settings.decay_share(lr, lr_squared) * root * radius / scale * span
                # expm1(x)/x tends to 1 without decay
                mean_retention = torch.where(exponent < 0, torch.expm1(exponent) / exponent, 1.0)
                cube = cube * exponent.exp() + 1.5 * lr_squared * noise.dim * radius * span * mean_retention
        return cube.pow(1 / 3)

    def errors(self, settings: Settings, noise: Noise, sampling: Sampling) -> NormErrors | None:
        """Norm and second moment together, with ``a = lr²·d/(2·R²)`` and ``f = 1 - beta2``.

        ``d log R = a·(-4·log R - u/2 + shared + apart)``, ``du = f·(shared - 2·log R - u)``.
        """
        if noise.kurtosis is None or settings.radial_decay <= 0 or not 0 < settings.second_beta < 1:
            return None
        rate, forgets = self._relative_decay(settings, noise), 1 - settings.second_beta
        shared = _shot_noise(noise)
        response = LinearResponse.of(
            matrix=((-4 * rate, -rate / 2), (-2 * forgets, -forgets)),
            inputs=((rate, rate), (forgets, 0.0)),
            noise=(shared, _apart_noise(settings, noise, rate)),
            gain=(1 / 6, 0.0),
        )
        errors = response.errors(sampling.steps, shared / sampling.readings / 12)
        return errors._replace(predicted=errors.predicted + shared / 36 * (1 / sampling.readings - 1 / sampling.steps))

    def judges(self, settings: Settings, noise: Noise, sampling: Sampling) -> Tensor:
        """Rows of 20 gradients' worth of information and 30 in the second moment, that decay does not outrun."""
        p, rate = noise.update_probability, self._relative_decay(settings, noise)
        is_read = p / _known_kurtosis(noise) * sampling.readings >= 20
        return is_read & (p >= 30 * (1 - settings.second_beta)) & (rate <= 0.005 * p)

    def _relative_decay(self, settings: Settings, noise: Noise) -> Tensor:
        """``a = lr²·d/(2·R²)``: the share of a settled norm that decay takes in a step."""
        norm = (settings.lr / (2 * settings.radial_decay) * self.source(settings, noise)).pow(1 / 3)
        return settings.lr**2 * noise.dim / (2 * norm.square())


class LionLaw(DecayApart):
    """Every number of a row moves by lr in every step: ``R²`` relaxes linearly, and rare rows walk the longest.

    Directions turn by ``sqrt(2·lr·lambda/F)`` a step, F the persistence of the sign.
    """

    formula = "R² = lr·d·F / (2·lambda_rad), F the persistence of the sign"
    growth = "R² grows by lr²·d·F a step, F the persistence of the sign"
    power = 2
    growth_power = 0
    observed_mean: ObservedMean = "rms"
    accuracy = 0.02
    norm_needs: tuple[str, ...] = ("dim",)

    def source(self, settings: Settings, noise: Noise) -> Tensor:
        """``d·F``, see :func:`lightning_normdyn.core.dynamics.lion.sign_persistence`."""
        return noise.dim * self._persistence(settings, noise)

    def step_share(self, settings: Settings, noise: Noise) -> Tensor:
        """``1/F``: a step is as long as any other, whatever came before."""
        return self._persistence(settings, noise).reciprocal()

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """``R² <- (1 - a)²·R² + e²·d·F``, summed up over each segment."""
        squared, source = norm.square(), self.source(settings, noise)
        for steps, lr, lr_squared in segments:
            step_retention = max(0.0, 1 - settings.decay_share(lr, lr_squared)) ** 2
            retention = step_retention**steps
            squared = retention * squared + lr_squared * source * repeats(step_retention, retention, steps)
        return squared.sqrt()

    def errors(self, settings: Settings, noise: Noise, sampling: Sampling) -> NormErrors | None:
        """One relaxation time, ``1/(2·lr·lambda)``; limits of rare and frequent rows exact, fitted in between.

        With ``l = d log F/d log p`` the prediction shares ``l²·(1 - p)/p``. Apart from it vary the lengths of straight
        walks, which last some 1/p steps, the overlap of what the average holds, and the radial part of a sign.
        """
        if settings.radial_decay <= 0 or not 0 < settings.second_beta < 1:
            return None
        p, rate, forgets = noise.update_probability, settings.lr * settings.radial_decay, 1 - settings.second_beta
        relaxation = 1 / (2 * rate)
        nearby = noise._replace(update_probability=p / _NEARBY)
        elasticity = (self._persistence(settings, noise) / self._persistence(settings, nearby)).log() / math.log(
            _NEARBY
        )
        shared = elasticity.square() * (1 - p) / p
        walks = elasticity.square() * shared * relaxation / (relaxation + 1 / p)
        held = 4 * settings.first_beta**2 / ((1 - settings.second_beta**2) * max(noise.dim - 1, 1))
        overlap = held * relaxation / (relaxation + 1 / forgets)
        radial = 2 * SIGN_RADIAL_SHARE / (1 + p / forgets / 2) / (rate * noise.dim)
        bias = elasticity * (1 - p) / p / sampling.readings / 4
        return one_relaxation(2, shared, walks + overlap + radial, relaxation, sampling, bias)

    def judges(self, settings: Settings, noise: Noise, sampling: Sampling) -> Tensor:
        """Rows with 20 gradients, that decay shortens by less than 10% between two of them."""
        return _often_met(settings, noise, sampling)

    @staticmethod
    def _persistence(settings: Settings, noise: Noise) -> Tensor:
        return sign_persistence(settings.first_beta, settings.second_beta, noise.update_probability)


LAWS: dict[Family, Law] = {"sgd": SgdLaw(), "adamw": AdamWLaw(), "adam": CoupledAdamLaw(), "lion": LionLaw()}


def repeats(step_retention: float, retention: float, steps: float) -> float:
    """``1 + k + k² + ...`` over so many steps, of which each keeps ``k``."""
    return (1 - retention) / (1 - step_retention) if step_retention < 1 else float(steps)


def _known_kurtosis(noise: Noise) -> Tensor | float:
    return 1.0 if noise.kurtosis is None else noise.kurtosis.clamp(min=1)


def _shot_noise(noise: Noise) -> Tensor:
    """``c = kappa/p - 1``, the variance of ``s²/V²`` from step to step, ``[n]``."""
    return (_known_kurtosis(noise) / noise.update_probability - 1).clamp(min=0)


def _apart_noise(settings: Settings, noise: Noise, rate: Tensor | float) -> Tensor:
    """Under Adam: the overlap in the momentum and the radial part of steps, at a relative decay of ``rate`` a step."""
    radial = 2 * radial_share(noise.update_probability, settings.second_beta, noise.dim) / noise.dim / rate
    return overlap_noise(settings.first_beta, noise.dim) + radial


def _often_met(settings: Settings, noise: Noise, sampling: Sampling) -> Tensor:
    p = noise.update_probability
    return (p * sampling.readings >= 20) & (settings.lr * settings.radial_decay <= 0.1 * p)
