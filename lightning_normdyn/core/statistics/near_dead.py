"""Rows whose norm lies so far below all others that nothing but decay can have taken them there."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.tensor_checks import check_tensors

_FACTOR = 10.0
_GAP = 30.0
_DEVIATIONS = 6.0
_FALSE_ALARMS = 0.01
_SMALLEST_BULK = 0.05
_NORMAL_MAD = 1.4826


class NearDead(NamedTuple):
    """What the norms of a table say.

    Attributes:
        rows: numbers of the near-dead rows, shortest first, ``[m]``; rows of zeros among them.
        zeros: how many of them are zero.
        median: norm of the bulk.
        limit: norm below which a row is near dead.
    """

    rows: Tensor
    zeros: int
    median: float
    limit: float


def near_dead_rows(norms: Tensor, dim: int) -> NearDead:
    """Rows far below the bulk in log norm.

    With m the median of ``log R`` over the bulk and ``s = 1.4826·MAD`` its robust deviation, a row is near dead where
    ``log R < m - max(log 10, 6s, log(n/0.01)/d)``. The last term is what chance allows: of n random rows one is shorter
    than ``r`` times the median with a probability of about ``n·r^d``. The bulk is all rows, or those above the widest
    gap where it is wider than a factor of 30 and at least 5% lie above it: rows that decay alone has taken down keep
    the narrow distribution of their start, and may be most of a table. A continuous tail, as rare rows have in
    equilibrium (``R ~ sqrt(p)``), widens s and is no alarm.

    Args:
        norms: ``[n]``, finite.
        dim: ``d``, length of a row.

    Returns:
        The record.

    Raises:
        ValueError: if norms are no finite numbers ``[n]``, or ``dim`` is no count.

    Example:
        >>> norms = torch.tensor([1.0, 1.1, 0.9, 1.2, 1e-6, 0.0])
        >>> near_dead_rows(norms, dim=64).rows
        tensor([5, 4])
    """
    check_count(dim=dim)
    check_tensors(norms=norms)
    if norms.dim() != 1 or not bool((norms.isfinite() & (norms >= 0)).all()):
        raise ValueError(f"norms: expected finite norms [n], got shape {tuple(norms.shape)} with others among them")
    positive = norms[norms > 0].double().log().sort().values
    if not len(positive):
        return NearDead(norms.argsort(stable=True), len(norms), 0.0, 0.0)
    bulk = _bulk(positive)
    median = bulk.median()
    deviation = _NORMAL_MAD * float((bulk - median).abs().median())
    chance = math.log(len(norms) / _FALSE_ALARMS) / dim
    limit = float(torch.exp(median - max(math.log(_FACTOR), _DEVIATIONS * deviation, chance)))
    rows = (norms < limit).nonzero().squeeze(1)
    rows = rows[norms[rows].argsort(stable=True)]
    return NearDead(rows, len(norms) - len(positive), float(median.exp()), limit)


def _bulk(log_norms: Tensor) -> Tensor:
    """The rows above the widest gap, or all, of sorted log norms ``[n]``."""
    if len(log_norms) < 2:
        return log_norms
    gaps = log_norms.diff()
    place = int(gaps.argmax())
    above = log_norms[place + 1 :]
    is_apart = float(gaps[place]) > math.log(_GAP) and len(above) >= max(2, _SMALLEST_BULK * len(log_norms))
    return above if is_apart else log_norms
