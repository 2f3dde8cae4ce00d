"""Cross-validated gain of a chosen exponent, and the exponent where the mean measure peaks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.statistics.cubic_spline import spline_weights
from lightning_normdyn.core.statistics.interval import (
    Interval,
    bootstrap_intervals,
    check_level,
    percentile_ends,
    resample_counts,
)
from lightning_normdyn.core.statistics.sign_flip import flipped_share

_ROUNDING = 1e-9


class HeldOutGain(NamedTuple):
    """Gain over exponent 0 by cross-validation.

    Attributes:
        gain: mean over queries, each at the exponent chosen without its fold, with a paired bootstrap interval.
        p_value: of a sign-flip test that chooses anew, fold by fold, after every flip.
        choices: exponent chosen without each fold, ``[folds]``.
        gains: of each query, float64 ``[n]``.
    """

    gain: Interval
    p_value: float
    choices: Tensor
    gains: Tensor


def held_out_gain(
    alphas: Tensor,
    gains: Tensor,
    *,
    folds: int = 5,
    resamples: int = 2_000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> HeldOutGain:
    """Chooses an exponent on all folds but one, takes its gain on that one, for each fold in turn.

    The interval holds the choices fixed and draws queries. The test does not: under the null hypothesis a query's
    gains are as likely as their negatives, so every flip of signs runs the whole cross-validation again, and choosing
    is part of what is tested. Its statistic is ``sum(x) / sqrt(sum(x²))`` of the held-out gains: by their sum alone,
    exponents that ruin a ranking, whose gains are the largest once flipped, would hide any gain of another.

    Args:
        alphas: exponents tried, ``[a]``.
        gains: measure minus that at exponent 0 of the same query, ``[a, n]``, finite.
        folds: parts of about equal size into which queries fall at random.
        resamples: of the bootstrap, and flips of the test.
        level: share of resamples inside the interval.
        generator: of random numbers, on the CPU; a fresh one with seed 0 if left out.

    Returns:
        The record.

    Raises:
        ValueError: if there are fewer than two folds, fewer queries than folds, or a gain is not finite.

    Example:
        >>> alphas = torch.tensor([-1.0, 0.0, 1.0])
        >>> gains = torch.tensor([[-0.1] * 20, [0.0] * 20, [0.1, 0.2] * 10])
        >>> result = held_out_gain(alphas, gains)
        >>> result.choices.tolist(), round(result.gain.value, 3), result.p_value < 0.01
        ([1.0, 1.0, 1.0, 1.0, 1.0], 0.15, True)
    """
    alphas, gains = alphas.detach().cpu().double(), gains.detach().cpu().double()
    if gains.ndim != 2 or alphas.shape != gains.shape[:1]:
        raise ValueError(f"gains: expected [a, n] for a exponents, got {[*gains.shape]} for {[*alphas.shape]}")
    if not gains.isfinite().all():
        raise ValueError("gains: expected finite numbers, got NaN or infinity; leave out queries without a measure")
    queries = gains.shape[1]
    check_count(folds=folds)
    if not 2 <= folds <= queries:
        raise ValueError(f"folds: expected 2 to {queries}, the number of queries with a measure, got {folds}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    fold = torch.arange(queries).remainder(folds)[torch.randperm(queries, generator=generator)]
    places = _choose(alphas, _fold_sums(gains, fold, folds, torch.ones(1, queries, dtype=torch.float64)))[0]
    held_out = gains[places[fold], torch.arange(queries)]
    squares = _fold_sums(gains.square(), fold, folds, torch.ones(1, queries, dtype=torch.float64))[0]
    observed = _over(held_out.sum(), held_out.square().sum().sqrt())

    def mean(counts: Tensor) -> Tensor:
        return counts @ held_out.unsqueeze(1) / queries

    def reaches(signs: Tensor) -> Tensor:
        sums = _fold_sums(gains, fold, folds, signs)
        choices = _choose(alphas, sums).unsqueeze(2)
        total = sums.gather(2, choices).sum((1, 2))
        size = squares.expand_as(sums).gather(2, choices).sum((1, 2)).sqrt()
        return (_over(total, size) >= observed - _ROUNDING).unsqueeze(1)

    gain = bootstrap_intervals(mean, queries, resamples=resamples, level=level, generator=generator)[0]
    p_value = float(flipped_share(reaches, queries, flips=resamples, generator=generator))
    return HeldOutGain(gain, p_value, alphas[places], held_out)


def exchange_p_value(
    alphas: Tensor, gains: tuple[Tensor, Tensor], offset: Tensor, *, folds: int, flips: int, generator: torch.Generator
) -> float:
    """Two-sided p-value of a difference between two models' held-out gains, choosing anew after every exchange.

    If nothing tells the models apart, they may be exchanged query by query. So whole columns of gains change models at
    random, both cross-validations run again, and choosing is part of what is tested, as in :func:`held_out_gain`.

    Args:
        alphas: exponents tried, the same for both, ``[a]``.
        gains: of the first and of the second model over their own exponent 0, ``[a, n]`` each, finite.
        offset: further difference of each query, second minus first, ``[n]``; it changes sign with an exchange.
        folds: parts into which queries fall at random, the same for both.
        flips: random exchanges.
        generator: of random numbers.
    """
    first, second = gains
    queries = first.shape[1]
    fold = torch.arange(queries).remainder(folds)[torch.randperm(queries, generator=generator)]
    ones = torch.ones(1, queries, dtype=torch.float64)
    middle = _fold_sums((first + second) / 2, fold, folds, ones)

    def difference(signs: Tensor) -> Tensor:
        half = _fold_sums((second - first) / 2, fold, folds, signs)
        totals = [
            sums.gather(2, _choose(alphas, sums).unsqueeze(2)).sum((1, 2)) for sums in (middle - half, middle + half)
        ]
        return totals[1] - totals[0] + signs @ offset

    observed = float(difference(ones).abs())

    def reaches(signs: Tensor) -> Tensor:
        return (difference(signs).abs() >= observed - _ROUNDING).unsqueeze(1)

    return float(flipped_share(reaches, queries, flips=flips, generator=generator))


def _fold_sums(gains: Tensor, fold: Tensor, folds: int, signs: Tensor) -> Tensor:
    """Sum of signed gains in every fold at every exponent, ``[b, folds, a]``."""
    sums = [signs[:, fold == number] @ gains[:, fold == number].T for number in range(folds)]
    return torch.stack(sums, dim=1)


def _choose(alphas: Tensor, sums: Tensor) -> Tensor:
    """Place of the best exponent on all folds but one, ``[b, folds]``."""
    other_sums = sums.sum(1, keepdim=True) - sums
    return closest_best(alphas, other_sums.flatten(0, 1)).view(sums.shape[:2])


def _over(total: Tensor, size: Tensor) -> Tensor:
    """One over the other, 0 where both are."""
    return total / size.where(size > 0, 1)


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

    The spline is one of the exponent's place in the grid, between whose places exponents change linearly: on an even
    grid that is a spline of the exponent, on one that grows by a ratio no wide step inherits the slope of a narrow one.
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
    check_count(resamples=resamples, hint="2000 is usual")
    check_level(level)
    alphas, values = alphas.detach().cpu().double(), values.detach().cpu().double()
    if bool((values == values[:1]).all()):
        return BestExponent(Interval(0.0, float(alphas[0]), float(alphas[-1])), flat=True)
    places = _between(torch.arange(len(alphas), dtype=torch.float64))
    points = _between(alphas)
    weights = spline_weights(torch.arange(len(alphas)), places)
    peak = _peak(points, values.mean(1).unsqueeze(0) @ weights.T)
    resampled_peaks = [
        _peak(points, counts @ values.T @ weights.T / values.shape[1])
        for counts in resample_counts(values.shape[1], resamples, generator=generator, width=2)
    ]
    ends = percentile_ends(torch.cat(resampled_peaks).unsqueeze(1), level)[0]
    return BestExponent(Interval(float(peak), *ends), flat=False)


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
