"""Laws of optimizers for embedding tables: Adagrad, its row-wise kin, and Adam that steps where a gradient came.

Adagrad divides by the root of all squared gradients so far. Its steps shrink as 1/sqrt(t), so norms grow as a logarithm
of the time; there is no equilibrium, with decay or without. For each number of a row, ``lr²·g²/m`` is ``lr²`` times the
growth of ``ln m``, hence ``R²(T) = R²(0) + lr²·sum of ln(m(T)/m(0))`` whatever the gradients were
(:func:`adagrad_norm`); the laws here predict it from ``V²``, taking the numbers of a row as alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.core.dynamics.law import CommonLaw, DecayApart, Law, ObservedMean, repeats
from lightning_normdyn.core.dynamics.law_inputs import Noise, Settings
from lightning_normdyn.core.dynamics.laws import Family
from lightning_normdyn.core.dynamics.rates import RateSegment
from lightning_normdyn.core.number_checks import check_count, check_not_negative
from lightning_normdyn.core.tensor_checks import check_tensors

_FINEST = 0.05
"""Substep of a path, as a share of the steps in which the accumulator or the norm doubles."""


def adagrad_norm(norm: Tensor, before: Tensor, after: Tensor, lr: float, *, dim: int | None = None) -> Tensor:
    """The norm to which Adagrad's steps have taken rows, from what it has accumulated.

    ``R² <- R² + lr²·sum over the row of ln(m_after/m_before)``, exact up to the discreteness of steps (a step adds
    ``ln`` of its own growth at most) and to what gradients have along the rows; without weight decay, at one learning
    rate. This needs no gradient, so it also serves optimizers that step within ``backward()``, as those of FBGEMM do.

    Args:
        norm: norms at the start, ``[n]``.
        before: the accumulator then: ``state["sum"]`` of torch's Adagrad, ``[n, d]``, or one number for each row of a
            row-wise one (FBGEMM's ``momentum1``), ``[n]``. Above 0.
        after: the accumulator at the end, likewise.
        lr: learning rate.
        dim: ``d``, wanted for a row-wise accumulator, which is the mean over the row.

    Returns:
        Norms at the end, ``[n]`` in float64.

    Raises:
        ValueError: if the two accumulators differ in shape, or a row-wise one comes without ``dim``.

    Example:
        >>> before, after = torch.ones(1, 64), torch.full((1, 64), math.e)
        >>> adagrad_norm(torch.ones(1), before, after, lr=0.1)  # sqrt(1 + 0.01·64)
        tensor([1.2806], dtype=torch.float64)
        >>> adagrad_norm(torch.ones(1), before.mean(1), after.mean(1), lr=0.1, dim=64)
        tensor([1.2806], dtype=torch.float64)
    """
    check_tensors(norm=norm, before=before, after=after)
    check_not_negative(lr=lr)
    if dim is not None:
        check_count(dim=dim)
    if norm.ndim != 1 or bool((norm < 0).any()):
        raise ValueError(f"norm: expected lengths [n] from 0 up, got {tuple(norm.shape)}{_with_negative(norm)}")
    if before.shape != after.shape:
        raise ValueError(
            f"before, after: expected accumulators of one shape, got {tuple(before.shape)} and {tuple(after.shape)}"
        )
    if before.shape[:1] != norm.shape or before.ndim > 2:
        raise ValueError(
            f"before, after: expected a row, or one number, for each of {len(norm)} norms, got {tuple(before.shape)}"
        )
    if not bool(((before > 0) & (after >= before)).all()):
        raise ValueError(
            "before, after: expected sums of squares above 0 that never fall, got others; pass the accumulator at the "
            "start and at the end"
        )
    growth = (most_precise(after) / most_precise(before)).log()
    if growth.dim() == 1:
        if dim is None:
            raise ValueError("dim: expected the length of a row, got None; a row-wise accumulator does not show it")
        growth = growth.unsqueeze(1) * dim
    return (most_precise(norm).square() + lr**2 * growth.sum(1)).sqrt()


def _with_negative(norm: Tensor) -> str:
    return f" with {float(norm.min()):g} among them" if norm.numel() and bool((norm < 0).any()) else ""


class AdagradLaw(CommonLaw):
    """Steps divided by the root of all squared gradients so far; rows have no equilibrium.

    With ``A`` the sum of a row's accumulator, to which a touch adds ``s = |g|² = V²/(p·R²)``, a touch makes ``R²`` grow
    by ``lr²·d·s/(A + s)`` on average, also in the first steps (of n like gradients each is 1/n of the sum). Coupled
    decay comes with the gradient: ``R`` shrinks by ``lr·lambda·sqrt(d/A)`` of itself and ``A`` grows by ``lambda²·R²``,
    so that late in training ``R³ = lr·sqrt(d)·V/(2·lambda·sqrt(t))``: norms sink as ``t^(-1/6)``.

    Args:
        touched_only: whether decay spares a row in steps that bring it no gradient, as FBGEMM's does.
        decoupled: whether decay takes ``lr·lambda`` of a row, undivided.
    """

    growth = "R² grows by lr²·d·ln(A(T)/A(0)), A the accumulated squared gradient"
    power = 2
    growth_power = 0
    observed_mean: ObservedMean = "rms"
    norm_needs: tuple[str, ...] = ()
    turn_needs: tuple[str, ...] = ()
    path_needs: tuple[str, ...] = ("accumulated",)
    settles = False

    def __init__(self, *, touched_only: bool, decoupled: bool) -> None:
        self.touched_only, self.decay_is_separable = touched_only, decoupled
        course = "R² sinks as 1/sqrt(t)" if decoupled else "R sinks as t^(-1/6)"
        rows = ", decay acting on touched rows alone" if touched_only else ""
        self.formula = f"no norm is an equilibrium: steps shrink as 1/sqrt(t), so under decay {course}{rows}"

    def source(self, settings: Settings, noise: Noise) -> Tensor:
        """0, where norms tend to under decay."""
        del settings
        return torch.zeros_like(noise.second_moment)

    def turn(self, settings: Settings, noise: Noise) -> Tensor:
        """0: directions come to rest."""
        del settings
        return torch.zeros_like(noise.second_moment)

    def decay_for_turn(self, angle: float, settings: Settings, noise: Noise) -> Tensor:
        """NaN: there is none."""
        del angle, settings
        return torch.full_like(noise.second_moment, torch.nan)

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """Follows ``R²`` and ``A`` together, in substeps in which neither changes much."""
        assert noise.accumulated is not None
        squared, accumulated = norm.square(), noise.accumulated
        for segment in segments:
            left = float(segment.steps)
            while left > 0:
                span = min(left, self._span(squared, accumulated, segment, settings, noise))
                squared, accumulated = self._advance(squared, accumulated, segment, span, settings, noise)
                left -= span
        return squared.sqrt()

    def _gains(self, squared: Tensor, settings: Settings, noise: Noise) -> tuple[Tensor, Tensor]:
        """What ``A`` gains in a step from gradients, and from coupled decay."""
        gradient = (noise.second_moment / squared).nan_to_num(0.0, 0.0, 0.0)
        if self.decay_is_separable:
            return gradient, torch.zeros_like(gradient)
        decay = settings.radial_decay**2 * squared
        return gradient, decay * noise.update_probability if self.touched_only else decay

    def _span(
        self, squared: Tensor, accumulated: Tensor, segment: RateSegment, settings: Settings, noise: Noise
    ) -> float:
        """Steps until the fastest row has changed a little, at least one."""
        gradient, decay = self._gains(squared, settings, noise)
        p = noise.update_probability.clamp(min=torch.finfo(squared.dtype).tiny)
        doubling = (accumulated + gradient / p) / (gradient + decay)
        doubled_norm = squared * doubling / (segment.mean_square * noise.dim)
        shrink = self._decay_shares(accumulated + gradient / p, segment, settings, noise).reciprocal()
        fastest = torch.stack((doubling, doubled_norm, shrink)).nan_to_num(math.inf, math.inf)
        return max(1.0, _FINEST * float(fastest.min())) if fastest.numel() else math.inf

    def _decay_shares(self, accumulated: Tensor, segment: RateSegment, settings: Settings, noise: Noise) -> Tensor:
        """The share of ``R`` that decay takes in a step, ``[n]``."""
        share = settings.decay_share(segment.mean, segment.mean_square)
        shares = (
            torch.full_like(accumulated, share) if self.decay_is_separable else share * (noise.dim / accumulated).sqrt()
        )
        return shares * noise.update_probability if self.touched_only else shares

    def _advance(
        self,
        squared: Tensor,
        accumulated: Tensor,
        segment: RateSegment,
        span: float,
        settings: Settings,
        noise: Noise,
    ) -> tuple[Tensor, Tensor]:
        """``R²`` and ``A`` after ``span`` steps in which a touch adds as much as the first."""
        gradient, decay = self._gains(squared, settings, noise)
        p = noise.update_probability.clamp(min=torch.finfo(squared.dtype).tiny)
        gain = gradient + decay
        touch = gain / p
        later = accumulated + span * gain
        # sum over the touches k of touch/(A + k·touch)
        sum_of_shares = torch.digamma(later / touch + 1) - torch.digamma(accumulated / touch + 1)
        growth = segment.mean_square * noise.dim * (gradient / gain * sum_of_shares).nan_to_num(0.0, 0.0, 0.0)
        # the mean of 1/sqrt(A) over the substep
        start, end = (accumulated + touch / 2).sqrt(), (later + touch / 2).sqrt()
        middle = (start + end).square() / 4
        shares = self._decay_shares(middle, segment, settings, noise).nan_to_num(0.0, 0.0, 0.0)
        retention = (-2 * shares * span).exp()
        return squared * retention + growth * retention.sqrt(), later


class SparseAdamLaw(DecayApart):
    """Adam that neither moves a row nor lets its averages fade in steps without a gradient; it has no weight decay."""

    formula = "R² = lr·d·p / (2·lambda_rad)"
    growth = "R² grows by lr²·d·p a step"
    power = 2
    growth_power = 0
    observed_mean: ObservedMean = "rms"
    norm_needs: tuple[str, ...] = ("dim",)

    def source(self, settings: Settings, noise: Noise) -> Tensor:
        """``d·p``: a rare row takes fewer steps, each as long as any other's."""
        del settings
        return noise.dim * noise.update_probability

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """``R² <- R² + e²·d·p/(R²·w)``, ``w`` the mean of ``1/R²`` over the last 1/(1 - beta2) touches."""
        squared = norm.square()
        memory_mean = squared.reciprocal()
        forgets = (1 - settings.second_beta) * noise.update_probability
        for steps, lr, lr_squared in segments:
            step_retention = max(0.0, 1 - settings.decay_share(lr, lr_squared)) ** 2
            substeps = math.ceil(max(1.0, min(steps, steps * (1 - settings.second_beta) / 0.1)))
            span = steps / substeps
            retention, memory = step_retention**span, (1 - forgets) ** span
            gain = lr_squared * repeats(step_retention, retention, span)
            for _ in range(substeps):
                source = self.source(settings, noise) / (squared * memory_mean).nan_to_num(1, 1, 1)
                memory_mean = memory * memory_mean + (1 - memory) / squared
                squared = retention * squared + gain * source
        return squared.sqrt()


LAWS: dict[Family, Law] = {
    "adagrad": AdagradLaw(touched_only=False, decoupled=False),
    "rowwise_adagrad": AdagradLaw(touched_only=True, decoupled=False),
    "rowwise_adagradw": AdagradLaw(touched_only=True, decoupled=True),
    "sparse_adam": SparseAdamLaw(),
}
