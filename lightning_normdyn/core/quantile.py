"""Quantiles of any number of values."""

from __future__ import annotations

from torch import Tensor


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
