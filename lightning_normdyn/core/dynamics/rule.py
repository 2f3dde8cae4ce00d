"""``EquilibriumRule``: the law of the norm under one parameter group, and what it predicts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.families import LAWS, relaxation_steps
from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.core.dynamics.law import Law, ObservedMean
from lightning_normdyn.core.dynamics.law_inputs import DecayCorrection, Noise, Settings, StepMemory
from lightning_normdyn.core.dynamics.laws import Family
from lightning_normdyn.core.dynamics.norm_errors import NormErrors, Sampling
from lightning_normdyn.core.dynamics.rates import EffectiveTrace, RateSegment, RateTrace
from lightning_normdyn.core.number_checks import check_count, check_finite_number, check_not_negative, check_positive
from lightning_normdyn.core.object_checks import check_instance
from lightning_normdyn.core.tensor_checks import check_probabilities, check_tensors

_USUAL_DEGREE = 2.0


@dataclass(frozen=True)
class EquilibriumRule:
    """What is known about the norm under one parameter group of one optimizer.

    Attributes:
        optimizer: class name.
        family: which closed form holds; ``None`` where none is known.
        lr: effective learning rate, lr·(1 - dampening)/(1 - momentum); the optimizer's own lr only where no momentum
            multiplies it. See :meth:`at`.
        lr_gain: effective learning rate per nominal one, which is what the optimizer calls lr.
        radial_decay: ``lambda_rad``, shrinkage per unit of effective lr; 0 means that there is no equilibrium.
        second_beta: decay of the second-moment average (beta2, or RMSprop's alpha); 0 where there is none.
        reason: why no norm can be predicted, in words; empty where one can.
        first_beta: decay of the average of gradients that makes the step (beta1, or momentum); 0 where there is none.
        nesterov: whether a step looks ahead along that average.
        decay_gain: radial decay per unit of the optimizer's ``weight_decay``: 1 - momentum where decay does not pass
            through the momentum.
        family_with_decay: which closed form holds once there is weight decay, if that is another: Adam without it
            cannot be told from AdamW.
        correction: how decay falls with the learning rate, as in AdamC; ``None`` where it does not.
        step_memory: size and persistence of steps that an optimizer's options and the shape alone set, as Muon's.
        steps_made: steps that the optimizer had made when it was read, where its law goes by them (Adafactor and
            schedule-free optimizers).

    Example:
        >>> from lightning_normdyn import equilibrium_rule
        >>> table = torch.nn.Parameter(torch.ones(10, 64))
        >>> rule = equilibrium_rule(torch.optim.SGD([table], lr=0.1, momentum=0.9, weight_decay=1e-3))
        >>> rule.law, round(rule.lr, 6)
        ('R⁴ = lr·V² / (2·lambda_rad)', 1.0)
        >>> rule.predict(torch.tensor([2.0]), dim=64)
        tensor([5.6234], dtype=torch.float64)
    """

    optimizer: str
    family: Family | None
    lr: float
    lr_gain: float
    radial_decay: float
    second_beta: float = 0.0
    reason: str = ""
    first_beta: float = 0.0
    nesterov: bool = False
    decay_gain: float = 1.0
    family_with_decay: Family | None = None
    correction: DecayCorrection | None = None
    step_memory: StepMemory | None = None
    steps_made: int = 0

    @property
    def law(self) -> str:
        """The closed form in words, or why there is none. In it, lr is the effective learning rate."""
        if self.family is None:
            return self.reason
        law = LAWS[self.family]
        return law.formula if self.radial_decay > 0 else f"no equilibrium without weight decay: {law.growth}"

    @property
    def power(self) -> int:
        """The power of R that the closed form is of; where decay is apart it relaxes linearly."""
        return 2 if self.family is None else LAWS[self.family].power

    @property
    def observed_mean(self) -> ObservedMean:
        """Which mean of a norm over time the closed form predicts: ``exp(E log R)`` or ``sqrt(E R²)``."""
        return "rms" if self.family is None else LAWS[self.family].observed_mean

    @property
    def accuracy(self) -> float:
        """What the closed form is right to at best, in ``log R``; NaN where none is known."""
        return math.nan if self.family is None else LAWS[self.family].accuracy

    @property
    def decay_is_separable(self) -> bool:
        """Whether the update that weight decay makes can be told from the task's."""
        return self.family is not None and LAWS[self.family].decay_is_separable

    @property
    def settles(self) -> bool:
        """Whether there is a norm at which rows stay under weight decay."""
        return self.family is not None and LAWS[self.family].settles

    @property
    def ignores_gradient_scale(self) -> bool:
        """Whether steps stay as long as they are when all gradients are scaled alike, as by clipping at a low norm."""
        return self.family is not None and "second_moment" not in LAWS[self.family].norm_needs

    def path_is_known(self, *, accumulated: Tensor | None = None, averages: Tensor | None = None) -> bool:
        """Whether :meth:`evolve` has what its law needs: the accumulator, or averages unless it is the first step."""
        if self.family is None:
            return False
        needs = LAWS[self.family].path_needs
        is_begun = "averages" in needs and averages is None and self.steps_made > 0
        return not is_begun and (accumulated is not None or "accumulated" not in needs)

    def at(self, lr: float | None = None, *, nominal_lr: float | None = None) -> EquilibriumRule:
        """The same rule at another learning rate.

        Args:
            lr: the effective rate, in the unit of :attr:`lr`.
            nominal_lr: instead, the rate that the optimizer or its schedule calls lr; ``lr_gain`` of it is effective.

        Raises:
            ValueError: if not exactly one of the two is given.

        Example:
            Under momentum a schedule's peak is not the rule's rate:

            >>> from lightning_normdyn import equilibrium_rule
            >>> rule = equilibrium_rule(torch.optim.SGD([torch.ones(1)], lr=0.01, momentum=0.9, weight_decay=1e-3))
            >>> peak = 0.1
            >>> round(rule.at(peak).lr, 6), round(rule.at(rule.lr_gain * peak).lr, 6)
            (0.1, 1.0)
            >>> rule.at(nominal_lr=peak) == rule.at(rule.lr_gain * peak)
            True
        """
        if (lr is None) == (nominal_lr is None):
            raise ValueError(f"lr, nominal_lr: expected one of the two, got {lr} and {nominal_lr}")
        if lr is not None:
            check_not_negative(unknown=True, lr=lr)
        if nominal_lr is not None:
            check_not_negative(unknown=True, nominal_lr=nominal_lr)
        effective_lr = self.lr_gain * nominal_lr if nominal_lr is not None else lr
        assert effective_lr is not None
        if self.correction is None:
            return replace(self, lr=effective_lr)
        full_gain = self.decay_gain * self.correction.peak_lr / self.lr if self.lr else 1.0
        return replace(
            self,
            lr=effective_lr,
            radial_decay=self.correction.radial_decay(effective_lr),
            decay_gain=full_gain * effective_lr / self.correction.peak_lr,
        )

    def steps_earlier(self, steps: int) -> EquilibriumRule:
        """The rule as it was so many steps ago, for a law that goes by the steps made."""
        check_count(0, steps=steps)
        return replace(self, steps_made=max(0, self.steps_made - steps))

    def under_decay(self) -> EquilibriumRule:
        """The rule that would hold with weight decay, whether or not there is any now."""
        return replace(self, family=self.family_with_decay or self.family)

    def relaxation_steps(self) -> float:
        """Steps in which the distance of a norm from its equilibrium falls by a factor of e.

        NaN where no law is known or none settles, and under Adam's coupled decay, whose rate depends on the gradient.
        """
        if self.family is None or not (self.settles and self.decay_is_separable):
            return math.nan
        return relaxation_steps(self.lr, self.radial_decay, self.family)

    def growth_power(self, radial_decay: Tensor) -> Tensor:
        """``q`` of an encoder's growth, ``R²`` growing as ``R^(2q)``: ``1 - (1 - q_table)/degree``.

        Args:
            radial_decay: ``lambda_rad`` of its vectors, ``[n]``; over that of the weights it is the degree of the
                network in its decayed weights, 2 where nothing decays.
        """
        check_tensors(radial_decay=radial_decay)
        unknown_degree = torch.full_like(radial_decay, torch.nan)
        degree = radial_decay / self.radial_decay if self.radial_decay > 0 else unknown_degree
        of_table = 0 if self.family is None else LAWS[self.family].growth_power
        return 1 - (1 - of_table) / degree.nan_to_num(_USUAL_DEGREE).clamp(min=1)

    def predict(
        self,
        second_moment: Tensor | float | None,
        dim: int,
        update_probability: Tensor | float = 1.0,
        *,
        kurtosis: Tensor | float | None = None,
    ) -> Tensor:
        """The equilibrium norm from gradients and hyper-parameters alone.

        ``R^power = e·source/(2·lambda_rad)``; :attr:`law` is the closed form of this optimizer. It holds for white
        tangential noise (theory: closed forms per optimizer).

        Args:
            second_moment: ``V²``, mean of ``|R·g_tan|²`` with absent steps counted as zero; ``[n]``. ``None`` will do
                for a law without V.
            dim: ``d``, length of an embedding.
            update_probability: ``p``, share of steps in which the row gets a gradient; ``[n]``.
            kurtosis: ``E[s⁴]/E[s²]²`` over those steps, ``[n]``. With it the laws of AdamW, Adam and Lion are right for
                rows that are rare or whose gradients differ in size, as their classes state.

        Returns:
            Norms in float64, ``[n]``; infinity where there is no weight decay. Under Adagrad and Adafactor, which have
            no equilibrium, what norms tend to with the years: 0 or infinity.

        Raises:
            ValueError: if no closed form is known for this optimizer, or what it needs is missing.
        """
        law = self._known_law()
        noise = self._known_noise(law.norm_needs, second_moment, dim, update_probability, kurtosis)
        if self.radial_decay <= 0:
            return torch.full_like(noise.second_moment, math.inf)
        return (self.lr / (2 * self.radial_decay) * law.source(self._settings(), noise)).pow(1 / law.power)

    def errors(
        self,
        second_moment: Tensor | float | None,
        dim: int,
        update_probability: Tensor | float,
        kurtosis: Tensor | float,
        *,
        steps: float,
        readings: Tensor | float | None = None,
    ) -> NormErrors | None:
        """How far chance takes settled rows from :meth:`predict`, over a window of so many steps.

        Args:
            second_moment: as for :meth:`predict`.
            dim: likewise.
            update_probability: likewise.
            kurtosis: ``E[s⁴]/E[s²]²`` over the steps with a gradient; ``[n]``, 1 where all gradients are alike.
            steps: how many the window lasts.
            readings: how many of them the moments are from, ``[n]``; ``None`` for all.

        Returns:
            The width of a norm around its equilibrium, and variances of what a window observes and predicts; ``None``
            where there is no equilibrium, or no such formula is known.

        Raises:
            ValueError: if no closed form is known for this optimizer, or what it needs is missing.

        Example:
            A row with a gradient in a tenth of the steps, watched for 2,000 steps:

            >>> from lightning_normdyn import equilibrium_rule
            >>> rule = equilibrium_rule(torch.optim.SGD([torch.ones(1)], lr=0.1, weight_decay=1e-2))
            >>> errors = rule.errors(2.0, 64, 0.1, 1.0, steps=2_000)
            >>> f"its norm varies by {errors.width:.1%} and is predicted to {errors.predicted.sqrt():.1%}"
            'its norm varies by 3.4% and is predicted to 1.7%'
        """
        check_positive(steps=steps)
        law = self._known_law()
        noise = self._known_noise(law.norm_needs, second_moment, dim, update_probability, kurtosis)
        sampling = self._sampling(noise, steps, readings)
        return law.errors(self._settings(), noise, sampling) if self.radial_decay > 0 else None

    def path_errors(
        self,
        start: Tensor,
        end: Tensor,
        second_moment: Tensor,
        dim: int,
        update_probability: Tensor | float,
        kurtosis: Tensor | float,
        *,
        lrs: RateTrace | EffectiveTrace | Iterable[float],
        steps: float,
        readings: Tensor | float | None = None,
    ) -> NormErrors | None:
        """The same of the norm at the end of a path, ``end`` being what :meth:`evolve` makes of ``start``.

        ``steps`` and ``readings`` are of the window that the moments are from, as for :meth:`errors`. If the path lies
        in that window, its covariance counts; a forecast from earlier moments has none.
        """
        check_positive(steps=steps)
        check_count(dim=dim)
        law, noise = self._known_law(), self._noise(second_moment, dim, update_probability, kurtosis)
        _check_norms(noise.second_moment, start=start, end=end)
        rule, segments = self._along(lrs)
        sampling = self._sampling(noise, steps, readings)
        return law.path_errors(most_precise(start), most_precise(end), rule._settings(), noise, sampling, segments)

    def judges(
        self,
        second_moment: Tensor | float | None,
        dim: int,
        update_probability: Tensor | float,
        kurtosis: Tensor | float,
        *,
        steps: float,
        readings: Tensor | float | None = None,
    ) -> Tensor:
        """Rows of which :meth:`predict` and :meth:`errors` hold: read often enough and met often enough; ``[n]``.

        Arguments as for :meth:`errors`, the probability being that of steps before the window.
        """
        law = self._known_law()
        noise = self._known_noise(law.norm_needs, second_moment, dim, update_probability, kurtosis)
        return law.judges(self._settings(), noise, self._sampling(noise, steps, readings))

    def angular_rate(
        self,
        second_moment: Tensor | float | None = None,
        dim: int | None = None,
        update_probability: Tensor | float = 1.0,
    ) -> Tensor:
        """The RMS angle by which a row turns in a step once its norm has settled.

        Where decay is apart from the gradient, ``sqrt(2·e·lambda_rad·q)`` whatever the gradients are, with q the mean
        square of a step over the growth of ``R²`` that it makes (Kosson et al. 2023, arXiv 2305.17212). Each law's
        class in ``core/dynamics/laws.py`` states its own. Steps without a gradient count.

        Args:
            second_moment: ``V²``, ``[n]``; for Adam and RMSprop with coupled decay alone.
            dim: ``d``; likewise.
            update_probability: ``p``, ``[n]``; for Lion alone.

        Returns:
            Radians a step in float64, ``[n]``; 0 where there is no weight decay, since norms then grow for ever.

        Raises:
            ValueError: if no closed form is known for this optimizer, or what it needs is missing.

        Example:
            >>> from lightning_normdyn import equilibrium_rule
            >>> rule = equilibrium_rule(torch.optim.SGD([torch.ones(1)], lr=0.1, momentum=0.9, weight_decay=0.00095))
            >>> rule.angular_rate()
            tensor(0.0100, dtype=torch.float64)
        """
        law = self._settling_law()
        noise = self._known_noise(law.turn_needs, second_moment, dim, update_probability)
        if self.radial_decay <= 0:
            return torch.zeros_like(noise.second_moment)
        return law.turn(self._settings(), noise)

    def decay_for_norm(
        self,
        norm: float,
        second_moment: Tensor | float | None = None,
        dim: int | None = None,
        update_probability: Tensor | float = 1.0,
    ) -> Tensor:
        """The radial decay at which rows settle at a norm: ``lambda_rad = e·source/(2·R^power)``, ``[n]``.

        The inverse of :meth:`predict`, with the same arguments; a rule without decay takes that of its optimizer with.

        Raises:
            ValueError: if no closed form is known for this optimizer, it has no equilibrium, or what it needs is
                missing.
        """
        check_positive(norm=norm)
        rule = self.under_decay()
        law = rule._settling_law()
        noise = rule._known_noise(law.norm_needs, second_moment, dim, update_probability)
        return law.decay_for_norm(norm, rule._settings(), noise)

    def decay_for_turn(
        self,
        angle: float,
        second_moment: Tensor | float | None = None,
        dim: int | None = None,
        update_probability: Tensor | float = 1.0,
    ) -> Tensor:
        """The radial decay at which settled rows turn by an angle a step: the inverse of :meth:`angular_rate`, ``[n]``.

        Raises:
            ValueError: if no closed form is known for this optimizer, or what it needs is missing.
        """
        check_positive(angle=angle)
        rule = self.under_decay()
        law = rule._settling_law()
        noise = rule._known_noise(law.turn_needs, second_moment, dim, update_probability)
        return law.decay_for_turn(angle, rule._settings(), noise)

    def evolve(
        self,
        norm: Tensor,
        second_moment: Tensor,
        dim: int,
        update_probability: Tensor | float = 1.0,
        *,
        lrs: RateTrace | EffectiveTrace | Iterable[float],
        kurtosis: Tensor | float | None = None,
        accumulated: Tensor | None = None,
        averages: Tensor | None = None,
    ) -> Tensor:
        """The norm after a sequence of learning rates, from where it stands now.

        The recursion of the law (theory: relaxation, transients, forecast), in closed form over each segment of the
        trace or integrated; the law's class in ``core/dynamics/laws.py`` states it. Works without weight decay too: the
        growth law.

        Args:
            norm: norms at the start, ``[n]``.
            second_moment: ``V²``, ``[n]``.
            dim: ``d``.
            update_probability: ``p``, ``[n]``.
            lrs: nominal learning rates, as in the optimizer's parameter group; or the effective ones of an
                :class:`~lightning_normdyn.core.EffectiveTrace`, where momentum or weight decay moved too.
            kurtosis: as for :meth:`predict`.
            accumulated: for Adagrad alone, the sum over each row of what the optimizer has in its accumulator at the
                start, ``[n]``; see :func:`lightning_normdyn.core.accumulated_squares`.
            averages: for a schedule-free optimizer that has made steps before, ``<z, z>`` and ``<z, y>`` of each row,
                ``[n, 2]``; see :func:`lightning_normdyn.core.optimizer_memory`.

        Returns:
            Norms at the end in float64, ``[n]``. NaN under a schedule-free optimizer in mid-run without its averages.

        Raises:
            ValueError: if no closed form is known for this optimizer, or the accumulator is missing.
        """
        check_count(dim=dim)
        law, noise = self._known_law(), self._noise(second_moment, dim, update_probability, kurtosis)
        _check_norms(noise.second_moment, norm=norm)
        if averages is not None:
            check_tensors(averages=averages)
            if averages.shape[-1:] != (2,):
                raise ValueError(f"averages: expected [n, 2], got {tuple(averages.shape)}; optimizer_memory reads them")
        if accumulated is None and "accumulated" in law.path_needs:
            raise ValueError(
                f"accumulated: expected the sum of squared gradients of each row, got None; {self.optimizer} steps by "
                "all gradients so far: pass accumulated_squares(optimizer, table)"
            )
        if accumulated is not None:
            check_tensors(accumulated=accumulated)
            noise = noise._replace(accumulated=_as_wide("accumulated", most_precise(accumulated), noise.second_moment))
        noise = noise._replace(averages=averages)
        rule, segments = self._along(lrs)
        return law.evolve(most_precise(norm), rule._settings(), noise, segments)

    def averaged(self, trace: EffectiveTrace) -> EquilibriumRule:
        """The rule at the averages of steps whose settings moved.

        A norm that hardly changes meanwhile loses ``R²·2·E(e·lambda_rad)`` a step and gains in proportion to
        ``E(e²)``, so it stays where the rule has ``lr = E(e²)/E(e)`` and ``lambda_rad = E(e·lambda_rad)/E(e)``.

        Args:
            trace: the steps; where all their rates are 0, decay stays as it is.

        Example:
            >>> from lightning_normdyn import equilibrium_rule
            >>> rule = equilibrium_rule(torch.optim.SGD([torch.ones(1)], lr=0.1, momentum=0.9, weight_decay=1e-3))
            >>> trace = EffectiveTrace()
            >>> for lr, decay in [(1.0, 0.001), (1.0, 0.003), (2.0, 0.003)]:
            ...     trace.append(lr, decay)
            >>> average = rule.averaged(trace)
            >>> round(average.lr, 6), round(average.radial_decay, 6)
            (1.5, 0.0025)
        """
        check_instance(EffectiveTrace, trace=trace, hint="EffectiveTrace.constant makes one of a rate and a decay")
        if not trace.mean:
            return replace(self, lr=0.0)
        decay = trace.radial_decay
        rule = self.under_decay() if decay > 0 else self  # now there may be none any more
        return replace(rule, lr=trace.noise_rate, radial_decay=decay, correction=None)  # which is in that average

    def _along(self, lrs: RateTrace | EffectiveTrace | Iterable[float]) -> tuple[EquilibriumRule, list[RateSegment]]:
        """The rule at the mean decay of steps, and their effective rates, which make up for where decay departs."""
        if isinstance(lrs, EffectiveTrace):
            rule = replace(self.averaged(lrs), lr=self.lr)
            return rule, lrs.segments_at(rule.radial_decay)
        trace = lrs if isinstance(lrs, RateTrace) else RateTrace.of(lrs)
        return self, trace.scaled(self.lr_gain)

    def _settings(self) -> Settings:
        return Settings(
            self.lr,
            self.radial_decay,
            self.first_beta,
            self.second_beta,
            self.nesterov,
            self.correction,
            self.step_memory,
            self.steps_made,
        )

    def _known_noise(
        self,
        needs: tuple[str, ...],
        second_moment: Tensor | float | None,
        dim: int | None,
        update_probability: Tensor | float,
        kurtosis: Tensor | float | None = None,
    ) -> Noise:
        """The noise with ones for what a law does not look at."""
        if dim is not None:
            check_count(dim=dim)
        arguments = {"second_moment": second_moment, "dim": dim}
        for name in needs:
            if arguments[name] is None:
                formula = self._known_law().formula
                raise ValueError(f"{name}: expected a value, got None; the law of {self.optimizer} needs it: {formula}")
        _check_scalars(second_moment, update_probability, kurtosis)
        v2 = _precise(1.0 if second_moment is None else second_moment)
        p = torch.as_tensor(update_probability, dtype=v2.dtype, device=v2.device)
        v2 = v2.expand(torch.broadcast_shapes(v2.shape, p.shape)) if v2.numel() == 1 else v2
        return self._noise(v2, 1 if dim is None else dim, p, kurtosis)

    def _noise(
        self,
        second_moment: Tensor | float,
        dim: int,
        update_probability: Tensor | float,
        kurtosis: Tensor | float | None = None,
    ) -> Noise:
        _check_scalars(second_moment, update_probability, kurtosis)
        v2 = _precise(second_moment)
        p = _as_wide("update_probability", update_probability, v2)
        return Noise(v2, dim, p, None if kurtosis is None else _as_wide("kurtosis", kurtosis, v2))

    @staticmethod
    def _sampling(noise: Noise, steps: float, readings: Tensor | float | None) -> Sampling:
        check_not_negative(steps=steps)
        if readings is not None and not isinstance(readings, Tensor):
            check_not_negative(readings=readings)
        return Sampling(steps, _as_wide("readings", steps if readings is None else readings, noise.second_moment))

    def _settling_law(self) -> Law:
        law = self._known_law()
        if not law.settles:
            raise ValueError(
                f"rule: expected an optimizer under which norms settle, got {self.optimizer}: {law.formula}"
            )
        return law

    def _known_law(self) -> Law:
        if self.family is None:
            raise ValueError(f"optimizer: no norm can be predicted: {self.reason}; the measured budget still holds")
        return LAWS[self.family]


def _precise(value: Tensor | float) -> Tensor:
    return most_precise(value) if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def _check_scalars(
    second_moment: Tensor | float | None, update_probability: Tensor | float, kurtosis: Tensor | float | None
) -> None:
    """Refuses plain numbers that no gradient has; numbers of a tensor are left to whoever made it."""
    if second_moment is not None and not isinstance(second_moment, Tensor):
        check_finite_number(second_moment=second_moment)
        check_not_negative(second_moment=second_moment)
    if not isinstance(update_probability, Tensor):
        check_finite_number(update_probability=update_probability)
        check_probabilities("update_probability", update_probability)
    if kurtosis is not None and not isinstance(kurtosis, Tensor):
        check_not_negative(kurtosis=kurtosis)
        if kurtosis < 1:
            raise ValueError(f"kurtosis: expected 1 or more, got {kurtosis}; 1 is that of gradients of one size")


def _check_norms(like: Tensor, **norms: object) -> None:
    """Refuses what is no norm for each row; NaN stands for one that is not known."""
    check_tensors(**norms)
    for name, lengths in norms.items():
        assert isinstance(lengths, Tensor)
        if like.ndim:
            _as_wide(name, lengths, like)
        if bool((lengths < 0).any()):
            raise ValueError(f"{name}: expected lengths from 0 up, got {float(lengths.min()):g}; pass norms")


def _as_wide(name: str, numbers: Tensor | float, like: Tensor) -> Tensor:
    """One number, or one a row, as one for each row of another argument."""
    column = torch.as_tensor(numbers, dtype=like.dtype, device=like.device)
    if column.ndim and column.shape != like.shape and column.shape != (1,):
        raise ValueError(
            f"{name}: expected one number, or one for each of {tuple(like.shape)} rows of second_moment, got "
            f"{tuple(column.shape)}"
        )
    return column.expand_as(like)


def check_rule(rule: object) -> None:
    """Refuses what is no rule of an optimizer.

    Raises:
        ValueError: naming the argument and what makes one.
    """
    if not isinstance(rule, EquilibriumRule):
        raise ValueError(
            f"rule: expected an EquilibriumRule, got {type(rule).__name__}; equilibrium_rule(optimizer) makes one"
        )
