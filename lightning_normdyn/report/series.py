"""A logged scalar over time, as it stands in a run's history."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Series(NamedTuple):
    """One quantity at the steps at which it was finite, in order of step.

    Attributes:
        steps: training steps, ``[n]``.
        values: the quantity there, ``[n]``.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def last(self) -> float:
        """The latest finite value; NaN where there is none."""
        return float(self.values[-1]) if len(self.values) else float("nan")

    def thinned(self, points: int) -> Series:
        """Means over at most ``points`` runs of neighbouring entries, so that a long run stays a small drawing."""
        if len(self.steps) <= points:
            return self
        starts = np.linspace(0, len(self.steps), points, endpoint=False).astype(np.int64)
        counts = np.diff(np.append(starts, len(self.steps)))
        steps = np.add.reduceat(self.steps, starts) // counts
        return Series(steps, np.add.reduceat(self.values, starts) / counts)

    def smoothed(self) -> Series:
        """Running mean over about a twentieth of the entries; shorter windows at both ends, so that none is lost."""
        points = len(self.values) // 40 * 2 + 1
        ones = np.convolve(np.ones_like(self.values), np.ones(points), "same")
        return Series(self.steps, np.convolve(self.values, np.ones(points), "same") / ones)


def read_series(quantities: pa.Table) -> dict[str, Series]:
    """Sorts the long table of a history into one series per quantity.

    A step that was logged twice (a resumed run) counts as it was logged last; NaN and infinities are left out.

    Args:
        quantities: columns step, quantity, value.
    """
    names = np.asarray(quantities.column("quantity").to_pylist(), dtype=object)
    steps = quantities.column("step").to_numpy().astype(np.int64)
    values = quantities.column("value").to_numpy().astype(np.float64)
    return {name: _one_series(steps[names == name], values[names == name]) for name in sorted(set(names.tolist()))}


def _one_series(steps: NDArray[np.int64], values: NDArray[np.float64]) -> Series:
    latest = dict(zip(steps.tolist(), values.tolist(), strict=True))
    kept = sorted((step, value) for step, value in latest.items() if np.isfinite(value))
    return Series(np.array([step for step, _ in kept], np.int64), np.array([value for _, value in kept], np.float64))
