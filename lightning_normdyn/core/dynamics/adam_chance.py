"""Chance in the steps of Adam and AdamW: what gradients of random size and time do to the memory of squares."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.law import known_kurtosis
from lightning_normdyn.core.dynamics.law_inputs import Noise, Settings
from lightning_normdyn.core.dynamics.norm_errors import direction_noise, overlap_noise
from lightning_normdyn.core.dynamics.shot_noise import ShotNoise, shot_noise, touch_noise

_NEARBY = 1.02
"""By what a kurtosis is multiplied for the slope of a gain in it."""


def _shot_noise_of(settings: Settings, noise: Noise) -> ShotNoise:
    assert noise.kurtosis is not None
    return shot_noise(noise.update_probability, settings.second_beta, noise.kurtosis, noise.dim)


def growth_by_chance(settings: Settings, noise: Noise) -> Tensor:
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


def decayed_persistence(settings: Settings, noise: Noise, share: float) -> float:
    """``P``, by which decay by a share a step shortens steps that momentum makes alike; 1 in the plain law."""
    if noise.kurtosis is None:
        return 1.0
    first = settings.first_beta
    later = first * (1 - share)
    return (1 - first) * (1 + later) / ((1 + first) * (1 - later))


def left_in_memory(settings: Settings, noise: Noise) -> Tensor:
    """What the second moment still has of a gradient by the time that momentum has moved the row, ``[n]``.

    Of the ``R²`` that a gradient adds, ``(1 - beta1^k)²`` is there after k steps: on average it comes after
    ``2·beta1/(1 - beta1) - beta1²/(1 - beta1²)``, and ``beta2`` to that is left. A rare row has nothing else in its
    memory, so the loss counts for the share ``alpha/(1 + alpha)``.
    """
    first, alpha = settings.first_beta, noise.update_probability / (1 - settings.second_beta)
    delay = 2 * first / (1 - first) - first**2 / (1 - first**2)
    return 1 - (1 - math.pow(settings.second_beta, delay)) * alpha / (1 + alpha)


def growth_and_decay(settings: Settings, noise: Noise) -> tuple[Tensor, Tensor]:
    """``S'`` and ``D`` under coupled decay; 1 where nobody knows the kurtosis.

    Besides chance, v knows the direction z of the row, since ``E g_i²`` goes as ``1 - z_i²``: where a row is long,
    decay is divided by less. That adds ``k·(d - 1)/(d·(d + 2))``, with ``k = f/(f + 2·a)`` for the part of the memory
    over which directions last.
    """
    p, forgets, dim = noise.update_probability, 1 - settings.second_beta, noise.dim
    if noise.kurtosis is None or not 0 < forgets < 1:
        return torch.ones_like(p), torch.ones_like(p)
    growth = growth_by_chance(settings, noise) * p / (p + forgets)
    plain_cube = settings.lr / (2 * settings.radial_decay or math.inf) * (dim * noise.second_moment).sqrt()
    turning = settings.lr**2 * dim / plain_cube.pow(2 / 3)
    knowledge = (forgets / (forgets + turning)).nan_to_num(0) * (dim - 1) / (dim * (dim + 2))
    return growth, _shot_noise_of(settings, noise).decay * (1 + knowledge)


class GradientChance(NamedTuple):
    """What rows owe to when they get gradients and how large these are, to second order. Tensors are ``[n]``.

    Attributes:
        touches: variance a step of whether there is a gradient, ``(1 - p)/p``.
        sizes: of how large it is, ``(kappa - 1)/p``.
        saturated: what that comes to in the growth of a row, which a large gradient does not make in proportion.
        unequal: of what a gradient makes, by how much is in memory. Where a gradient makes more, it also is more of
            the memory, so that what it then takes off later growth is in proportion: as with the touch itself.
        memory: ``A``, 1 less the elasticity: by how much a touch lessens later growth in all.
        left: see :func:`left_in_memory`.
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
    def of(cls, settings: Settings, noise: Noise) -> GradientChance:
        """Of rows whose kurtosis is known."""
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
            left=left_in_memory(settings, noise),
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
        direction = 0.0 if telescopes else direction_variance(settings, noise, rate)
        return rate**2 * (overlap_noise(settings.first_beta, noise.dim) + self.lasting) + radial + direction


def kurtosis_errors(settings: Settings, noise: Noise, readings: Tensor) -> tuple[Tensor, Tensor]:
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


def direction_variance(settings: Settings, noise: Noise, rate: Tensor | float) -> Tensor:
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


def mean_shift(variance: Tensor, touched: Tensor) -> Tensor:
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
