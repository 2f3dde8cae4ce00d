"""The log-sum-exps of :mod:`lightning_normdyn.core.log_sum_exp` and their gradient, fused for CUDA with Triton.

A kernel that makes a block of scores also takes the exponentials, so that scores never reach memory. Forward is one
matrix product: a block leaves a number for each of its rows and columns, and these are added up. Backward is three: a
strip of rows at a time, the weights ``dL/dS`` are made from the scores, rounded as the vectors are, and multiplied with
the vectors of either side. A strip has a fixed size whatever the batch, and no kernel writes where another one does.

Vectors in bfloat16 or float16 are multiplied as they are, which is exact, and summed in float32; float32 is multiplied
in float32. Factors of the rows and columns, ``S_ij = u_i v_j <a_i, b_j>``, make that the score of vectors that are
rescaled. Nothing here needs Triton to be imported, only to be called.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.exclusion import NO_ID, Exclusion

try:
    import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
    import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
except ImportError:
    triton = tl = None

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_PARTS = 2**24  # numbers that blocks leave for their rows and columns in one launch: 64 MiB
_STRIP_BYTES = 2**28  # weights of a strip
_GROUP = 8  # blocks of rows that take turns on the same columns, to find them in the cache


class Gradients(NamedTuple):
    """Gradients in float32; ``None`` where not wanted, or where there is no factor."""

    a: Tensor | None
    b: Tensor | None
    row_factors: Tensor | None
    column_factors: Tensor | None


@cache
def is_available() -> bool:
    """Whether there is a Triton that can run: a CUDA device and a C compiler, or Triton's interpreter."""
    if triton is None:
        return False
    has_compiler = bool(os.environ.get("CC")) or any(map(shutil.which, ("cc", "gcc", "clang")))
    return _is_interpreted() or (torch.cuda.is_available() and torch.version.hip is None and has_compiler)


def supports(a: Tensor, b: Tensor) -> bool:
    """Whether the kernels can take these vectors; every :class:`Exclusion` will do."""
    if not (is_available() and a.dtype == b.dtype and a.dtype in _DTYPES and min(*a.shape, len(b)) > 0):
        return False
    return _is_interpreted() or (a.is_cuda and torch.cuda.get_device_capability(a.device) >= (8, 0))


