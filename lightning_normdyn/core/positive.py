"""Arguments that must be above zero."""

from __future__ import annotations

import math


def check_positive(**numbers: float) -> None:
    """Refuses a number that is not positive and finite.

    Args:
        numbers: name of an argument to what came.

    Raises:
        ValueError: if one is zero, negative, infinite or NaN.

    Example:
        >>> check_positive(dim=8, batch_size=0)
        Traceback (most recent call last):
            ...
        ValueError: batch_size: expected a positive number, got 0
    """
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"{name}: expected a positive number, got {number}")
