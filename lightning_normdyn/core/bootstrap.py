"""Resampling with replacement, as counts: how often each item was drawn."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

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
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    at_once = max(1, _MOST_AT_ONCE // max(1, items * width))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = torch.randint(items, (rows, items), generator=generator)
        once = torch.ones((), dtype=torch.float64).expand(rows, items)
        yield torch.zeros(rows, items, dtype=torch.float64).scatter_add_(1, drawn, once)
