"""Frames of axes around the bulk of many values, and the sentence that counts what lies outside of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lightning_normdyn.report.kit.axes import linear_frame, positive_frame
from lightning_normdyn.report.kit.numbers import Floats

_FEW_ROWS = 0.025
_FEW_READINGS = 0.1
_LEAST_WIDTH = np.log(1.5)


def bulk_frame(*values: Floats, pad: float = 0.06, decades: float = 4.0) -> tuple[float, float]:
    """Limits of a logarithmic axis around the bulk of the positive finite values.

    The middle 95% of each array, and whatever lies no farther from them than they are wide: without rows far out it is
    :func:`positive_frame`, and with some the bulk still has a third of the axis.

    Args:
        values: what the axis has to hold, each array with a bulk of its own.
        pad: room at both ends, as a share of the axis.
        decades: how far below its largest value an array may reach.

    Example:
        >>> rows = np.geomspace(1.0, 10.0, 98)
        >>> low, high = bulk_frame(np.append(rows, [1e6, 1e-9]), pad=0.0)
        >>> round(low), round(high)
        (1, 10)
    """
    positive = [array[np.isfinite(array) & (array > 0)] for array in map(np.ravel, values)]
    near = [array[_near(np.log(array), _FEW_ROWS, _LEAST_WIDTH)] for array in positive if len(array)]
    depth = max((np.log10(max(array.max() for array in near) / array.max()) for array in near), default=0.0)
    return positive_frame(*near, pad=pad, decades=decades + float(depth))


def bulk_linear_frame(*series: Floats, pad: float = 0.08) -> tuple[float, float]:
    """Limits of a linear axis around zero and the bulk of several series: a spike does not flatten the rest.

    The middle 80% of all values, and whatever lies no farther from them than they are wide.

    Example:
        >>> low, high = bulk_linear_frame(np.append(np.linspace(0.0, 1.0, 40), 1000.0))
        >>> bool(0.9 < high < 2.0)
        True
    """
    values = np.concatenate([np.empty(0), *(np.ravel(array) for array in series)])
    values = values[np.isfinite(values)]
    return linear_frame(values[_near(values, _FEW_READINGS, 0.0)], pad=pad) if len(values) else linear_frame(pad=pad)


def outside(x: Floats, y: Floats, across: tuple[float, float], up: tuple[float, float]) -> NDArray[np.bool_]:
    """Which of the points with two finite places lie outside of the axes.

    Args:
        x: horizontal places, ``[n]``.
        y: vertical places, ``[n]``.
        across: limits of the horizontal side.
        up: limits of the vertical side.
    """
    has_place = np.isfinite(x) & np.isfinite(y)
    return has_place & ~((x >= across[0]) & (x <= across[1]) & (y >= up[0]) & (y <= up[1]))


def outside_sentence(counts: Mapping[str, int], members: str) -> str:
    """Says how many points the axes leave out, with a blank before it; empty where they hold all.

    Args:
        counts: how many each panel leaves out, by the panel's name; a single panel needs none.
        members: what the points are, in the plural.

    Example:
        >>> outside_sentence({"left": 3, "right": 0}, "rows")
        ' The axes show the bulk: outside of them lie, counted in the numbers all the same, 3 rows (left).'
        >>> outside_sentence({"": 0}, "rows")
        ''
    """
    clauses = [
        f"{count:,} {members.removesuffix('s') if count == 1 else members}{f' ({name})' if name else ''}"
        for name, count in counts.items()
        if count
    ]
    if not clauses:
        return ""
    return (
        f" The axes show the bulk: outside of them lie, counted in the numbers all the same, {' and '.join(clauses)}."
    )


def _near(values: Floats, few: float, least_width: float) -> NDArray[np.bool_]:
    """Which values lie within the bulk or no farther from it than it is wide; all but ``few`` at either end are it."""
    low, high = np.quantile(values, (few, 1 - few), method="nearest")
    width = max(high - low, least_width)
    near: NDArray[np.bool_] = (values >= low - width) & (values <= high + width)
    return near
