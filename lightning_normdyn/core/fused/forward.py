"""Forward kernels: log-sum-exps over rows and columns of a score matrix that is never stored."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import Exclusion
from lightning_normdyn.core.fused.block import blocks, whole_blocks
from lightning_normdyn.core.fused.case import Case
from lightning_normdyn.core.fused.language import jit, on_device_of, tl
from lightning_normdyn.core.fused.scores import place, scores

_PARTS = 2**24  # numbers that blocks leave for their rows and columns in one launch: 64 MiB


def log_sum_exps(
    a: Tensor,
    b: Tensor,
    *,
    columns: int = 0,
    positives: Tensor | None = None,
    exclusion: Exclusion | None = None,
    row_factors: Tensor | None = None,
    column_factors: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``log sum_j exp S_ij`` for every row and ``log sum_i exp S_ij`` for the first columns; no autograd.

    Args:
        a: ``[n, d]``, float32, bfloat16 or float16, and neither n nor d zero.
        b: ``[m, d]``, likewise.
        columns: how many columns are wanted, from the first on.
        positives: a column of each row whose score is wanted too, ``[n]``: to the last bit the one that was summed.
        exclusion: pairs to leave out.
        row_factors: ``u`` in ``S_ij = u_i v_j <a_i, b_j>``, ``[n]``, float32; ``None`` is one.
        column_factors: ``v``, ``[m]``, likewise.

    Returns:
        Rows ``[n]`` and columns ``[columns]`` in float64, minus infinity where everything is left out, and in float32
        the scores of the positives, ``[n]`` or empty.
    """
    case = Case.of(a, b, row_factors, column_factors, exclusion, positives)
    n, m, block = len(a), len(b), case.block
    rows = torch.empty(n, dtype=torch.float64, device=a.device)
    columns_ = rows.new_full((columns,), -torch.inf)
    of_positives = torch.zeros(n if positives is not None else 0, device=a.device)
    width = blocks(m, block.columns)
    height = whole_blocks(_PARTS // (width + blocks(columns, block.rows)), block.rows, n)
    with on_device_of(a):
        for first in range(0, n, height):
            last = min(first + height, n)
            down = blocks(last - first, block.rows)
            of_rows, of_columns = (
                of_positives.new_empty(2, width, last - first),
                of_positives.new_empty(2, down, columns),
            )
            _log_sum_exp_kernel[(width * down,)](
                *(*of_rows, *of_columns, of_positives),
                columns=columns,
                has_columns=columns > 0,
                first=first,
                last=last,
                **case.arguments(),
            )
            rows[first:last] = _put_together(*of_rows)
            if columns:
                torch.logaddexp(columns_, _put_together(*of_columns), out=columns_)
    return rows, columns_, of_positives


def _put_together(tops: Tensor, sums: Tensor) -> Tensor:
    """Log-sum-exps in float64 from what blocks left, ``[blocks, length]``; the tops are exact."""
    top = tops.amax(0)
    shift = top.where(top.isfinite(), 0)
    return shift.double() + ((tops - shift).exp_() * sums).sum(0).double().log_()


@jit
def _log_sum_exp_kernel(
    row_tops: tl.tensor,
    row_sums: tl.tensor,
    column_tops: tl.tensor,
    column_sums: tl.tensor,
    of_positives: tl.tensor,
    a: tl.tensor,
    b: tl.tensor,
    row_factors: tl.tensor,
    column_factors: tl.tensor,
    positives: tl.tensor,
    row_keys: tl.tensor,
    column_keys: tl.tensor,
    positive_columns: tl.tensor,
    kept_row_key: tl.tensor,
    kept_column_key: tl.tensor,
    self_columns: tl.tensor,
    columns: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    n: tl.tensor,
    m: tl.tensor,
    d: tl.tensor,
    has_columns: tl.constexpr,
    no_id: tl.constexpr,
    keys: tl.constexpr,
    kept_count: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    group: tl.constexpr,
) -> None:
    """The tops and sums of a block's rows and columns, and the positives' scores that lie in it."""
    down, across = place(last - first, m, block_m, block_n, group)
    i = first + down * block_m + tl.arange(0, block_m)
    j = across * block_n + tl.arange(0, block_n)
    values, _ = scores(
        a,
        b,
        row_factors,
        column_factors,
        row_keys,
        column_keys,
        positive_columns,
        kept_row_key,
        kept_column_key,
        self_columns,
        i,
        j,
        last,
        n,
        m,
        d,
        no_id,
        keys,
        kept_count,
        block_m,
        block_n,
        block_k,
    )
    top, total = _exponentials(values, 1)
    places = across.to(tl.int64) * (last - first) + i - first
    tl.store(row_tops + places, top, mask=i < last)
    tl.store(row_sums + places, total, mask=i < last)
    if has_columns:
        top, total = _exponentials(values, 0)
        places = down.to(tl.int64) * columns + j
        tl.store(column_tops + places, top, mask=j < columns)
        tl.store(column_sums + places, total, mask=j < columns)
    if positives is not None:
        positive = tl.load(positives + i, mask=i < last, other=-1)
        inside = (positive >= across * block_n) & (positive < across * block_n + block_n) & (positive < m)
        of_positive = tl.sum(tl.where(j[None, :] == positive[:, None], values, 0.0), 1)
        tl.store(of_positives + i, of_positive, mask=inside)


@jit
def _exponentials(values: tl.tensor, axis: tl.constexpr) -> Any:
    """The largest along an axis and ``sum exp(made - largest)``: nothing sums to 0, and NaN stays NaN."""
    top = tl.max(values, axis)
    shift = tl.where(tl.abs(top) == float("inf"), 0.0, top)
    total = tl.sum(tl.exp(values - tl.expand_dims(shift, axis)), axis)
    return top, total
