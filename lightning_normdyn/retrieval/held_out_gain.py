"""What an exponent gains on queries that had no part in choosing it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.interval import Interval, bootstrap_intervals
from lightning_normdyn.core.sign_flip import flipped_share
from lightning_normdyn.retrieval.best_exponent import closest_best

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
        >>> found = held_out_gain(alphas, gains)
        >>> found.choices.tolist(), round(found.gain.value, 3), found.p_value < 0.01
        ([1.0, 1.0, 1.0, 1.0, 1.0], 0.15, True)
    """
    alphas, gains = alphas.detach().cpu().double(), gains.detach().cpu().double()
    if gains.ndim != 2 or alphas.shape != gains.shape[:1]:
        raise ValueError(f"gains: expected [a, n] for a exponents, got {[*gains.shape]} for {[*alphas.shape]}")
    if not gains.isfinite().all():
        raise ValueError("gains: expected finite numbers, got NaN or infinity; leave out queries without a measure")
    queries = gains.shape[1]
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
        chosen = _choose(alphas, sums).unsqueeze(2)
        total = sums.gather(2, chosen).sum((1, 2))
        size = squares.expand_as(sums).gather(2, chosen).sum((1, 2)).sqrt()
        return (_over(total, size) >= observed - _ROUNDING).unsqueeze(1)

    gain = bootstrap_intervals(mean, queries, resamples=resamples, level=level, generator=generator)[0]
    p_value = float(flipped_share(reaches, queries, flips=resamples, generator=generator))
    return HeldOutGain(gain, p_value, alphas[places], held_out)


def _fold_sums(gains: Tensor, fold: Tensor, folds: int, signs: Tensor) -> Tensor:
    """Sum of signed gains in every fold at every exponent, ``[b, folds, a]``."""
    parts = [signs[:, fold == at] @ gains[:, fold == at].T for at in range(folds)]
    return torch.stack(parts, dim=1)


def _choose(alphas: Tensor, sums: Tensor) -> Tensor:
    """Place of the best exponent on all folds but one, ``[b, folds]``."""
    others = sums.sum(1, keepdim=True) - sums
    return closest_best(alphas, others.flatten(0, 1)).view(sums.shape[:2])


def _over(total: Tensor, size: Tensor) -> Tensor:
    """One over the other, 0 where both are."""
    return total / size.where(size > 0, 1)
