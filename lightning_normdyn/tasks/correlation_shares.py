"""Correlations as means over items, so that they can be averaged and resampled like any other measure."""

from __future__ import annotations

import torch
from torch import Tensor


def pearson_shares(x: Tensor, y: Tensor) -> Tensor:
    """What each item adds to Pearson's correlation: the product of its two standard scores.

    Args:
        x: ``[n]``.
        y: ``[n]``.

    Returns:
        float64 ``[n]``, whose mean is the correlation exactly; NaN where one of the two does not vary.

    Example:
        >>> pearson_shares(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 6.0])).mean()
        tensor(1.0000, dtype=torch.float64)
    """
    return _standard(x.double()) * _standard(y.double())


def spearman_shares(x: Tensor, y: Tensor) -> Tensor:
    """The same for Spearman's: of ranks, equal values sharing their mean rank.

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
    _, places, counts = x.unique(return_inverse=True, return_counts=True)
    ranks: Tensor = (counts.cumsum(0) - (counts - 1) / 2).double()
    return ranks[places]
