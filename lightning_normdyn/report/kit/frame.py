"""How far a frame must reach to hold what is drawn in it."""

from __future__ import annotations

import numpy as np

from lightning_normdyn.report.run.trajectory import Floats


def positive_frame(*values: Floats, pad: float = 0.06, decades: float = 4.0) -> tuple[float, float]:
    """Limits of a logarithmic axis around all positive finite values.

    Args:
        values: what the axis has to hold.
        pad: room at both ends, as a share of the axis.
        decades: how far below the largest value the axis may reach.
    """
    joined = np.concatenate([np.empty(0), *(np.ravel(part) for part in values)])
    joined = joined[np.isfinite(joined) & (joined > 0)]
    if not len(joined):
        return 0.1, 10.0
    high = float(joined.max())
    low = max(float(joined.min()), high / 10.0**decades)
    room = max((high / low) ** pad, 1.02)
    return low / room, high * room


def linear_frame(*values: Floats, pad: float = 0.08) -> tuple[float, float]:
    """Limits around zero and the middle 98% of the values: a few wild first steps do not flatten the rest.

    Args:
        values: what the axis has to hold.
        pad: room at both ends, as a share of the axis.
    """
    edges = [np.quantile(part, (0.01, 0.99)) for part in values if len(part)]
    low, high = (
        min((float(edge[0]) for edge in edges), default=0.0),
        max((float(edge[1]) for edge in edges), default=1.0),
    )
    low, high = min(low, 0.0), max(high, 0.0)
    room = pad * (high - low) or 1.0
    return low - room, high + room
