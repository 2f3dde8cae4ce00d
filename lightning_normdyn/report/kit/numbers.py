"""Numbers written for a reader: significant digits, percentages, powers of ten, counts."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
NONE = "–"
"""Stands where there is no number."""


def plain(value: float, digits: int = 3) -> str:
    """Significant digits, thousands apart, powers of ten for what is tiny or huge, a dash for what is not finite.

    Example:
        >>> plain(0.98765), plain(12000), plain(1.23e-7), plain(-0.5), plain(float("nan"))
        ('0.988', '12,000', '1.23 × 10⁻⁷', '−0.5', '–')
    """
    if not math.isfinite(value):
        return NONE
    if value != 0 and not 1e-3 <= abs(value) < 1e7:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa} × {power_of_ten(int(exponent))}".replace("-", "−")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:,.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def fixed(value: float, decimals: int) -> str:
    """A fixed number of decimals, so that a column of figures lines up.

    Example:
        >>> fixed(1, 3), fixed(-0.25, 2), fixed(float("inf"), 2)
        ('1.000', '−0.25', '–')
    """
    return f"{value:.{decimals}f}".replace("-", "−") if math.isfinite(value) else NONE


def percent(share: float) -> str:
    """A share as a percentage with two significant digits, or three from ten per cent on.

    Example:
        >>> percent(0.0251), percent(0.4216), percent(1.0), percent(0.00012), percent(1e-9)
        ('2.5%', '42.2%', '100%', '0.012%', '< 0.001%')
    """
    if not math.isfinite(share):
        return NONE
    if 0 < abs(share) < 1e-5:
        return "< 0.001%"
    return f"{plain_small(100 * share, 2 if abs(share) < 0.1 else 3)}%"


def plain_small(value: float, digits: int) -> str:
    """Like :func:`plain`, never with a power of ten.

    Example:
        >>> plain_small(0.000123, 2), plain_small(5, 2)
        ('0.00012', '5')
    """
    if value == 0:
        return "0"
    text = f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def power_of_ten(exponent: int) -> str:
    """A power of ten in Unicode, which needs no formula renderer.

    Example:
        >>> power_of_ten(-7)
        '10⁻⁷'
    """
    return "10" + str(exponent).translate(_RAISED)


def short_count(value: float) -> str:
    """A count for an axis.

    Example:
        >>> short_count(0), short_count(800), short_count(2500), short_count(12000), short_count(3e6)
        ('0', '800', '2.5k', '12k', '3M')
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
