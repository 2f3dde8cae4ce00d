"""Steps divided by the root of a few remembered squares: what chance in these takes off, and adds to decay.

An optimizer that divides by ``sqrt(v)`` remembers squared gradients ``q`` of each number of a row with the weights
``beta2^k``. A row with a gradient in a share p of the steps has some ``alpha = p/(1 - beta2)`` of them in memory, so v
is shot noise: at a touch, ``v = q + N``, N what is left of the touches before. Its Laplace transform is known, for
gradients with Gaussian coordinates whose squared lengths are gamma distributed with ``kappa = E[s⁴]/E[s²]²``::

    E exp(-theta·N) = exp(-alpha·Psi(theta)),    Psi(theta) = E_s[2·ln((1 + sqrt(1 + 2·s²·theta))/2)]

from which follow, as integrals over theta, both averages that a law of the norm needs. Touches come by chance there, in
any number; that a step has one at most makes N less by ``p`` and its variance by ``p²/(2·(1 - beta2))``, to first order
the gain more by ``p/(2·(1 + alpha))`` of it and the decay less by ``3·p/(16·(1 + alpha))``.

What a touch does to growth, ``phi = E_i[q/(q + N)]`` over the numbers i of a row, differs from touch to touch, and so
does what it does to later ones. Means of products over two numbers, which have the gaps and sizes of touches in common,
take the transform of both at once::

    E exp(-theta·N_i - theta'·N_j) = exp(-alpha·Psi(theta, theta'))
    Psi(theta, theta') = E_s[2·ln((sqrt(1 + 2·s²·theta) + sqrt(1 + 2·s²·theta'))/2)]
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

_LOG_ALPHAS = (math.log(1e-3), math.log(1e4), 162)
_KURTOSES = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 9.0)
_LOG_THETAS = (-40.0, 40.0, 1601)
_SIZES = 24
_LEAST_ALPHA = 0.55
"""Where ``E[v^(-1/2)]`` is taken at the least; it is infinite below a half."""
_PAIR_LOG_ALPHAS = (math.log(1e-3), math.log(300), 64)
_PAIR_LOG_THETAS = (-32.0, 22.0, 109)


class ShotNoise(NamedTuple):
    """What chance in the second moment does to rows. Tensors are ``[n]``.

    Attributes:
        gain: ``S = alpha·E[q/(q + N)]``, mean square of a step's numbers over that with a settled second moment; below
            ``alpha/(1 + alpha)``, what the means alone would give.
        elasticity: ``d ln S/d ln p``: 1 for rows that are alone with each gradient, 0 for frequent ones.
        decay: ``sqrt(E v)·E[v^(-1/2)]``, by which a decay that is divided by ``sqrt(v)`` too is larger.
    """

    gain: Tensor
    elasticity: Tensor
    decay: Tensor


def shot_noise(update_probability: Tensor, second_beta: float, kurtosis: Tensor, dim: int) -> ShotNoise:
    """The averages for rows, interpolated in a table of the integrals (right to 0.1%).

    Args:
        update_probability: ``p``, ``[n]``.
        second_beta: decay of the second moment, above 0 and below 1.
        kurtosis: ``kappa`` of the rows' gradients, ``[n]``; among Gaussian numbers it would be ``1 + 2/d``.
        dim: ``d``.

    Example:
        >>> frequent, rare = torch.tensor([1.0, 0.001], dtype=torch.float64)
        >>> noise = shot_noise(torch.stack((frequent, rare)), 0.99, torch.ones(2, dtype=torch.float64), 1_000)
        >>> [round(value, 2) for value in noise.gain.tolist()]  # 1 - 1.5/alpha, and alpha·(1 - alpha·(2·ln 2 - 1))
        [0.99, 0.09]
    """
    gains, elasticities, decays = (grid.to(update_probability) for grid in _grids())
    alpha = update_probability / (1 - second_beta)
    place = _place(alpha.clamp(min=math.exp(_LOG_ALPHAS[0])).log(), _LOG_ALPHAS)
    column = _column(kurtosis / (1 + 2 / dim))
    plain = alpha / (1 + alpha)
    least_place = _place(alpha.clamp(min=_LEAST_ALPHA).log(), _LOG_ALPHAS)
    at_most_one = update_probability / (1 + alpha)
    return ShotNoise(
        plain * _interpolated(gains, place, column).exp() * (1 + at_most_one / 2),
        _interpolated(elasticities, place, column).clamp(0, 1),
        _interpolated(decays, least_place, column).exp() * (1 - 3 * at_most_one / 16),
    )


class TouchNoise(NamedTuple):
    """How the growth that touches make differs from touch to touch. Tensors are ``[n]``.

    Attributes:
        memory: variance of ``phi`` over its squared mean that the touches before cause: ``alpha/3`` for rare rows, and
            ``kappa/(2·alpha)`` for frequent ones.
        sizes: that which the size of the touch itself causes, over that of a step that went as ``s^(2·A)``, A being 1
            less the elasticity: it saturates.
        lasting: variance over the squared mean of what the size of a touch comes to once all that it takes off later
            growth is counted: ``E_i[phi] - alpha·E_i[phi'·Psi_s]``; 0 if growth went by the mean square alone.
        forgetting: the rate at which what a touch takes off later growth fades, over ``1 - beta2``: it falls from
            ``K = alpha·E[phi(N) - phi(N + q)]/E[phi]`` and comes to A in all, so ``K/A``.
        turned: share of a step's square that is not along the gradient, ``1 - E_i[D·g]²/(E_i[D²]·E_i[g²])`` for the
            step ``D = g/sqrt(q + N)``: ``1 - 2/pi``, that of a sign, for rare rows, and ``kappa/(4·alpha)`` for
            frequent ones.
    """

    memory: Tensor
    sizes: Tensor
    lasting: Tensor
    forgetting: Tensor
    turned: Tensor


def touch_noise(update_probability: Tensor, second_beta: float, kurtosis: Tensor, dim: int) -> TouchNoise:
    """The variances for rows, interpolated in a table of the integrals; arguments as for :func:`shot_noise`.

    Args:
        update_probability: ``p``, ``[n]``.
        second_beta: decay of the second moment, above 0 and below 1.
        kurtosis: ``kappa``, ``[n]``.
        dim: ``d``.

    Example:
        >>> p = torch.tensor([1.0, 0.0001], dtype=torch.float64)
        >>> [round(value, 4) for value in touch_noise(p, 0.99, torch.ones(2).double(), 1_000).turned.tolist()]
        [0.0025, 0.359]
    """
    grids = [grid.to(update_probability) for grid in _pair_grids()]
    alpha = update_probability / (1 - second_beta)
    last = math.exp(_PAIR_LOG_ALPHAS[1])
    place = _place(alpha.clamp(min=math.exp(_PAIR_LOG_ALPHAS[0])).log(), _PAIR_LOG_ALPHAS)
    column = _column(kurtosis / (1 + 2 / dim))
    memory, sizes, lasting, forgetting, turned = (_interpolated(grid, place, column) for grid in grids)
    beyond = (last / alpha).clamp(max=1)
    return TouchNoise(
        memory.exp() * beyond,
        sizes.clamp(0, 1),
        lasting.clamp(min=0) * beyond,
        forgetting.clamp(0, 1),
        turned.exp() * beyond,
    )


@lru_cache(maxsize=1)
def _pair_grids() -> tuple[Tensor, ...]:
    """The attributes of :class:`TouchNoise`, the first and the last as logarithms, by ln alpha and kappa."""
    alphas = torch.linspace(*_PAIR_LOG_ALPHAS, dtype=torch.float64).exp()
    thetas = torch.linspace(*_PAIR_LOG_THETAS, dtype=torch.float64).exp()
    measure = (_PAIR_LOG_THETAS[1] - _PAIR_LOG_THETAS[0]) / (_PAIR_LOG_THETAS[2] - 1) * thetas
    columns: list[tuple[Tensor, ...]] = []
    for kurtosis in _KURTOSES:
        sizes, weights = _gamma_nodes(kurtosis)
        root = (1 + 2 * thetas[:, None] * sizes).sqrt()
        psi_of_size = 2 * ((1 + root) / 2).log()
        psi = psi_of_size @ weights
        pair = 2 * ((root[:, None] + root[None]) / 2).log() @ weights
        squares = sizes / root**3 * measure[:, None]  # E[q·exp(-theta·q)]
        products = squares / (math.pi * thetas).sqrt()[:, None]  # E[q/sqrt(q + N)]
        of_one = (-alphas[:, None] * psi).exp()
        of_size, mean_square = of_one @ squares, of_one @ (squares @ weights)
        elasticity = 1 - alphas * (of_one @ (squares @ weights * psi)) / mean_square
        after = (of_one * (root.reciprocal() @ weights)) @ (squares @ weights)  # with one more touch in N
        both = torch.stack([(-alpha * pair).exp() for alpha in alphas])
        variance = torch.einsum("aij,is,js,s->a", both, squares, squares, weights) / mean_square.square() - 1
        by_size = of_size.square() @ weights / mean_square.square() - 1
        in_all = of_size - alphas[:, None] * ((of_one * (squares @ weights)) @ psi_of_size)
        lasting = in_all.square() @ weights / mean_square.square() - elasticity.square()
        along = torch.einsum("aij,is,js,s->a", both, products, products, weights / sizes) / mean_square
        memory = 1 - elasticity
        saturation = by_size / (memory.square() * (kurtosis - 1)) if kurtosis > 1 else torch.ones_like(memory)
        columns.append(
            (
                (variance - by_size).log(),
                saturation,
                lasting,
                alphas * (1 - after / mean_square) / memory,
                (1 - along).log(),
            )
        )
    columns[0] = (columns[0][0], columns[1][1], *columns[0][2:])
    return tuple(torch.stack(column, 1) for column in zip(*columns, strict=True))


@lru_cache(maxsize=1)
def _grids() -> tuple[Tensor, Tensor, Tensor]:
    """``ln(S·(1 + alpha)/alpha)``, ``d ln S/d ln alpha`` and the logarithm of the decay's, by ln alpha and kappa."""
    alphas = torch.linspace(*_LOG_ALPHAS, dtype=torch.float64).exp()
    thetas = torch.linspace(*_LOG_THETAS, dtype=torch.float64).exp()
    measure = (_LOG_THETAS[1] - _LOG_THETAS[0]) / (_LOG_THETAS[2] - 1) * thetas
    gains, elasticities, decays = [], [], []
    for kurtosis in _KURTOSES:
        sizes, weights = _gamma_nodes(kurtosis)
        root = (1 + 2 * thetas[:, None] * sizes).sqrt()
        psi = 2 * ((1 + root) / 2).log() @ weights
        own = (sizes / root**3) @ weights  # E[q·exp(-theta·q)]
        transform = (-alphas[:, None] * psi).exp()
        share = transform @ (own * measure)
        gains.append((share * (1 + alphas)).log())
        elasticities.append(1 - alphas * (transform @ (own * measure * psi)) / share)
        inverse_root = transform @ (measure / (math.pi * thetas).sqrt())
        decays.append((alphas.sqrt() * inverse_root).log())
    return torch.stack(gains, 1), torch.stack(elasticities, 1), torch.stack(decays, 1)


def _gamma_nodes(kurtosis: float) -> tuple[Tensor, Tensor]:
    """Gauss-Laguerre nodes and weights of a gamma distribution with mean 1 and ``E[q²] = kappa``."""
    if kurtosis <= 1:
        return torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    shape = 1 / (kurtosis - 1)
    order = torch.arange(_SIZES, dtype=torch.float64)
    beside = (order[1:] * (order[1:] + shape - 1)).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(2 * order + shape) + torch.diag(beside, 1) + torch.diag(beside, -1))
    return nodes / shape, vectors[0].square()


def _place(value: Tensor, grid: tuple[float, float, int]) -> Tensor:
    first, last, count = grid
    return ((value - first) / (last - first) * (count - 1)).clamp(0, count - 1)


def _column(kurtosis: Tensor) -> Tensor:
    """Where a kurtosis lies among those of the grid; below 1 the first interval is prolonged."""
    bounds = torch.tensor(_KURTOSES, dtype=kurtosis.dtype, device=kurtosis.device)
    kurtosis = kurtosis.clamp(0.5, _KURTOSES[-1])
    below = (torch.searchsorted(bounds, kurtosis.contiguous(), right=True) - 1).clamp(0, len(bounds) - 2)
    return below + (kurtosis - bounds[below]) / (bounds[below + 1] - bounds[below])


def _interpolated(grid: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Bilinear in the grid's rows and columns."""
    top = row.floor().long().clamp(0, grid.shape[0] - 2)
    left = column.floor().long().clamp(0, grid.shape[1] - 2)
    down, along = row - top, column - left
    upper = grid[top, left].lerp(grid[top, left + 1], along)
    return upper.lerp(grid[top + 1, left].lerp(grid[top + 1, left + 1], along), down)
