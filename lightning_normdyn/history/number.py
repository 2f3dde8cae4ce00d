"""Finite numbers or ``None``, and how a table shows either."""

from __future__ import annotations

import math

Number = float | None
"""``None`` where there is no finite number, which is what JSON has for it."""


def measured(value: float) -> Number:
    """A number, or ``None`` for what is not finite.

    Example:
        >>> measured(0.5), measured(math.nan)
        (0.5, None)
    """
    return float(value) if math.isfinite(value) else None


def show_number(value: Number, form: str) -> str:
    """A number in a table, a dash where there is none.

    Args:
        value: the number.
        form: as in :func:`format`.

    Example:
        >>> show_number(0.5, ".2f"), show_number(None, ".2f")
        ('0.50', '–')
    """
    return "–" if value is None else format(value, form)
