"""The norm below which a row can no longer be trained, and when decay alone takes it there."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.core.number_checks import check_count


def smallest_trainable_norm(
    dtype: torch.dtype, dim: int, *, update: Tensor | float = 0.0, norm: Tensor | float = math.nan, power: int = 2
) -> Tensor:
    """The norm below which the next typical update erases a row, or its numbers leave the range of their dtype.

    ``R_min = max(sqrt(d)·tiny, sqrt(tiny_32), R_erased)``: numbers below ``tiny`` lose their bits and then turn zero;
    squares, which every norm sums in float32, do so below ``tiny_32``. An update of length u leaves nothing of a row
    with ``R < eps·u``, since ``x + u`` rounds to ``u``: ``R_erased = eps·u`` where the length of an update does not
    depend on the norm (AdamW, Lion). Where updates grow as 1/R (SGD on a loss that does not see lengths), ``u·R`` is
    what is typical, and ``R_erased = sqrt(eps·u·R)``.

    Args:
        dtype: of the table.
        dim: ``d``, length of a row.
        update: ``u``, length of a typical update; 0 or NaN where none is known.
        norm: ``R``, norm of the rows with that update, for ``power=4``.
        power: the power of R that settles (:attr:`EquilibriumRule.power`): 4 where updates grow as 1/R.

    Returns:
        A scalar, float64.

    Raises:
        ValueError: if the dtype is no floating point one or ``dim`` is no count.

    Example:
        >>> smallest_trainable_norm(torch.float16, 64)  # sqrt(64)·2^-14
        tensor(0.0005, dtype=torch.float64)
        >>> smallest_trainable_norm(torch.float32, 64, update=8e-3)  # 2^-23·8e-3
        tensor(9.5367e-10, dtype=torch.float64)
    """
    check_count(dim=dim)
    if not dtype.is_floating_point:
        raise ValueError(f"dtype: expected a floating point type, got {dtype}; pass that of the table")
    precision = torch.finfo(dtype)
    update, norm = most_precise(torch.as_tensor(update)), most_precise(torch.as_tensor(norm))
    erased = (precision.eps * update * norm).sqrt() if power == 4 else precision.eps * update
    wide = torch.float32 if dtype.itemsize < torch.float32.itemsize else dtype
    range_end = max(dim**0.5 * precision.tiny, torch.finfo(wide).tiny ** 0.5)
    return torch.fmax(erased, erased.new_tensor(range_end))


def decay_steps(ratio: Tensor | float, decay_rate: float, dtype: torch.dtype) -> Tensor:
    """Steps in which decay alone shortens a row to a share of its norm: ``ln(ratio)/ln(1 - lr·lambda)``.

    A factor nearer to 1 than the dtype can tell leaves every number as it is: below ``eps/4`` nothing decays, ever.

    Args:
        ratio: wanted norm over the present one, ``[n]``.
        decay_rate: ``lr·lambda``, the share that a step takes.
        dtype: of the table.

    Returns:
        Steps, float64 ``[n]``; infinite where decay does not get there, 0 where the row is there.

    Example:
        >>> decay_steps(0.5, 0.01, torch.float32)
        tensor(68.9676, dtype=torch.float64)
        >>> decay_steps(0.5, 0.001, torch.bfloat16)
        tensor(inf, dtype=torch.float64)
    """
    ratio = most_precise(torch.as_tensor(ratio))
    if not decay_rate >= torch.finfo(dtype).eps / 4:
        return torch.full_like(ratio, torch.inf).where(ratio < 1, 0)
    retention = max(1 - decay_rate, 0.0)
    steps = ratio.log() / (math.log(retention) if retention else -math.inf)
    return steps.clamp(min=0)
