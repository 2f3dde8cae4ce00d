"""Bootstrap intervals: a statistic with its interval, by resampling the items that it was computed from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.number_checks import check_count, check_share
from lightning_normdyn.core.object_checks import check_generator


class Interval(NamedTuple):
    """A number and where it may lie.

    Attributes:
        value: of the items at hand.
        low: lower end of its interval.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside; an interval that is not known excludes nothing."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_intervals(
    statistic: Callable[[Tensor], Tensor],
    items: int,
    *,
    resamples: int = 2_000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
    width: int = 1,
) -> list[Interval]:
    """Percentile bootstrap of several statistics of the same items, all over the same resamples.

    Because every statistic sees the same draws, a difference of two columns is a paired comparison.

    Args:
        statistic: of counts ``[b, items]``, how often each item was drawn in each of ``b`` resamples, float64; gives
            ``[b, k]``, one column a statistic. Counts of one are the items themselves.
        items: how many there are.
        resamples: of the bootstrap; 0 leaves the ends NaN.
        level: share of resamples inside an interval.
        generator: of random numbers, on the CPU; a fresh one with seed 0 if left out.
        width: numbers that the statistic needs for each item of a resample, so that memory stays bounded.

    Returns:
        The intervals of the ``k`` statistics; NaN throughout if there are no items.

    Raises:
        ValueError: if ``level`` is no share, or ``resamples`` no whole number from 0 up.

    Example:
        >>> values = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
        >>> mean, = bootstrap_intervals(lambda counts: counts @ values.unsqueeze(1) / counts.sum(1, keepdim=True), 4)
        >>> mean.value, 1 <= mean.low < mean.value < mean.high <= 4
        (2.5, True)
    """
    check_level(level)
    check_count(0, resamples=resamples)
    values = statistic(torch.ones(1, items, dtype=torch.float64))[0].tolist()
    if not items or not resamples:
        return [Interval(value if items else math.nan, math.nan, math.nan) for value in values]
    draws = torch.cat(
        [statistic(counts) for counts in resample_counts(items, resamples, generator=generator, width=width)]
    )
    return [Interval(value, *ends) for value, ends in zip(values, percentile_ends(draws, level), strict=True)]


def percentile_ends(draws: Tensor, level: float) -> list[tuple[float, float]]:
    """The two quantiles that hold a share ``level`` of draws ``[b, k]`` between them, for each column."""
    edges = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=draws.dtype)
    low, high = torch.nanquantile(draws, edges, dim=0).tolist()
    return list(zip(low, high, strict=True))


def check_level(level: float) -> None:
    """Raises ValueError unless the level is a share."""
    check_share(level=level, hint="0.95 is usual")


_MOST_AT_ONCE = 2**22


def resample_counts(
    items: int, resamples: int, *, generator: torch.Generator | None = None, width: int = 1
) -> Iterator[Tensor]:
    """Draws as many items as there are, with replacement, again and again.

    Args:
        items: how many there are to draw from.
        resamples: how often to draw.
        generator: of random numbers, on the CPU; a fresh one with seed 0 if left out, so that results repeat and the
            global generator stays where it is.
        width: numbers that the caller needs for each item of a resample; parts are kept so small that they fit.

    Yields:
        Counts ``[k, items]`` in float64 on the CPU; each row sums to ``items``, and all ``k`` to ``resamples``.

    Example:
        >>> [part.sum(1).tolist() for part in resample_counts(5, 3)]
        [[5.0, 5.0, 5.0]]
    """
    check_count(0, resamples=resamples)
    check_generator(generator=generator)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    at_once = max(1, _MOST_AT_ONCE // max(1, items * width))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        places = torch.randint(items, (rows, items), generator=generator)
        ones = torch.ones((), dtype=torch.float64).expand(rows, items)
        yield torch.zeros(rows, items, dtype=torch.float64).scatter_add_(1, places, ones)


def sorted_quantile(ascending: Tensor, level: float) -> float:
    """The value below which a share ``level`` of sorted values lies, as :func:`torch.quantile` interpolates.

    That function refuses more than 2^24 values in some versions.

    Args:
        ascending: ``[n]``, sorted.
        level: 0 to 1.

    Example:
        >>> import torch
        >>> sorted_quantile(torch.tensor([1.0, 2.0, 4.0]), 0.75)
        3.0
    """
    place = level * (len(ascending) - 1)
    below = int(place)
    above = min(below + 1, len(ascending) - 1)
    low, high = float(ascending[below]), float(ascending[above])
    return low if place == below or low == high else low + (high - low) * (place - below)
