"""Effective rank of the directions of embeddings, corrected for how few rows there are, with an interval."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike
from lightning_normdyn.core.statistics.directions import random_halves, unit_rows
from lightning_normdyn.core.statistics.interval import Interval

_LEAST_ROWS = 6
_ZERO = 1e-12  # squared length of a unit vector's part that is rounding
_DECADES = 10.0  # that the grid of an integral goes beyond the spectrum; what is farther is added in closed form
_STEPS = 16  # of the grid a decade
_CUTS = 8
_DEVIATIONS = 2.306  # of Student's t with a degree of freedom a cut, 97.5% of it below

Tail = Literal["fewest", "likely", "most"]


class EffectiveRank(NamedTuple):
    """How many directions embeddings spread over.

    Attributes:
        interval: of the effective rank of all rows there could be; where rows are no more than dimensions, its ends
            hold whatever the dimensions are that no row shows.
        sample_rank: of the rows as they are, which grows with their number.
        rows: n, without rows of zeros.
        dim: d.
    """

    interval: Interval
    sample_rank: float
    rows: int
    dim: int

    @property
    def has_unseen_dimensions(self) -> bool:
        """Whether rows are too few to show all dimensions, n <= d."""
        return self.rows <= self.dim


def effective_rank(vectors: ArrayLike) -> EffectiveRank:
    """Effective rank of directions about their mean: ``exp(-sum p log p)`` with ``p = s / sum s``.

    ``s`` are singular values (Roy, Vetterli, EUSIPCO 2007), here of unit vectors less their mean, so that a common
    direction, which :func:`common_direction` measures, counts apart. d for directions spread evenly, 1 on a line.

    Of n rows singular values spread more than those of the distribution they come from, and n - 1 of them are all there
    are: the plain value is too small, by half and more where n <= d. It is corrected by random-matrix theory: with
    ``t -> df(t) = sum l / (l + t)`` of the sample's eigenvalues l of the covariance, the distribution's
    ``sum x / (x + k)`` at ``k = t / (1 - df(t) / (n - 1))`` is ``df(t)`` (Marchenko, Pastur 1967; Silverstein 1995),
    and ``sum sqrt x`` and ``sum sqrt x log x``, which the entropy is made of, are integrals of that over k. With
    n <= d no k below a smallest one is seen; there the curve is continued to d by the slope at its end, and the
    interval's ends hold for the fewest and the most dimensions that fit to what is seen.

    Args:
        vectors: ``[n, d]``; norms do not count, and rows of zeros are left out. All are held in float64: of millions
            take some at random, as ``retrieval.audit.direction_health`` does.

    Returns:
        The rank with its 95% interval, on a logarithmic scale, by random halves of the rows; what bias is left is
        taken to fall as 1/n, and is taken off by the same halves. NaN of fewer than six rows with a direction, or where
        all have the same.

    Raises:
        ValueError: if they are no finite ``[n, d]``.

    Example:
        >>> vectors = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
        >>> rank = effective_rank(vectors)
        >>> round(rank.interval.value, 2), round(rank.sample_rank, 2), rank.has_unseen_dimensions
        (8.0, 7.98, False)
        >>> few = effective_rank(torch.randn(20, 64, generator=torch.Generator().manual_seed(0)))
        >>> few.interval.low < 64 <= few.interval.high, few.sample_rank < 19, few.has_unseen_dimensions
        (True, True, True)
    """
    directions = unit_rows("vectors", vectors)
    n, d = directions.shape
    eigenvalues = _eigenvalues(directions)
    if n < _LEAST_ROWS or not len(eigenvalues):
        return EffectiveRank(Interval(math.nan, math.nan, math.nan), math.nan, n, d)
    halves = torch.tensor(
        [_log_rank(_eigenvalues(half), len(half) - 1, d) for half in random_halves(directions, _CUTS)]
    )
    log_rank = _log_rank(eigenvalues, n - 1, d)
    # What is left of the bias falls as 1/n, so that halves have twice as much of it.
    value = 2 * log_rank - float(halves.mean())
    reach = _DEVIATIONS * float((halves - log_rank).square().mean().sqrt())
    ends = [value, *(_log_rank(eigenvalues, n - 1, d, tail) for tail in _tails(len(eigenvalues), n - 1, d))]
    interval = Interval(
        *(min(max(math.exp(end), 1.0), float(d)) for end in (value, min(ends) - reach, max(ends) + reach))
    )
    return EffectiveRank(interval, math.exp(_entropy(eigenvalues.sqrt())), n, d)


def _eigenvalues(directions: Tensor) -> Tensor:
    """Those of the covariance that are not zero, ascending, by the smaller of both Gram matrices."""
    n, d = directions.shape
    gaps = directions - directions.mean(0)
    gram = (gaps @ gaps.T if n <= d else gaps.T @ gaps) / max(1, n - 1)
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues[eigenvalues > _ZERO]


def _entropy(weights: Tensor) -> float:
    shares = weights / weights.sum()
    return float(-(shares * shares.log()).sum())


def _tails(count: int, n: int, d: int) -> tuple[Tail, ...]:
    """What may be below the smallest k that is seen; nothing, where rows show fewer directions than they could."""
    return ("fewest", "most") if count == n < d else ()


def _log_rank(eigenvalues: Tensor, n: int, d: int, tail: Tail = "likely") -> float:
    """``log sum s - (sum s log s) / sum s`` for the singular values s of the distribution; 0 of a point.

    With ``x = s²``, ``sum x^a = sin(pi a) / pi · integral of df(k) k^(a-1)``: at a = 1/2 the sum of s, and its
    derivative by a the sum of ``s log x``.
    """
    if not len(eigenvalues):
        return 0.0
    start, end = float(eigenvalues[0].log10()) - _DECADES, float(eigenvalues[-1].log10()) + _DECADES
    t, step = _grid(start, end)
    t = t.unsqueeze(1)
    shares = eigenvalues / (eigenvalues + t)
    df, remainder = shares.sum(1), (t / (eigenvalues + t)).sum(1) + (n - len(eigenvalues))
    k = n * t.squeeze(1) / remainder
    slope = 1 - (shares * (1 - shares)).sum(1) / remainder  # of log k by log t
    weight = _with_half_ends(df * k.sqrt() * slope * step)
    upper = 2 * df[-1] * k[-1].sqrt()
    sums = [weight.sum() + upper, (weight * k.log()).sum() + upper * (k[-1].log() + 2)]
    lower = _below(eigenvalues, k[0], n, d, tail) if len(eigenvalues) == n < d else _level(df[0], k[0])
    total, moment = sums[0] + lower[0], sums[1] + lower[1]
    return float((total / math.pi).log() - moment / (2 * total))


def _grid(start: float, end: float) -> tuple[Tensor, float]:
    """Numbers from ``10^start`` to ``10^end``, and the logarithm of the ratio of neighbours."""
    steps = math.ceil((end - start) * _STEPS)
    return torch.logspace(start, end, steps + 1, dtype=torch.float64), (end - start) / steps * math.log(10)


def _with_half_ends(terms: Tensor) -> Tensor:
    """Terms of the trapezoidal rule."""
    return torch.cat((terms[:1] / 2, terms[1:-1], terms[-1:] / 2))


def _level(df: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Both integrals from 0 to k of a constant."""
    area = 2 * df * k.sqrt()
    return area, area * (k.log() - 2)


def _below(eigenvalues: Tensor, k: Tensor, n: int, d: int, tail: Tail) -> tuple[Tensor, Tensor]:
    """Both integrals below the smallest k that n rows show, where ``df`` lies between n and ``min(d, n k0 / k)``.

    The likely course is Hill's, ``d / (1 + (k / b)^h)``, with the value n and the slope at that end: exact where all
    dimensions are alike, and a power law where their sizes follow one.
    """
    if tail == "fewest":
        return _level(torch.as_tensor(float(n), dtype=torch.float64), k)
    ratios, step = _grid(-_DECADES, 0.0)
    inverse, inverse_square = eigenvalues.reciprocal().sum(), eigenvalues.square().reciprocal().sum()
    slope = float(inverse.square() / (n * inverse_square))
    hill = min(1.0, slope / (1 - n / d))
    df = (n / ratios).clamp(max=d) if tail == "most" else d / (1 + (d / n - 1) * ratios**hill)
    places = k * ratios
    weight = _with_half_ends(df * places.sqrt() * step)
    end = _level(df[0], places[0])
    return weight.sum() + end[0], (weight * places.log()).sum() + end[1]
