"""A block of scores, as a kernel makes it; compiled by Triton, which knows no other names than its own."""

from __future__ import annotations

from typing import Any

from lightning_normdyn.core.fused.language import jit, tl


@jit
def place(n: tl.tensor, m: tl.tensor, block_m: tl.constexpr, block_n: tl.constexpr, group: tl.constexpr) -> Any:
    """Which block of rows and of columns this program makes."""
    down, across = tl.cdiv(n, block_m), tl.cdiv(m, block_n)
    number = tl.program_id(0)
    top = (number // (group * across)) * group
    height = tl.minimum(down - top, group)
    number = number % (group * across)
    return top + number % height, number // height


@jit
def scores(
    a: tl.tensor,
    b: tl.tensor,
    row_factors: tl.tensor,
    column_factors: tl.tensor,
    row_keys: tl.tensor,
    column_keys: tl.tensor,
    positive_columns: tl.tensor,
    kept_row_key: tl.tensor,
    kept_column_key: tl.tensor,
    self_columns: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    last: tl.tensor,
    n: tl.tensor,
    m: tl.tensor,
    d: tl.tensor,
    no_id: tl.constexpr,
    keys: tl.constexpr,
    kept_count: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
) -> Any:
    """``u_i v_j <a_i, b_j>``, minus infinity where a pair is out, and ``u_i v_j``."""
    factors = _factors(row_factors, i, last, block_m)[:, None] * _factors(column_factors, j, m, block_n)[None, :]
    values = _products(a, b, i, j, last, m, d, block_m, block_n, block_k) * factors
    out = _outside(
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
        no_id,
        keys,
        kept_count,
        block_m,
        block_n,
    )
    return tl.where(out, -float("inf"), values), factors


@jit
def _products(
    a: tl.tensor,
    b: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    n: tl.tensor,
    m: tl.tensor,
    d: tl.tensor,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
) -> Any:
    """``<a_i, b_j>`` in float32."""
    of_a, of_b = a + i.to(tl.int64)[:, None] * d, b + j.to(tl.int64)[None, :] * d
    total = tl.zeros((block_m, block_n), dtype=tl.float32)
    for start in range(0, d, block_k):
        k = start + tl.arange(0, block_k)
        left = tl.load(of_a + k[None, :], mask=(i < n)[:, None] & (k < d)[None, :], other=0.0)
        right = tl.load(of_b + k[:, None], mask=(k < d)[:, None] & (j < m)[None, :], other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    return total


@jit
def _factors(factors: tl.tensor, places: tl.tensor, length: tl.tensor, block: tl.constexpr) -> Any:
    if factors is None:
        side = tl.full((block,), 1.0, dtype=tl.float32)
    else:
        side = tl.load(factors + places, mask=places < length, other=0.0)
    return side


@jit
def _outside(
    row_keys: tl.tensor,
    column_keys: tl.tensor,
    positive_columns: tl.tensor,
    kept_row_key: tl.tensor,
    kept_column_key: tl.tensor,
    self_columns: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    last: tl.tensor,
    n: tl.tensor,
    m: tl.tensor,
    no_id: tl.constexpr,
    keys: tl.constexpr,
    kept_count: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
) -> Any:
    """Whether a pair is excluded, as `Exclusion.mask` has it, or lies beyond the last row or column."""
    out = tl.zeros((block_m, block_n), dtype=tl.int1)
    for key in tl.static_range(keys):
        of_row = tl.load(row_keys + key * n + i, mask=i < last, other=no_id)
        of_column = tl.load(column_keys + key * m + j, mask=j < m, other=no_id)
        out = out | ((of_row[:, None] == of_column[None, :]) & (of_column != no_id)[None, :])
    for number in tl.static_range(kept_count):
        stays = tl.load(positive_columns + i.to(tl.int64) * kept_count + number, mask=i < last, other=-1)
        out = out & (j[None, :] != stays[:, None])
    if kept_row_key is not None:
        of_row = tl.load(kept_row_key + i, mask=i < last, other=no_id)
        of_column = tl.load(kept_column_key + j, mask=j < m, other=no_id)
        out = out & (of_row[:, None] != of_column[None, :])
    if self_columns is not None:
        goes = tl.load(self_columns + i, mask=i < last, other=-1)
        out = out | (j[None, :] == goes[:, None])
    return out | (i >= last)[:, None] | (j >= m)[None, :]
