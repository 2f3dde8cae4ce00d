"""Findings as what JSON knows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_normdyn.core.risk_coverage import RiskCoverage

_MOST_POINTS = 200


def as_plain(value: object) -> Any:
    """Turns records into dictionaries, tensors into lists, and what is not finite into ``None``.

    A curve keeps 200 points at most.

    Example:
        >>> from lightning_normdyn.core.interval import Interval
        >>> as_plain({"gain": Interval(0.1, float("nan"), float("inf"))})
        {'gain': {'value': 0.1, 'low': None, 'high': None}}
    """
    if isinstance(value, RiskCoverage):
        step = -(-len(value.coverage) // _MOST_POINTS)
        # From the whole set backwards, so that the risk at full coverage is among the points.
        value = RiskCoverage(*(column.flip(0)[::step].flip(0) for column in value))
    if isinstance(value, Tensor):
        return as_plain(value.tolist())
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: as_plain(one) for name, one in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(name): as_plain(one) for name, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
