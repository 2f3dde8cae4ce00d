"""Backward: the gradients of both sides, from weights that are kept for a strip of rows at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import Exclusion
from lightning_normdyn.core.fused.block import blocks, whole_blocks
from lightning_normdyn.core.fused.case import Case
from lightning_normdyn.core.fused.language import jit, on_device_of, tl
from lightning_normdyn.core.fused.product import multiply
from lightning_normdyn.core.fused.scores import place, scores

_STRIP_BYTES = 2**28  # weights of a strip


def gradients(
    a: Tensor,
    b: Tensor,
    rows: Tensor,
    columns: Tensor,
    of_rows: Tensor,
    of_columns: Tensor,
    *,
    positives: Tensor | None = None,
    of_positives: Tensor | None = None,
    exclusion: Exclusion | None = None,
    row_factors: Tensor | None = None,
    column_factors: Tensor | None = None,
    wants_a: bool = True,
    wants_b: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of ``a`` and ``b``, given that with respect to what :func:`log_sum_exps` returned.

    In half precision give ``of_positives`` here and do not add it afterwards: of a pair that is nearly certain, the
    small difference is then what gets rounded. Beside bfloat16 vectors weights are the sum of two terms, what bfloat16
    holds and what that leaves over: off by 1e-5, against 1.6e-3 for one term alone and 1.7e-3 for rounding the result.
    Beside float16 vectors they are TF32, off by 2e-4, as much as rounding the result costs there.

    Factors are held constant. Their own gradient takes no more scores: as ``S_ij`` is ``u_i`` times something that is
    linear in ``a_i``, ``u_i dL/du_i = <a_i, dL/da_i>``.

    Args:
        a: ``[n, d]``, as they were.
        b: ``[m, d]``, likewise.
        rows: the log-sum-exps of the rows ``[n]``.
        columns: and of the first columns.
        of_rows: gradient with respect to ``rows``.
        of_columns: and with respect to ``columns``.
        positives: as they were, needed with ``of_positives`` only.
        of_positives: gradient with respect to the positives' scores, ``[n]``; ``None`` to leave it out.
        exclusion: as it was.
        row_factors: as they were.
        column_factors: likewise.
        wants_a: whether the gradient of ``a`` is wanted.
        wants_b: whether that of ``b`` is.

    Returns:
        ``[n, d]`` and ``[m, d]`` in float32, ``None`` where not wanted.
    """
    case = Case.of(a, b, row_factors, column_factors, exclusion, None if of_positives is None else positives)
    n, m, d = len(a), len(b), a.shape[1]
    rows, of_rows = _shift_and_share(rows, of_rows)
    columns, of_columns = _shift_and_share(columns, of_columns)
    of_scores = None if of_positives is None else of_positives.float().contiguous()
    of_a = torch.empty(n, d, dtype=torch.float32, device=a.device) if wants_a else None
    of_b = torch.zeros(m, d, dtype=torch.float32, device=a.device) if wants_b else None
    with on_device_of(a):
        strip = _strip(case)
        for first in range(0, n, strip.shape[1]):
            last = min(first + strip.shape[1], n)
            _weights_kernel[(blocks(m, case.block.columns) * blocks(last - first, case.block.rows),)](
                *(strip, strip.stride(0), strip.stride(1), rows, columns, of_rows, of_columns, of_scores),
                terms=len(strip),
                narrow=a.dtype == torch.float16,
                columns=len(columns),
                has_columns=len(columns) > 0,
                first=first,
                last=last,
                **case.arguments(),
            )
            weights = strip[:, : last - first, :m]
            if of_a is not None:
                multiply(weights, case.b, of_a[first:last], add=False)
            if of_b is not None:
                multiply(weights.mT, case.a[first:last], of_b, add=True)
    return of_a, of_b


def _shift_and_share(sums: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Log-sum-exps in float32, and their gradient, in which is made good what that rounds off."""
    exact = sums.where(sums > -torch.inf, torch.inf).double()  # what has nothing to sum gets nothing: exp(S - inf) = 0
    near = exact.float()
    return near, (gradient * (near - exact).exp().nan_to_num(0)).float()


def _strip(case: Case) -> Tensor:
    """Room for the weights of some rows, ``[terms, rows, m]``, each row from where 16 bytes can be read."""
    dtype, terms = {
        torch.float32: (torch.float32, 1),
        torch.bfloat16: (torch.bfloat16, 2),
        torch.float16: (torch.float32, 1),  # small weights leave float16
    }[case.a.dtype]
    width = 16 * blocks(len(case.b), 16)
    height = whole_blocks(_STRIP_BYTES // (terms * width * dtype.itemsize), case.block.rows, len(case.a))
    return torch.empty(terms, height, width, dtype=dtype, device=case.a.device)


@jit
def _weights_kernel(
    weights: tl.tensor,
    plane: tl.tensor,
    stride: tl.tensor,
    rows: tl.tensor,
    columns_: tl.tensor,
    of_rows: tl.tensor,
    of_columns: tl.tensor,
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
    terms: tl.constexpr,
    narrow: tl.constexpr,
    has_columns: tl.constexpr,
    no_id: tl.constexpr,
    keys: tl.constexpr,
    kept_count: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    group: tl.constexpr,
) -> None:
    """A block of the gradient with respect to ``<a_i, b_j>``, as a sum of so many terms."""
    down, across = place(last - first, m, block_m, block_n, group)
    i = first + down * block_m + tl.arange(0, block_m)
    j = across * block_n + tl.arange(0, block_n)
    values, factors = scores(
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
    row = tl.load(rows + i, mask=i < last, other=float("inf"))
    of_row = tl.load(of_rows + i, mask=i < last, other=0.0)
    gradient = tl.exp(values - row[:, None]) * of_row[:, None]
    if has_columns:
        column = tl.load(columns_ + j, mask=j < columns, other=float("inf"))
        of_column = tl.load(of_columns + j, mask=j < columns, other=0.0)
        gradient += tl.exp(values - column[None, :]) * of_column[None, :]
    if of_positives is not None:
        positive = tl.load(positives + i, mask=i < last, other=-1)
        of_positive = tl.load(of_positives + i, mask=i < last, other=0.0)
        gradient += tl.where(j[None, :] == positive[:, None], of_positive[:, None], 0.0)
    gradient *= factors
    inside = (i < last)[:, None] & (j < m)[None, :]
    places = weights + (i - first).to(tl.int64)[:, None] * stride + j[None, :]
    high = (_as_tf32(gradient) if narrow else gradient).to(weights.dtype.element_ty)
    tl.store(places, high, mask=inside)
    if terms == 2:
        tl.store(places + plane, (gradient - high.to(tl.float32)).to(weights.dtype.element_ty), mask=inside)


@jit
def _as_tf32(x: tl.tensor) -> Any:
    """Rounded to the ten bits behind the point that a product in TF32 reads, and would cut off by itself."""
    rounded = ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return tl.where(x == x, rounded, x)  # the sum turns some NaN into zero
