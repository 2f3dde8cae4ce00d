"""Checks of arguments that are numbers: whole numbers from some minimum up, and positive real numbers."""

from __future__ import annotations

import math
from numbers import Integral, Real

from torch import Tensor


def check_count(minimum: int = 1, /, *, hint: str = "", **counts: object) -> None:
    """Refuses what is no whole number of at least ``minimum``; ``True`` and ``2.0`` are none.

    Args:
        minimum: the smallest number that makes sense.
        hint: the likely fix, to end the sentence with.
        counts: name of an argument to what came.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> check_count(dim=8, batch_size=2.5)
        Traceback (most recent call last):
            ...
        ValueError: batch_size: expected a whole number, 1 or more, got 2.5
    """
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, Integral) or int(count) < minimum:
            raise ValueError(f"{name}: expected a whole number, {minimum} or more, got {count!r}{_ending(hint)}")


def check_positive(*, hint: str = "", **numbers: object) -> None:
    """Refuses a number that is not positive and finite, and what is no number.

    Args:
        hint: the likely fix, to end the sentence with.
        numbers: name of an argument to what came.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> check_positive(temperature=0.05, lr=-1, hint="1e-3 is common")
        Traceback (most recent call last):
            ...
        ValueError: lr: expected a positive number, got -1; 1e-3 is common
    """
    for name, number in numbers.items():
        is_number = isinstance(number, (Real, Tensor)) and not isinstance(number, bool)
        if not is_number or not 0 < float(number) < math.inf:  # type: ignore[arg-type]
            raise ValueError(f"{name}: expected a positive number, got {number!r}{_ending(hint)}")


def _ending(hint: str) -> str:
    return f"; {hint}" if hint else ""