def log_sum_exps(
    a: Tensor,
    b: Tensor,
    *,
    columns: int = 0,
    positives: Tensor | None = None,
    excluded: Exclusion | None = None,
    row_factors: Tensor | None = None,
    column_factors: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``log sum_j exp S_ij`` for every row and ``log sum_i exp S_ij`` for the first columns; no autograd.

    Args:
        a: ``[n, d]``, float32, bfloat16 or float16, and neither n nor d zero.
        b: ``[m, d]``, likewise.
        columns: how many columns are wanted, from the first on.
        positives: a column of each row whose score is wanted too, ``[n]``: to the last bit the one that was summed.
        excluded: pairs to leave out.
        row_factors: ``u`` in ``S_ij = u_i v_j <a_i, b_j>``, ``[n]``, float32; ``None`` is one.
        column_factors: ``v``, ``[m]``, likewise.

    Returns:
        Rows ``[n]`` and columns ``[columns]`` in float64, minus infinity where everything is left out, and in float32
        the scores of the positives, ``[n]`` or empty.
    """
    case = _Case.of(a, b, row_factors, column_factors, excluded, positives)
    n, m, block = len(a), len(b), case.block
    rows = torch.empty(n, dtype=torch.float64, device=a.device)
    columns_ = rows.new_full((columns,), -torch.inf)
    scores = torch.zeros(n if positives is not None else 0, device=a.device)
    width = _blocks(m, block.columns)
    height = _whole_blocks(_PARTS // (width + _blocks(columns, block.rows)), block.rows, n)
    with _on(a):
        for first in range(0, n, height):
            last = min(first + height, n)
            down = _blocks(last - first, block.rows)
            of_rows, of_columns = scores.new_empty(2, width, last - first), scores.new_empty(2, down, columns)
            _log_sum_exp_kernel[(width * down,)](
                *(*of_rows, *of_columns, scores),
                columns=columns,
                has_columns=columns > 0,
                first=first,
                last=last,
                **case.arguments(),
            )
            rows[first:last] = _put_together(*of_rows)
            if columns:
                torch.logaddexp(columns_, _put_together(*of_columns), out=columns_)
    return rows, columns_, scores


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
    excluded: Exclusion | None = None,
    row_factors: Tensor | None = None,
    column_factors: Tensor | None = None,
    wants_a: bool = True,
    wants_b: bool = True,
) -> Gradients:
    """The gradient of what :func:`log_sum_exps` returned, given that with respect to its outputs.

    Weights are rounded like the vectors before they are multiplied. So in half precision give ``of_positives`` here
    and do not add it afterwards: of a pair that is nearly certain, the small difference is then what gets rounded.

    Args:
        a: ``[n, d]``, as they were.
        b: ``[m, d]``, likewise.
        rows: the log-sum-exps of the rows ``[n]``.
        columns: and of the first columns.
        of_rows: gradient with respect to ``rows``.
        of_columns: and with respect to ``columns``.
        positives: as they were, needed with ``of_positives`` only.
        of_positives: gradient with respect to the positives' scores, ``[n]``; ``None`` to leave it out.
        excluded: as it was.
        row_factors: as they were.
        column_factors: likewise.
        wants_a: whether the gradient of ``a`` is wanted.
        wants_b: whether that of ``b`` is.
    """
    case = _Case.of(a, b, row_factors, column_factors, excluded, None if of_positives is None else positives)
    n, m, d, block = len(a), len(b), a.shape[1], case.block
    # A row that has nothing to sum gets nothing: exp(S - inf) = 0.
    exact = [x.where(x > -torch.inf, torch.inf).double() for x in (rows, columns)]
    rows, columns = (x.float() for x in exact)
    # What a rounded shift is off by is made good in the factor.
    shares = [
        (of * (near - x).exp().nan_to_num(0)).float()
        for of, near, x in zip((of_rows, of_columns), (rows, columns), exact, strict=True)
    ]
    of_scores = None if of_positives is None else of_positives.float().contiguous()
    of_a = torch.empty(n, d, dtype=torch.float32, device=a.device) if wants_a else None
    of_b = torch.zeros(m, d, dtype=torch.float32, device=a.device) if wants_b else None
    of_u = None if row_factors is None else torch.empty_like(rows)
    of_v = None if column_factors is None else rows.new_zeros(m)
    kept_as = torch.float32 if a.dtype == torch.float16 else a.dtype  # small weights leave float16
    width, stride = _blocks(m, block.columns), 16 * _blocks(m, 16)  # rows that start where 16 bytes can be read
    height = _whole_blocks(_STRIP_BYTES // (stride * kept_as.itemsize), block.rows, n)
    with _on(a):
        strip = torch.empty(height, stride, dtype=kept_as, device=a.device)
        for first in range(0, n, height):
            last = min(first + height, n)
            down = _blocks(last - first, block.rows)
            parts_u = None if of_u is None else rows.new_empty(width, last - first)
            parts_v = None if of_v is None else rows.new_empty(down, m)
            _weights_kernel[(width * down,)](
                *(strip, stride, rows, columns, *shares, of_scores, parts_u, parts_v),
                columns=len(columns),
                has_columns=len(columns) > 0,
                first=first,
                last=last,
                **case.arguments(),
            )
            weights = strip[: last - first, :m]
            if of_a is not None:
                _multiply(weights, case.b, of_a[first:last], add=False)
            if of_b is not None:
                _multiply(weights.T, case.a[first:last], of_b, add=True)
            if of_u is not None and parts_u is not None:
                torch.sum(parts_u, 0, out=of_u[first:last])
            if of_v is not None and parts_v is not None:
                of_v += parts_v.sum(0)
    return Gradients(of_a, of_b, of_u, of_v)


class _Block(NamedTuple):
    """How much of a product one program makes, and with what."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    @classmethod
    def of(cls, dtype: torch.dtype) -> _Block:
        return cls(64, 64, 32, 4, 3) if dtype == torch.float32 else cls(128, 128, 64, 8, 3)

    def arguments(self) -> dict[str, int]:
        """As the kernels are given it; that products and sums may be fused, newer Tritons want to be told."""
        return {
            "block_m": self.rows,
            "block_n": self.columns,
            "block_k": self.depth,
            "group": _GROUP,
            "num_warps": self.warps,
            "num_stages": self.stages,
            "enable_fp_fusion": True,
        }


class _Case(NamedTuple):
    """What scores are made of, laid out as the kernels read it."""

    a: Tensor
    b: Tensor
    row_factors: Tensor | None
    column_factors: Tensor | None
    positives: Tensor | None
    row_keys: Tensor | None
    column_keys: Tensor | None
    kept: Tensor | None
    kept_row_key: Tensor | None
    kept_column_key: Tensor | None
    own: Tensor | None

    @classmethod
    def of(
        cls,
        a: Tensor,
        b: Tensor,
        row_factors: Tensor | None,
        column_factors: Tensor | None,
        excluded: Exclusion | None,
        positives: Tensor | None,
    ) -> _Case:
        factors = (None if x is None else x.detach().float().contiguous() for x in (row_factors, column_factors))
        row_keys, column_keys, kept, kept_keys, own = Exclusion() if excluded is None else excluded
        ids = (
            positives,
            torch.stack(row_keys) if row_keys else None,
            torch.stack(column_keys) if column_keys else None,
            kept,
            *(kept_keys or (None, None)),
            own,
        )
        laid_out = (None if x is None else x.to(torch.int64).contiguous() for x in ids)
        return cls(a.detach().contiguous(), b.detach().contiguous(), *factors, *laid_out)

    @property
    def block(self) -> _Block:
        return _Block.of(self.a.dtype)

    def arguments(self) -> dict[str, Any]:
        return {
            **self._asdict(),
            "n": len(self.a),
            "m": len(self.b),
            "d": self.a.shape[1],
            "no_id": NO_ID,
            "keys": 0 if self.row_keys is None else len(self.row_keys),
            "kept_count": 0 if self.kept is None else self.kept.shape[1],
            **self.block.arguments(),
        }


def _put_together(tops: Tensor, sums: Tensor) -> Tensor:
    """Log-sum-exps in float64 from what blocks left, ``[blocks, length]``; the tops are exact."""
    top = tops.amax(0)
    shift = top.where(top.isfinite(), 0)
    return shift.double() + ((tops - shift).exp_() * sums).sum(0).double().log_()


def _multiply(x: Tensor, y: Tensor, out: Tensor, *, add: bool) -> None:
    """``x @ y`` summed in float32, stored in or added to ``out``."""
    block = _Block.of(x.dtype)
    programs = _blocks(len(x), block.rows) * _blocks(y.shape[1], block.columns)
    _product_kernel[(programs,)](
        *(x, y, out, len(x), y.shape[1], len(y), x.stride(0), x.stride(1)),
        add=add,
        widen=x.dtype != y.dtype,
        precision="ieee" if y.dtype == torch.float32 else "tf32",  # which holds a float16 in full
        **block.arguments(),
    )


def _blocks(length: int, size: int) -> int:
    return -(-length // size)


def _whole_blocks(length: int, size: int, most: int) -> int:
    """About ``length``, but a whole number of blocks, and no more than hold ``most``."""
    return size * min(max(1, length // size), _blocks(most, size))


def _on(x: Tensor) -> AbstractContextManager[object]:
    """Makes the device of a tensor the one that kernels start on."""
    return torch.cuda.device_of(x)


def _is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _jit(function: Callable[..., Any]) -> Any:
    return function if triton is None else triton.jit(function)


# What follows is compiled by Triton, which reads annotations too and knows no other names than its own.


@_jit
def _log_sum_exp_kernel(
    row_tops: tl.tensor,
    row_sums: tl.tensor,
    column_tops: tl.tensor,
    column_sums: tl.tensor,
    scores: tl.tensor,
    a: tl.tensor,
    b: tl.tensor,
    row_factors: tl.tensor,
    column_factors: tl.tensor,
    positives: tl.tensor,
    row_keys: tl.tensor,
    column_keys: tl.tensor,
    kept: tl.tensor,
    kept_row_key: tl.tensor,
    kept_column_key: tl.tensor,
    own: tl.tensor,
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
    down, across = _place(last - first, m, block_m, block_n, group)
    i = first + down * block_m + tl.arange(0, block_m)
    j = across * block_n + tl.arange(0, block_n)
    products = _products(a, b, i, j, last, m, d, block_m, block_n, block_k)
    made = products * _factors(row_factors, column_factors, i, j, last, m, block_m, block_n)
    out = _outside(
        row_keys,
        column_keys,
        kept,
        kept_row_key,
        kept_column_key,
        own,
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
    made = tl.where(out, -float("inf"), made)
    top, total = _exponentials(made, 1)
    places = across.to(tl.int64) * (last - first) + i - first
    tl.store(row_tops + places, top, mask=i < last)
    tl.store(row_sums + places, total, mask=i < last)
    if has_columns:
        top, total = _exponentials(made, 0)
        places = down.to(tl.int64) * columns + j
        tl.store(column_tops + places, top, mask=j < columns)
        tl.store(column_sums + places, total, mask=j < columns)
    if positives is not None:
        chosen = tl.load(positives + i, mask=i < last, other=-1)
        inside = (chosen >= across * block_n) & (chosen < across * block_n + block_n) & (chosen < m)
        found = tl.sum(tl.where(j[None, :] == chosen[:, None], made, 0.0), 1)
        tl.store(scores + i, found, mask=inside)


@_jit
def _weights_kernel(
    weights: tl.tensor,
    stride: tl.tensor,
    rows: tl.tensor,
    columns_: tl.tensor,
    of_rows: tl.tensor,
    of_columns: tl.tensor,
    of_positives: tl.tensor,
    parts_u: tl.tensor,
    parts_v: tl.tensor,
    a: tl.tensor,
    b: tl.tensor,
    row_factors: tl.tensor,
    column_factors: tl.tensor,
    positives: tl.tensor,
    row_keys: tl.tensor,
    column_keys: tl.tensor,
    kept: tl.tensor,
    kept_row_key: tl.tensor,
    kept_column_key: tl.tensor,
    own: tl.tensor,
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
    """A block of the gradient with respect to ``<a_i, b_j>``, and its shares of that of the factors."""
    down, across = _place(last - first, m, block_m, block_n, group)
    i = first + down * block_m + tl.arange(0, block_m)
    j = across * block_n + tl.arange(0, block_n)
    products = _products(a, b, i, j, last, m, d, block_m, block_n, block_k)
    factors = _factors(row_factors, column_factors, i, j, last, m, block_m, block_n)
    made = products * factors
    out = _outside(
        row_keys,
        column_keys,
        kept,
        kept_row_key,
        kept_column_key,
        own,
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
    made = tl.where(out, -float("inf"), made)
    row = tl.load(rows + i, mask=i < last, other=float("inf"))
    of_row = tl.load(of_rows + i, mask=i < last, other=0.0)
    gradient = tl.exp(made - row[:, None]) * of_row[:, None]
    if has_columns:
        column = tl.load(columns_ + j, mask=j < columns, other=float("inf"))
        of_column = tl.load(of_columns + j, mask=j < columns, other=0.0)
        gradient += tl.exp(made - column[None, :]) * of_column[None, :]
    if of_positives is not None:
        chosen = tl.load(positives + i, mask=i < last, other=-1)
        of_positive = tl.load(of_positives + i, mask=i < last, other=0.0)
        gradient += tl.where(j[None, :] == chosen[:, None], of_positive[:, None], 0.0)
    local = (i - first).to(tl.int64)
    inside = (i < last)[:, None] & (j < m)[None, :]
    places = weights + local[:, None] * stride + j[None, :]
    tl.store(places, (gradient * factors).to(weights.dtype.element_ty), mask=inside)
    gradient *= products
    if parts_u is not None:
        of_u = gradient * _one_side(column_factors, j, m, block_n)[None, :]
        tl.store(parts_u + across.to(tl.int64) * (last - first) + local, tl.sum(of_u, 1), mask=i < last)
    if parts_v is not None:
        of_v = gradient * _one_side(row_factors, i, last, block_m)[:, None]
        tl.store(parts_v + down.to(tl.int64) * m + j, tl.sum(of_v, 0), mask=j < m)


@_jit
def _product_kernel(
    x: tl.tensor,
    y: tl.tensor,
    out: tl.tensor,
    n: tl.tensor,
    m: tl.tensor,
    d: tl.tensor,
    stride_n: tl.tensor,
    stride_d: tl.tensor,
    add: tl.constexpr,
    widen: tl.constexpr,
    precision: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    group: tl.constexpr,
) -> None:
    """A block of ``x @ y``, ``[n, d]`` by ``[d, m]``."""
    down, across = _place(n, m, block_m, block_n, group)
    i = down * block_m + tl.arange(0, block_m)
    j = across * block_n + tl.arange(0, block_n)
    wide = i.to(tl.int64)[:, None]
    total = tl.zeros((block_m, block_n), dtype=tl.float32)
    for start in range(0, d, block_k):
        k = start + tl.arange(0, block_k)
        left = x + wide * stride_n + k.to(tl.int64)[None, :] * stride_d
        left = tl.load(left, mask=(i < n)[:, None] & (k < d)[None, :], other=0.0)
        right = y + k.to(tl.int64)[:, None] * m + j[None, :]
        right = tl.load(right, mask=(k < d)[:, None] & (j < m)[None, :], other=0.0)
        if widen:
            left, right = left.to(tl.float32), right.to(tl.float32)
        total = tl.dot(left, right, total, input_precision=precision)
    places = out + wide * m + j[None, :]
    inside = (i < n)[:, None] & (j < m)[None, :]
    if add:
        total += tl.load(places, mask=inside, other=0.0)
    tl.store(places, total, mask=inside)


@_jit
def _place(n: tl.tensor, m: tl.tensor, block_m: tl.constexpr, block_n: tl.constexpr, group: tl.constexpr) -> Any:
    """Which block of rows and of columns this program makes."""
    down, across = tl.cdiv(n, block_m), tl.cdiv(m, block_n)
    number = tl.program_id(0)
    top = (number // (group * across)) * group
    height = tl.minimum(down - top, group)
    number = number % (group * across)
    return top + number % height, number // height


@_jit
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


@_jit
def _factors(
    row_factors: tl.tensor,
    column_factors: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    n: tl.tensor,
    m: tl.tensor,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
) -> Any:
    """``u_i v_j``."""
    return _one_side(row_factors, i, n, block_m)[:, None] * _one_side(column_factors, j, m, block_n)[None, :]


@_jit
def _one_side(factors: tl.tensor, places: tl.tensor, length: tl.tensor, block: tl.constexpr) -> Any:
    if factors is None:
        side = tl.full((block,), 1.0, dtype=tl.float32)
    else:
        side = tl.load(factors + places, mask=places < length, other=0.0)
    return side


@_jit
def _outside(
    row_keys: tl.tensor,
    column_keys: tl.tensor,
    kept: tl.tensor,
    kept_row_key: tl.tensor,
    kept_column_key: tl.tensor,
    own: tl.tensor,
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
        stays = tl.load(kept + i.to(tl.int64) * kept_count + number, mask=i < last, other=-1)
        out = out & (j[None, :] != stays[:, None])
    if kept_row_key is not None:
        of_row = tl.load(kept_row_key + i, mask=i < last, other=no_id)
        of_column = tl.load(kept_column_key + j, mask=j < m, other=no_id)
        out = out & (of_row[:, None] != of_column[None, :])
    if own is not None:
        goes = tl.load(own + i, mask=i < last, other=-1)
        out = out | (j[None, :] == goes[:, None])
    return out | (i >= last)[:, None] | (j >= m)[None, :]


@_jit
def _exponentials(made: tl.tensor, axis: tl.constexpr) -> Any:
    """The largest along an axis and ``sum exp(made - largest)``: nothing sums to 0, and NaN stays NaN."""
    top = tl.max(made, axis)
    shift = tl.where(tl.abs(top) == float("inf"), 0.0, top)
    total = tl.sum(tl.exp(made - tl.expand_dims(shift, axis)), axis)
    return top, total
