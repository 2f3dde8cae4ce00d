"""Laws of optimizers that look at a matrix as a whole: Muon and Adafactor."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.law import DecayApart, Law, ObservedMean, repeats
from lightning_normdyn.core.dynamics.law_inputs import Noise, Settings, StepMemory
from lightning_normdyn.core.dynamics.laws import Family
from lightning_normdyn.core.dynamics.rates import RateSegment

_SMALLER_SIDE = 32
_LARGER_SIDE = 1024
_LARGEST_RATIO = 32
_NUMBERS = 32_768
_NODES = 17
_FINEST = 0.05
"""Substep of a path, as a share of the steps in which anything changes."""


class MuonLaw(DecayApart):
    """Steps of a set size, made of a momentum by orthogonalisation: ``R²`` relaxes linearly.

    ``R`` is the norm of a row of the matrix, rows being alike, with ``d`` its length; with ``d`` the size of the whole
    matrix it is the matrix's Frobenius norm. Directions turn by ``sqrt(2·lr·lambda/C)`` a step.
    """

    formula = "R² = lr·d·u²·C / (2·lambda_rad), u² the mean square of an update, C the sum of its autocorrelation"
    growth = "R² grows by lr²·d·u²·C a step, u² the mean square of an update, C the sum of its autocorrelation"
    power = 2
    growth_power = 0
    observed_mean: ObservedMean = "rms"
    accuracy = 0.01
    norm_needs: tuple[str, ...] = ("dim",)

    def source(self, settings: Settings, noise: Noise) -> Tensor:
        """``d·u²·C``, see :func:`muon_memory`."""
        assert settings.step_memory is not None
        mean_square, persistence = settings.step_memory
        return torch.full_like(noise.second_moment, noise.dim * mean_square * persistence)

    def step_share(self, settings: Settings, noise: Noise) -> Tensor:
        """``1/C``: a step is as long as any other."""
        assert settings.step_memory is not None
        return torch.full_like(noise.second_moment, 1 / settings.step_memory.persistence)

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """``R² <- (1 - a)²·R² + e²·d·u²·C``, summed up over each segment."""
        squared, source = norm.square(), self.source(settings, noise)
        for steps, lr, lr_squared in segments:
            step_retention = max(0.0, 1 - settings.decay_share(lr, lr_squared)) ** 2
            retention = step_retention**steps
            squared = retention * squared + lr_squared * source * repeats(step_retention, retention, steps)
        return squared.sqrt()


@lru_cache(maxsize=256)
def muon_memory(
    shape: tuple[int, int],
    momentum: float,
    nesterov: bool,
    coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
    steps: int = 5,
) -> StepMemory:
    """Size and persistence of Muon's updates to a matrix, for white gradients.

    An update is ``U(B)``, the Newton-Schulz iterates of a momentum ``B``. Momenta of k steps apart are Gaussian with
    the correlation ``rho_k`` that their weights give, so ``E<U(B), U(B')> = |U|²·f(rho_k)`` with one function ``f`` for
    all lags: the same part that the arcsine plays for signs. ``C = 1 + 2·sum of f(rho_k)``. Here ``|U|²`` and ``f`` are
    averages over Gaussian matrices of the same proportions, scaled to the singular values of the real size; ``f`` is
    linear for very oblong matrices and lies below for square ones.

    Args:
        shape: of the matrix.
        momentum: mu, at least 0 and below 1.
        nesterov: whether the present gradient is mixed in once more.
        coefficients: of the iteration.
        steps: how many iterations.

    Returns:
        The mean square of an update's numbers, before the rate is adjusted to the shape, and ``C``.

    Example:
        >>> memory = muon_memory((32, 32), 0.95, True)
        >>> f"|U|² = {memory.mean_square * 32:.2f} of 32, C = {memory.persistence:.1f}"
        '|U|² = 0.77 of 32, C = 24.1'
    """
    small, large = min(shape), max(shape)
    ratio = min(large / small, _LARGEST_RATIO)
    side = min(small, _SMALLER_SIDE, int(_LARGER_SIDE / ratio))
    breadth = round(side * ratio)
    samples = math.ceil(_NUMBERS / (side * breadth))
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, samples, side, breadth, generator=generator, dtype=torch.float64)
    first, second = torch.cat((first, first)), torch.cat((second, -second))  # so that their chance overlap cancels
    scale = math.sqrt(side / small)
    update = _orthogonalised(first, scale, coefficients, steps)
    square = float(update.square().sum((1, 2)).mean())
    lags = _momentum_correlations(momentum, nesterov)
    agreement = torch.zeros(_NODES, dtype=torch.float64)
    for node in range(_NODES - 1):  # even in sqrt(1 - rho), in which f is smooth
        rho = 1 - (node / (_NODES - 1)) ** 2
        mixture = rho * first + math.sqrt(1 - rho**2) * second
        later = _orthogonalised(mixture, scale, coefficients, steps)
        agreement[node] = (update * later).sum((1, 2)).mean()
    persistence = 1 + 2 * float(_interpolated(agreement / square, (1 - lags[1:]).clamp(min=0).sqrt()).sum())
    return StepMemory(square / side / large, persistence)


def _orthogonalised(matrices: Tensor, scale: float, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """Newton-Schulz iterates of wide matrices, from ``scale`` times unit Frobenius norm."""
    linear, cubic, quintic = coefficients
    x: Tensor = matrices * (scale / matrices.flatten(1).norm(dim=1))[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = linear * x + (cubic * gram + quintic * gram @ gram) @ x
    return x


def _momentum_correlations(momentum: float, nesterov: bool) -> Tensor:
    """``rho_k`` of what the update is made of, for all lags that count."""
    count = math.ceil(40 / (1 - momentum)) if momentum else 1
    weights = (1 - momentum) * momentum ** torch.arange(count, dtype=torch.float64)
    if nesterov:
        weights = momentum * weights
        weights[0] += 1 - momentum
    products = torch.stack([(weights[: count - lag] * weights[lag:]).sum() for lag in range(count)])
    return products / products[0]


def _interpolated(values: Tensor, places: Tensor) -> Tensor:
    """Values on an even grid over 0 to 1, read in between."""
    position = places * (len(values) - 1)
    below = position.floor().long().clamp(max=len(values) - 2)
    return values[below].lerp(values[below + 1], position - below)


class AdafactorLaw(DecayApart):
    """Steps in proportion to the RMS of the whole table: norms have no equilibrium, but draw together.

    torch's: ``alpha = max(1e-3, RMS(x))·min(lr, 1/sqrt(t))`` times ``g/sqrt(v)``, clipped to an RMS of 1, and decay
    ``lr·lambda`` apart. So ``R²`` of a row grows by ``rho² = min(lr, 1/sqrt(t))²`` of the table's mean ``R²`` and
    shrinks by ``2·lr·lambda`` of its own: all rows tend to one norm, within some ``1/rho²`` steps, and that norm grows
    by ``rho² - 2·lr·lambda`` of itself. Decay of ``lr/2`` keeps it, as long as ``t`` is below ``1/lr²``.
    """

    formula = "no norm is an equilibrium: R² grows by rho² - 2·lr·lambda of itself a step, rho = min(lr, 1/sqrt(t))"
    growth = "R² grows by rho² of the table's mean R² a step, rho = min(lr, 1/sqrt(t))"
    power = 2
    growth_power = 0  # of the table's RMS, which one row hardly changes
    observed_mean: ObservedMean = "rms"
    norm_needs: tuple[str, ...] = ()
    settles = False

    def source(self, settings: Settings, noise: Noise) -> Tensor:
        """Infinity where norms grow for ever, 0 where they sink for ever."""
        grows = self._rho(settings, settings.lr) ** 2 > 2 * settings.lr * settings.radial_decay
        return torch.full_like(noise.second_moment, math.inf if grows else 0.0)

    def evolve(self, norm: Tensor, settings: Settings, noise: Noise, segments: list[RateSegment]) -> Tensor:
        """Follows all rows of a table together; rows that are left out must be like those that are given.

        The second moment is an average over some ``t^0.8`` steps, begun at the first. ``x``, the mean square of an
        update before clipping, varies with the rows that a step touches: for a normal ``x`` of mean m and deviation s,
        ``E min(x, 1) = m·Phi(z) - s·phi(z) + 1 - Phi(z)`` with ``z = (1 - m)/s``.
        """
        squared, p = norm.square(), noise.update_probability
        memory_mean, step_count = squared.reciprocal(), float(settings.steps_made)
        for segment in segments:
            left = float(segment.steps)
            while left > 0:
                forgets = (step_count + 1) ** -0.8
                rho = min(segment.mean, (step_count + 1) ** -0.5)
                span = min(left, max(1.0, _FINEST * min(1 / forgets, 1 / rho**2 if rho else math.inf)))
                touch_share = (p / (p + forgets * (step_count > 0))).nan_to_num(0.0)
                step = touch_share / (squared * memory_mean).nan_to_num(1, 1, 1)
                scale = (squared.mean() / noise.dim).clamp(min=1e-6) * noise.dim
                share = settings.decay_share(segment.mean, segment.mean_square)
                growth = min(segment.mean_square, (step_count + 1) ** -1.0) * scale * step * _clipped_share(step, p)
                memory = (1 - forgets) ** span
                memory_mean = memory * memory_mean + (1 - memory) / squared
                squared = max(0.0, 1 - share) ** (2 * span) * squared + span * growth
                step_count, left = step_count + span, left - span
        return squared.sqrt()

    @staticmethod
    def _rho(settings: Settings, lr: float) -> float:
        return min(lr, 1 / math.sqrt(settings.steps_made + 1))


def _clipped_share(step: Tensor, p: Tensor) -> Tensor:
    """What clipping leaves of the growth, ``E min(x, 1)/E x``, from the mean squares of each row's step."""
    mean = step.mean()
    spread = (((1 - p) / p.clamp(min=torch.finfo(p.dtype).tiny)) * step.square()).sum().sqrt() / len(step)
    z = (1 - mean) / spread.clamp(min=1e-12)
    below = torch.special.ndtr(z)
    density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
    share: Tensor = (mean * below - spread * density + 1 - below) / mean
    return share.nan_to_num(1.0)


LAWS: dict[Family, Law] = {"muon": MuonLaw(), "adafactor": AdafactorLaw()}
