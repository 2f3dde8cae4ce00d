"""Levels of intervals at which a comparison may be looked at again and again while seeds are added.

After ``k`` seeds a gain has an error ``q + mean(e_1 .. e_k)``: the queries' part ``q`` stays, the seeds' shrinks. So
means at successive looks hang together as in a group-sequential trial, with information ``1 / V_k``, and each look may
spend a share of the error probability that grows with the information that it has (Lan, DeMets 1983; intervals at every
look that hold together: Jennison, Turnbull 1989). Where queries make most of the error, waiting for seeds tells little
and the first look may spend most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lightning_normdyn.core.statistics.interval import check_level
from lightning_normdyn.core.statistics.variance_components import VarianceComponents

_RESERVE = 0.2
"""Share of the error probability that no look but the last may touch, however much it knows."""


def look_levels(values: Tensor, looks: Sequence[int], *, level: float = 0.95, draws: int = 20_000) -> list[float]:
    """The level of each look so far, at which intervals of all looks hold together.

    Each follows from what was known at its look, so that it does not change when further seeds come.

    Args:
        values: measures of the queries after each training, ``[variants, seeds, n]``, finite, for all seeds so far.
        looks: numbers of seeds at which one looks, ascending from 2 or more, those to come included.
        level: at which they hold together.
        draws: of the errors of all looks, from which levels are read off.

    Returns:
        As many levels as there are looks at up to ``seeds`` trainings, each at least ``level``.

    Raises:
        ValueError: if looks are not ascending from 2, or the level is no share.

    Example:
        >>> values = torch.randn(2, 3, 100, generator=torch.Generator().manual_seed(0))
        >>> [round(level, 3) for level in look_levels(values, (3, 4, 5))]
        [0.976]
    """
    check_level(level)
    if not looks or looks[0] < 2 or any(second <= first for first, second in pairwise(looks)):
        raise ValueError(f"looks: expected numbers of seeds, ascending from 2 or more, got {list(looks)}")
    alphas: list[float] = []
    spending = 0.0
    for seeds in looks:
        if seeds > values.shape[1]:
            break
        components = VarianceComponents.of(values[:, :seeds])
        spending = max(
            spending + (1 - spending) / (2 * len(looks)), _share(components, looks, len(alphas), values.shape[2])
        )
        spending = 1.0 if seeds == looks[-1] else min(spending, 1.0)
        tails = _tails(components, looks[: len(alphas) + 1], values, draws)
        alphas.append(_next_alpha(tails, alphas, (1 - level) * spending))
    return [1 - alpha for alpha in alphas]


def _share(components: VarianceComponents, looks: Sequence[int], place: int, queries: int) -> float:
    """Of the error probability, that may be spent up to a look."""
    variances = [components.standard_error(seeds=seeds, queries=queries) ** 2 for seeds in (looks[place], looks[-1])]
    information = variances[1] / variances[0] if variances[0] > 0 else 1.0
    left = len(looks) - 1 - place
    return information * (1 - _RESERVE * left / max(1, len(looks) - 1))


def _next_alpha(tails: Tensor, alphas: Sequence[float], target: float) -> float:
    """The error probability of the next look by itself, such that all looks up to it err with that of the target."""
    has_erred = (tails[:, : len(alphas)] <= torch.tensor(alphas, dtype=tails.dtype)).any(1)
    left = math.floor(target * len(tails)) - int(has_erred.sum())
    if left <= 0:
        return 1 / len(tails)
    return float(tails[~has_erred, -1].sort().values[left - 1])


def _tails(components: VarianceComponents, looks: Sequence[int], values: Tensor, draws: int) -> Tensor:
    """How rare the largest gain of each draw is at each look where none differs, ``[draws, looks]``, from 0 to 1."""
    sizes = components.largest_sizes(looks, variants=values.shape[0], queries=values.shape[2], draws=draws)
    ranks = torch.arange(1, draws + 1, dtype=torch.float64)[:, None].expand_as(sizes)
    return torch.empty_like(ranks).scatter_(0, sizes.argsort(0, descending=True), ranks) / draws
