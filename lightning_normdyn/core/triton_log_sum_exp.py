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
        Rows ``[n]`` and columns ``[columns]``, minus infinity where everything is left out, and the scores of the
        positives, ``[n]`` or empty; all in float32.
    """
    case = _Case.of(a, b, row_factors, column_factors, excluded, positives)
    n, m, block = len(a), len(b), case.block
    rows = torch.empty(n, dtype=torch.float32, device=a.device)
    columns_ = rows.new_full((columns,), -torch.inf)
    scores = rows.new_zeros(n if positives is not None else 0)
    width = _blocks(m, block.columns)
    height = _whole_blocks(_PARTS // (width + _blocks(columns, block.rows)), block.rows, n)
    with _on(a):
        for first in range(0, n, height):
            last = min(first + height, n)
            of_rows = rows.new_empty(width, last - first)
            of_columns = rows.new_empty(_blocks(last - first, block.rows), columns)
            _log_sum_exp_kernel[(width * len(of_columns),)](
                of_rows, of_columns, scores, columns=columns, first=first, last=last, **case.arguments()
            )
            torch.logsumexp(of_rows, 0, out=rows[first:last])
            if columns:
                torch.logaddexp(columns_, of_columns.logsumexp(0), out=columns_)
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
    rows, columns = (x.where(x > -torch.inf, torch.inf).contiguous() for x in (rows, columns))
    given = [None if x is None else x.float().contiguous() for x in (of_rows, of_columns, of_positives)]
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
                *(strip, stride, rows, columns, *given, parts_u, parts_v),
                columns=len(columns),
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
        return {
            "BLOCK_M": self.rows,
            "BLOCK_N": self.columns,
            "BLOCK_K": self.depth,
            "GROUP": _GROUP,
            "num_warps": self.warps,
            "num_stages": self.stages,
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
            "NO_ID": NO_ID,
            "KEYS": 0 if self.row_keys is None else len(self.row_keys),
            "KEPT": 0 if self.kept is None else self.kept.shape[1],
            "WIDEN": self.a.dtype != torch.float32 and _is_interpreted(),
            **self.block.arguments(),
        }


def _multiply(x: Tensor, y: Tensor, out: Tensor, *, add: bool) -> None:
    """``x @ y`` summed in float32, stored in or added to ``out``."""
    block = _Block.of(x.dtype)
    programs = _blocks(len(x), block.rows) * _blocks(y.shape[1], block.columns)
    _product_kernel[(programs,)](
        *(x, y, out, len(x), y.shape[1], len(y), x.stride(0), x.stride(1)),
        ADD=add,
        WIDEN=x.dtype != y.dtype or (x.dtype != torch.float32 and _is_interpreted()),
        PRECISION="ieee" if y.dtype == torch.float32 else "tf32",  # which holds a float16 in full
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


def _jit(function: Callable[..., None]) -> Any:
    return function if triton is None else triton.jit(function)


def _jit_helper(function: Callable[..., Any]) -> Any:
    return function if triton is None else triton.jit(function)


# What follows is compiled by Triton: a Python in which sizes are powers of two and loads outside a mask give `other`.


@_jit
def _log_sum_exp_kernel(
    row_parts: Any,
    column_parts: Any,
    scores: Any,
    a: Any,
    b: Any,
    row_factors: Any,
    column_factors: Any,
    positives: Any,
    row_keys: Any,
    column_keys: Any,
    kept: Any,
    kept_row_key: Any,
    kept_column_key: Any,
    own: Any,
    columns: Any,
    first: Any,
    last: Any,
    n: Any,
    m: Any,
    d: Any,
    NO_ID: tl.constexpr,
    KEYS: tl.constexpr,
    KEPT: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    """The log-sum-exps of a block's rows and columns, and the positives' scores that lie in it."""
    down, across = _place(last - first, m, BLOCK_M, BLOCK_N, GROUP)
    i = first + down * BLOCK_M + tl.arange(0, BLOCK_M)
    j = across * BLOCK_N + tl.arange(0, BLOCK_N)
    products = _products(a, b, i, j, last, m, d, WIDEN, BLOCK_M, BLOCK_N, BLOCK_K)
    made = products * _factors(row_factors, column_factors, i, j, last, m, BLOCK_M, BLOCK_N)
    out = _outside(
        *(row_keys, column_keys, kept, kept_row_key, kept_column_key, own),
        *(i, j, last, n, m, NO_ID, KEYS, KEPT, BLOCK_M, BLOCK_N),
    )
    made = tl.where(out, -float("inf"), made)
    local = (i - first).to(tl.int64)
    tl.store(row_parts + across.to(tl.int64) * (last - first) + local, _log_sum(made, 1), mask=i < last)
    if columns > 0:
        tl.store(column_parts + down.to(tl.int64) * columns + j, _log_sum(made, 0), mask=j < columns)
    if positives is not None:
        places = tl.load(positives + i, mask=i < last, other=-1)
        inside = (places >= across * BLOCK_N) & (places < across * BLOCK_N + BLOCK_N) & (places < m)
        found = tl.sum(tl.where(j[None, :] == places[:, None], made, 0.0), 1)
        tl.store(scores + i, found, mask=inside)


@_jit
def _weights_kernel(
    weights: Any,
    stride: Any,
    rows: Any,
    columns_: Any,
    of_rows: Any,
    of_columns: Any,
    of_positives: Any,
    parts_u: Any,
    parts_v: Any,
    a: Any,
    b: Any,
    row_factors: Any,
    column_factors: Any,
    positives: Any,
    row_keys: Any,
    column_keys: Any,
    kept: Any,
    kept_row_key: Any,
    kept_column_key: Any,
    own: Any,
    columns: Any,
    first: Any,
    last: Any,
    n: Any,
    m: Any,
    d: Any,
    NO_ID: tl.constexpr,
    KEYS: tl.constexpr,
    KEPT: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    """A block of the gradient with respect to ``<a_i, b_j>``, and its shares of that of the factors."""
    down, across = _place(last - first, m, BLOCK_M, BLOCK_N, GROUP)
    i = first + down * BLOCK_M + tl.arange(0, BLOCK_M)
    j = across * BLOCK_N + tl.arange(0, BLOCK_N)
    products = _products(a, b, i, j, last, m, d, WIDEN, BLOCK_M, BLOCK_N, BLOCK_K)
    factors = _factors(row_factors, column_factors, i, j, last, m, BLOCK_M, BLOCK_N)
    made = products * factors
    out = _outside(
        *(row_keys, column_keys, kept, kept_row_key, kept_column_key, own),
        *(i, j, last, n, m, NO_ID, KEYS, KEPT, BLOCK_M, BLOCK_N),
    )
    made = tl.where(out, -float("inf"), made)
    row = tl.load(rows + i, mask=i < last, other=float("inf"))
    of_row = tl.load(of_rows + i, mask=i < last, other=0.0)
    gradient = tl.exp(made - row[:, None]) * of_row[:, None]
    if columns > 0:
        column = tl.load(columns_ + j, mask=j < columns, other=float("inf"))
        of_column = tl.load(of_columns + j, mask=j < columns, other=0.0)
        gradient += tl.exp(made - column[None, :]) * of_column[None, :]
    if of_positives is not None:
        places = tl.load(positives + i, mask=i < last, other=-1)
        of_positive = tl.load(of_positives + i, mask=i < last, other=0.0)
        gradient += tl.where(j[None, :] == places[:, None], of_positive[:, None], 0.0)
    gradient = gradient.to(tl.float32)
    local = (i - first).to(tl.int64)
    inside = (i < last)[:, None] & (j < m)[None, :]
    places_ = weights + local[:, None] * stride + j[None, :]
    tl.store(places_, (gradient * factors).to(weights.dtype.element_ty), mask=inside)
    gradient *= products
    if parts_u is not None:
        of_u = gradient * _one_side(column_factors, j, m, BLOCK_N)[None, :]
        tl.store(parts_u + across.to(tl.int64) * (last - first) + local, tl.sum(of_u, 1), mask=i < last)
    if parts_v is not None:
        of_v = gradient * _one_side(row_factors, i, last, BLOCK_M)[:, None]
        tl.store(parts_v + down.to(tl.int64) * m + j, tl.sum(of_v, 0), mask=j < m)


@_jit
def _product_kernel(
    x: Any,
    y: Any,
    out: Any,
    n: Any,
    m: Any,
    d: Any,
    stride_n: Any,
    stride_d: Any,
    ADD: tl.constexpr,
    WIDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    """A block of ``x @ y``, ``[n, d]`` by ``[d, m]``."""
    down, across = _place(n, m, BLOCK_M, BLOCK_N, GROUP)
    i = down * BLOCK_M + tl.arange(0, BLOCK_M)
    j = across * BLOCK_N + tl.arange(0, BLOCK_N)
    wide = i.to(tl.int64)[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, d, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        left = x + wide * stride_n + k.to(tl.int64)[None, :] * stride_d
        left = tl.load(left, mask=(i < n)[:, None] & (k < d)[None, :], other=0.0)
        right = y + k.to(tl.int64)[:, None] * m + j[None, :]
        right = tl.load(right, mask=(k < d)[:, None] & (j < m)[None, :], other=0.0)
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    places = out + wide * m + j[None, :]
    inside = (i < n)[:, None] & (j < m)[None, :]
    if ADD:
        total += tl.load(places, mask=inside, other=0.0)
    tl.store(places, total, mask=inside)


@_jit_helper
def _place(n: Any, m: Any, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr) -> Any:
    """Which block of rows and of columns this program makes."""
    down, across = tl.cdiv(n, BLOCK_M), tl.cdiv(m, BLOCK_N)
    number = tl.program_id(0)
    top = (number // (GROUP * across)) * GROUP
    height = tl.minimum(down - top, GROUP)
    number = number % (GROUP * across)
    return top + number % height, number // height


@_jit_helper
def _products(
    a: Any,
    b: Any,
    i: Any,
    j: Any,
    n: Any,
    m: Any,
    d: Any,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> Any:
    """``<a_i, b_j>`` in float32."""
    of_a, of_b = a + i.to(tl.int64)[:, None] * d, b + j.to(tl.int64)[None, :] * d
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, d, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        left = tl.load(of_a + k[None, :], mask=(i < n)[:, None] & (k < d)[None, :], other=0.0)
        right = tl.load(of_b + k[:, None], mask=(k < d)[:, None] & (j < m)[None, :], other=0.0)
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        total = tl.dot(left, right, total, input_precision="ieee")
    return total


@_jit_helper
def _factors(
    row_factors: Any,
    column_factors: Any,
    i: Any,
    j: Any,
    n: Any,
    m: Any,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> Any:
    """``u_i v_j``."""
    return _one_side(row_factors, i, n, BLOCK_M)[:, None] * _one_side(column_factors, j, m, BLOCK_N)[None, :]


@_jit_helper
def _one_side(factors: Any, places: Any, length: Any, BLOCK: tl.constexpr) -> Any:
    if factors is None:
        side = tl.full((BLOCK,), 1.0, dtype=tl.float32)
    else:
        side = tl.load(factors + places, mask=places < length, other=0.0)
    return side


@_jit_helper
def _outside(
    row_keys: Any,
    column_keys: Any,
    kept: Any,
    kept_row_key: Any,
    kept_column_key: Any,
    own: Any,
    i: Any,
    j: Any,
    last: Any,
    n: Any,
    m: Any,
    NO_ID: tl.constexpr,
    KEYS: tl.constexpr,
    KEPT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> Any:
    """Whether a pair is excluded, as `Exclusion.mask` has it, or lies beyond the last row or column."""
    out = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int1)
    for key in tl.static_range(KEYS):
        of_row = tl.load(row_keys + key * n + i, mask=i < last, other=NO_ID)
        of_column = tl.load(column_keys + key * m + j, mask=j < m, other=NO_ID)
        out = out | ((of_row[:, None] == of_column[None, :]) & (of_column != NO_ID)[None, :])
    for number in tl.static_range(KEPT):
        stays = tl.load(kept + i.to(tl.int64) * KEPT + number, mask=i < last, other=-1)
        out = out & (j[None, :] != stays[:, None])
    if kept_row_key is not None:
        of_row = tl.load(kept_row_key + i, mask=i < last, other=NO_ID)
        of_column = tl.load(kept_column_key + j, mask=j < m, other=NO_ID)
        out = out & (of_row[:, None] != of_column[None, :])
    if own is not None:
        goes = tl.load(own + i, mask=i < last, other=-1)
        out = out | (j[None, :] == goes[:, None])
    return out | (i >= last)[:, None] | (j >= m)[None, :]


@_jit_helper
def _log_sum(made: Any, AXIS: tl.constexpr) -> Any:
    """Log-sum-exp along an axis; minus infinity of nothing, and NaN stays NaN."""
    top = tl.max(made, AXIS)
    top = tl.where(tl.abs(top) == float("inf"), 0.0, top)
    total = tl.sum(tl.exp(made - tl.expand_dims(top, AXIS)), AXIS)
    return tl.where(total == 0.0, -float("inf"), top + tl.log(tl.where(total == 0.0, 1.0, total)))
