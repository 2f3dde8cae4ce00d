"""Correlations as means over items, so that they can be averaged and resampled like any other measure."""

from __future__ import annotations

import torch
from torch import Tensor


def pearson_shares(x: Tensor, y: Tensor) -> Tensor:
    """What each item adds to Pearson's correlation: ``r + zx·zy − r/2·(zx² + zy²)`` of its standard scores.

    That is the correlation plus the item's influence on it (Devlin, Gnanadesikan, Kettenring 1975,
    doi:10.1093/biomet/62.3.531), so that resampling means of it is resampling the correlation: products of standard
    scores have the same mean but take mean and spread for known, and vary twice as much near r = 0.8.

    Args:
        x: ``[n]``.
        y: ``[n]``.

    Returns:
        float64 ``[n]``, whose mean is the correlation exactly; NaN where one of the two does not vary.

    Example:
        >>> pearson_shares(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 4.0, 2.0])).mean()
        tensor(0.5000, dtype=torch.float64)
    """
    first, second = _standard(x.double()), _standard(y.double())
    products = first * second
    return products + products.mean() * (1 - (first.square() + second.square()) / 2)


def spearman_shares(x: Tensor, y: Tensor) -> Tensor:
    """The same for Spearman's: of ranks, equal values sharing their mean rank, taken for known.

    Example:
        >>> spearman_shares(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.1, 9.0, 8.0])).mean()
        tensor(0.5000, dtype=torch.float64)
    """
    return pearson_shares(_ranks(x), _ranks(y))


def _standard(x: Tensor) -> Tensor:
    if not len(x):
        return x
    centred = x - x.mean()
    spread = centred.square().mean().sqrt()
    # Rounding leaves a constant at something that is not quite nothing.
    return centred / torch.where(spread > 1e-12 * x.abs().max(), spread, torch.nan)


def _ranks(x: Tensor) -> Tensor:
    if x.isnan().any():
        return torch.full(x.shape, torch.nan, dtype=torch.float64)
    _, places, counts = x.unique(return_inverse=True, return_counts=True)
    ranks: Tensor = (counts.cumsum(0) - (counts - 1) / 2).double()
    return ranks[places]
