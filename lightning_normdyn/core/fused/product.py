"""A Triton kernel that multiplies a matrix of weights, given whole or as a sum of terms, by vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_normdyn.core.fused.block import Block, blocks
from lightning_normdyn.core.fused.language import jit, tl
from lightning_normdyn.core.fused.scores import place


def multiply(x: Tensor, y: Tensor, out: Tensor, *, add: bool) -> None:
    """``x.sum(0) @ y`` summed in float32, stored in or added to ``out``; x is never added up.

    Args:
        x: ``[terms, n, d]``.
        y: ``[d, m]``, in the precision of x, or float16 beside float32 that TF32 holds in full.
        out: ``[n, m]``, float32.
        add: whether to add to what is there.
    """
    block = Block.of(x.dtype, terms=len(x))
    n, d, m = x.shape[1], x.shape[2], y.shape[1]
    _product_kernel[(blocks(n, block.rows) * blocks(m, block.columns),)](
        *(x, y, out, n, m, d, *x.stride()),
        terms=len(x),
        add=add,
        widen=x.dtype != y.dtype,
        precision="ieee" if y.dtype == torch.float32 else "tf32",
        **block.arguments(),
    )


@jit
def _product_kernel(
    x: tl.tensor,
    y: tl.tensor,
    out: tl.tensor,
    n: tl.tensor,
    m: tl.tensor,
    d: tl.tensor,
    plane: tl.tensor,
    stride_n: tl.tensor,
    stride_d: tl.tensor,
    terms: tl.constexpr,
    add: tl.constexpr,
    widen: tl.constexpr,
    precision: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    group: tl.constexpr,
) -> None:
    """A block of ``x.sum(0) @ y``, ``[terms, n, d]`` by ``[d, m]``."""
    down, across = place(n, m, block_m, block_n, group)
    i = down * block_m + tl.arange(0, block_m)
    j = across * block_n + tl.arange(0, block_n)
    wide = i.to(tl.int64)[:, None]
    total = tl.zeros((block_m, block_n), dtype=tl.float32)
    for start in range(0, d, block_k):
        k = start + tl.arange(0, block_k)
        right = y + k.to(tl.int64)[:, None] * m + j[None, :]
        right = tl.load(right, mask=(k < d)[:, None] & (j < m)[None, :], other=0.0)
        if widen:
            right = right.to(tl.float32)
        places = x + wide * stride_n + k.to(tl.int64)[None, :] * stride_d
        for term in tl.static_range(terms):
            left = tl.load(places + term * plane, mask=(i < n)[:, None] & (k < d)[None, :], other=0.0)
            total = tl.dot(left, right, total, input_precision=precision)
    places = out + wide * m + j[None, :]
    inside = (i < n)[:, None] & (j < m)[None, :]
    if add:
        total += tl.load(places, mask=inside, other=0.0)
    tl.store(places, total, mask=inside)
