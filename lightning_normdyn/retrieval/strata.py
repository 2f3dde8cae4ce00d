"""Queries sorted into a few groups by a number."""

from __future__ import annotations

import torch
from torch import Tensor


def quantile_bands(values: Tensor, bands: int = 4) -> list[str]:
    """Names the quantile band that each number falls into, so that a continuous column can stratify a calibration.

    Args:
        values: one number for each query, ``[n]``: its length, the frequency of its rarest word.
        bands: how many of about equal size; fewer where many numbers are equal, which always share a band.

    Returns:
        The range of each query's band, such as ``3 to 7``; ``unknown`` for NaN.

    Raises:
        ValueError: if there is not one number for each query.

    Example:
        >>> quantile_bands(torch.tensor([1.0, 2.0, 3.0, 4.0, 9.0, float("nan")]), bands=2)
        ['1 to 3', '1 to 3', '1 to 3', '4 to 9', '4 to 9', 'unknown']
    """
    if values.ndim != 1 or bands < 1:
        raise ValueError(f"values: expected numbers [n] and one band or more, got {tuple(values.shape)} and {bands}")
    values = values.detach().cpu().double()
    known = values[values.isfinite()]
    if not len(known):
        return ["unknown"] * len(values)
    edges = torch.quantile(known, torch.linspace(0, 1, bands + 1, dtype=torch.float64))[1:-1].unique()
    band = torch.searchsorted(edges, values)
    members = {int(at): known[torch.searchsorted(edges, known) == at] for at in band[values.isfinite()].unique()}
    names = {at: f"{inside.min():g} to {inside.max():g}" for at, inside in members.items()}
    return [names[int(at)] if finite else "unknown" for at, finite in zip(band, values.isfinite(), strict=True)]
