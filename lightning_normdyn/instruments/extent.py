"""A stretch of a run, as Lightning reads such numbers: a float is a share of the run, an int a number of steps."""

from __future__ import annotations

import math

Extent = int | float
"""``0.2`` is a fifth of the run, ``1.0`` the whole of it, ``1`` a single step and ``500`` five hundred."""


def check_extent(name: str, extent: Extent, *, whole_run: bool = True) -> Extent:
    """Refuses what is neither a share of the run nor a number of steps.

    Args:
        name: the option, for the error.
        extent: what the user gave.
        whole_run: whether the whole run, ``1.0``, makes sense.

    Raises:
        ValueError: if it is a float of 0 or below, above 1.0 or not finite, an int below 1, or no number.

    Example:
        >>> check_extent("window", 500), check_extent("window", 1.0)
        (500, 1.0)
        >>> check_extent("window", 500.0)
        Traceback (most recent call last):
            ...
        ValueError: window: expected a share of the run between 0 and 1, or a whole number of steps as an int, got 500.0
    """
    is_steps = isinstance(extent, int) and not isinstance(extent, bool) and extent >= 1
    is_share = isinstance(extent, float) and math.isfinite(extent) and 0 < extent <= 1 and (whole_run or extent < 1)
    if not (is_steps or is_share):
        raise ValueError(
            f"{name}: expected a share of the run between 0 and 1, or a whole number of steps as an int, got {extent!r}"
        )
    return extent


def extent_steps(extent: Extent, total_steps: int | None, *, share_tolerance: float = 0.0) -> float | None:
    """How many steps that makes, not rounded; ``None`` for a share of a run whose length nobody knows.

    Args:
        extent: what :func:`check_extent` passes.
        total_steps: steps of the whole run, if known.
        share_tolerance: by how much of itself a share may fall short; a number of steps is exact.

    Example:
        >>> extent_steps(0.25, 1000), extent_steps(500, 1000), extent_steps(0.25, None)
        (250.0, 500, None)
        >>> extent_steps(0.5, 1000, share_tolerance=0.01), extent_steps(500, 1000, share_tolerance=0.01)
        (495.0, 500)
    """
    if isinstance(extent, int):
        return extent
    return None if total_steps is None else (1 - share_tolerance) * extent * total_steps
