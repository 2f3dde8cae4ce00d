"""How norms are distributed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.quantile import sorted_quantile

_LEVELS = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_BINS = 60


class NormDistribution(NamedTuple):
    """Norms of all vectors but those that are zero.

    Attributes:
        rows: vectors in all.
        zeros: how many are zero; they are in none of the other numbers.
        mean: of the norms.
        cv: their standard deviation over their mean.
        quantiles: level to quantile, the smallest and the largest norm included.
        edges: of the histogram's bins, ``[b + 1]``; from the 0.1% to the 99.9% quantile, beyond which the first and
            last bin reach.
        counts: norms in each bin, ``[b]``.
    """

    rows: int
    zeros: int
    mean: float
    cv: float
    quantiles: dict[float, float]
    edges: tuple[float, ...]
    counts: tuple[int, ...]


def norm_distribution(norms: Tensor) -> NormDistribution:
    """Describes norms ``[n]``.

    Raises:
        ValueError: if all vectors are zero.

    Example:
        >>> found = norm_distribution(torch.tensor([0.0, 1.0, 3.0]))
        >>> found.zeros, found.mean, found.cv, sum(found.counts)
        (1, 2.0, 0.5, 2)
    """
    positive = norms[norms > 0].double().sort().values
    if not len(positive):
        raise ValueError(f"embeddings: expected vectors with a direction, got {len(norms)} that are all zero")
    mean = positive.mean()
    low, high = sorted_quantile(positive, 0.001), sorted_quantile(positive, 0.999)
    room = max(high - low, 1e-6 * high)
    edges = torch.linspace(low - 0.01 * room, high + 0.01 * room, _BINS + 1, dtype=torch.float64)
    place = (torch.searchsorted(edges, positive, right=True) - 1).clamp(0, _BINS - 1)
    return NormDistribution(
        len(norms),
        len(norms) - len(positive),
        float(mean),
        float((positive - mean).square().mean().sqrt() / mean),
        {level: sorted_quantile(positive, level) for level in _LEVELS},
        tuple(edges.tolist()),
        tuple(torch.bincount(place, minlength=_BINS).tolist()),
    )
