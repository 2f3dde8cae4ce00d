"""Bands of a table's rows by how often they get a gradient, and quantiles of the norm in each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_normdyn.report.kit.numbers import Floats, percent


class Band(NamedTuple):
    """A group of rows.

    Attributes:
        label: how often a typical row of the band gets a gradient, in words.
        members: which rows belong to it, ``[rows]``.
        frequency: median share of steps in which its rows get a gradient; NaN where that is unknown.
    """

    label: str
    members: NDArray[np.bool_]
    frequency: float


def frequency_bands(frequency: Floats, count: int = 5) -> list[Band]:
    """Splits rows into quantile bands of frequency, rarest first.

    Ties stay together, so a table whose rows all get a gradient at every step is one band. Without any known
    frequency all rows are one band.

    Args:
        frequency: share of steps in which a row got a gradient, ``[rows]``; NaN where unknown.
        count: bands at most.
    """
    has_frequency = np.isfinite(frequency)
    if not has_frequency.any():
        return [Band("all", np.ones(len(frequency), np.bool_), float("nan"))]
    edges = np.unique(np.quantile(frequency[has_frequency], np.linspace(0, 1, count + 1)[1:-1]))
    place = np.searchsorted(edges, frequency, side="left")
    bands = [has_frequency & (place == index) for index in range(len(edges) + 1)]
    return [_band(members, frequency) for members in bands if members.any()]


def members_quantiles(norms: NDArray[np.float32], band: Band, levels: tuple[float, ...]) -> Floats:
    """Quantiles over a band's rows at each snapshot, ``[steps, levels]``; NaN where no row was recorded.

    Args:
        norms: norms, ``[steps, rows]``.
        band: whose rows to take.
        levels: quantiles between 0 and 1.
    """
    quantiles = np.full((len(norms), len(levels)), np.nan)
    for index, snapshot in enumerate(norms):
        values = snapshot[band.members]
        values = values[np.isfinite(values)]
        if len(values):
            quantiles[index] = np.quantile(values, levels)
    return quantiles


def _band(members: NDArray[np.bool_], frequency: Floats) -> Band:
    typical = float(np.median(frequency[members]))
    label = "every step" if typical > 0.995 else f"{percent(typical)} of steps"
    return Band("no step" if typical == 0 else label, members, typical)
