"""Which exponent ranks best, between the exponents that were tried too, and how sure that is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.bootstrap import resample_counts
from lightning_normdyn.core.cubic_spline import spline_weights
from lightning_normdyn.core.interval import Interval, percentile_ends

_POINTS_A_STEP = 20
# Scores that differ by less, or by this share, are the same, summed in another order.
_TIE_TOLERANCE = 1e-12


class BestExponent(NamedTuple):
    """Where the mean measure is highest.

    Attributes:
        alpha: the exponent with its bootstrap interval over queries.
        flat: whether no query's measure differs between any two exponents, so that all are equally good and the
            interval is the whole range.
    """

    alpha: Interval
    flat: bool


def best_exponent(
    alphas: Tensor,
    values: Tensor,
    *,
    resamples: int = 2_000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> BestExponent:
    """Finds the maximum of the natural cubic spline through the mean measure at every exponent.

    A mean NDCG falls off steeply and unevenly on both sides of its peak: a parabola or a smoother is pulled to the
    flatter side (by up to 0.1 of an exponent on a grid with spacing 0.2), the spline is not.

    Args:
        alphas: exponents tried, ascending, ``[a]``.
        values: the measure of each query at each, ``[a, n]``, finite.
        resamples: of the bootstrap over queries.
        level: share of resamples inside the interval.
        generator: of random numbers, on the CPU; a fresh one with seed 0 if left out.

    Returns:
        The exponent, of several equally good ones that closest to 0; resolved to a twentieth of the grid's spacing.

    Example:
        >>> alphas = torch.linspace(-2, 2, 21, dtype=torch.float64)
        >>> values = 1 - (alphas.unsqueeze(1) - torch.tensor([0.6, 0.7, 0.8])).square()
        >>> round(best_exponent(alphas, values).alpha.value, 2)
        0.7
    """
    alphas, values = alphas.detach().cpu().double(), values.detach().cpu().double()
    if bool((values == values[:1]).all()):
        return BestExponent(Interval(0.0, float(alphas[0]), float(alphas[-1])), flat=True)
    points = _between(alphas)
    weights = spline_weights(alphas, points)
    chosen = _peak(points, values.mean(1).unsqueeze(0) @ weights.T)
    drawn = [
        _peak(points, counts @ values.T @ weights.T / values.shape[1])
        for counts in resample_counts(values.shape[1], resamples, generator=generator, width=2)
    ]
    ends = percentile_ends(torch.cat(drawn).unsqueeze(1), level)[0]
    return BestExponent(Interval(float(chosen), *ends), flat=False)


def closest_best(alphas: Tensor, scores: Tensor) -> Tensor:
    """Place of the best score in every row of ``[b, a]``; of equal ones, that with the exponent closest to 0."""
    tolerance = _TIE_TOLERANCE * scores.abs().amax(1, keepdim=True).clamp(min=1)
    best = scores >= scores.amax(1, keepdim=True) - tolerance
    return alphas.abs().expand_as(scores).where(best, torch.inf).argmin(1)


def _peak(points: Tensor, curves: Tensor) -> Tensor:
    return points[closest_best(points, curves)]


def _between(alphas: Tensor) -> Tensor:
    shares = torch.arange(_POINTS_A_STEP, dtype=torch.float64) / _POINTS_A_STEP
    inside = alphas[:-1].unsqueeze(1) + alphas.diff().unsqueeze(1) * shares
    return torch.cat((inside.flatten(), alphas[-1:]))
