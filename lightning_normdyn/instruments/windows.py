"""When the windows of the online fit open and close."""

from __future__ import annotations

import math

_FIRST_WINDOW = 100
_LONGEST_WINDOW_WITHOUT_END = 10_000
_ENOUGH_STEPS = 500
_SPARSEST = 5


def check_window(window: float) -> float:
    """Refuses a window that is neither a share of the run nor a whole number of steps."""
    usable = isinstance(window, (int, float)) and not isinstance(window, bool) and math.isfinite(window)
    if not usable or not (0 < window < 1 or (window >= 1 and window == int(window))):
        raise ValueError(
            f"window: expected a share of the run between 0 and 1, or a whole number of steps, got {window!r}"
        )
    return window


def next_window_end(step: int, total_steps: int | None, window: float) -> int:
    """The step at which a window that opens now will close.

    Windows double from 100 steps until they are as long as they shall be, so that a fit appears early and is exact
    late.

    Args:
        step: steps so far.
        total_steps: steps of the whole run, if known.
        window: share of the run (below 1) or a number of steps.

    Example:
        >>> ends = [0]
        >>> while ends[-1] < 12_000:
        ...     ends.append(next_window_end(ends[-1], 12_000, 0.2))
        >>> ends[1:]
        [100, 200, 400, 800, 1600, 2400, 4800, 7200, 9600, 12000]
    """
    if window >= 1:
        return (step // int(window) + 1) * int(window)
    full = max(1, int(total_steps * window)) if total_steps else _LONGEST_WINDOW_WITHOUT_END
    if step >= full:
        return (step // full + 1) * full
    doubled = max(2 * step, _FIRST_WINDOW)
    return full if full < 1.5 * doubled else doubled


def thinning(window_steps: int) -> int:
    """Every how many steps of a window to read the gradient: the longer it is, the more are left.

    Example:
        >>> thinning(100), thinning(1_600), thinning(100_000)
        (1, 3, 5)
    """
    return min(max(1, window_steps // _ENOUGH_STEPS), _SPARSEST)
