"""Terms that are linear in the scores, such as a mean over candidates, without ever holding scores or weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import Exclusion
from lightning_normdyn.core.contrast.first_derivative import first_derivative_only
from lightning_normdyn.core.contrast.score_tiles import Tile, tiles

TileWeights = Callable[[Tile], Tensor]
"""Weights of a tile's pairs, ``[rows, columns]``; constants, which get no gradient."""


def weighted_sums(
    x: Tensor, weights: TileWeights, shape: tuple[int, int], *, by_column: bool = False, chunk_size: int | None = None
) -> Tensor:
    """``sum_j w_ij x_j`` for every row, so that ``sum_j w_ij <a_i, b_j>`` is one inner product with ``a_i``.

    Two matrix products in all, forward and backward, whatever the weights are.

    Args:
        x: what is summed, ``[m, d]``; ``[n, d]`` by column.
        weights: of a tile.
        shape: rows and columns of all weights, ``(n, m)``.
        by_column: whether to sum over rows instead, ``sum_i w_ij x_i``.
        chunk_size: columns that are looked at together; ``None`` picks what suits the device.

    Returns:
        ``[n, d]``, or ``[m, d]`` by column; carries the gradient of ``x``.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> weighted_sums(x, lambda tile: torch.eye(2)[tile.rows, tile.columns] + 1, (2, 2))
        tensor([[2., 2.],
                [1., 4.]])
    """
    sums: Tensor = _WeightedSums.apply(x, weights, shape, by_column, chunk_size)
    return sums


def score_sums(
    a: Tensor, b: Tensor, *, columns: int = 0, exclusion: Exclusion | None = None, chunk_size: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``sum_j <a_i, b_j>`` for every row and ``sum_i <a_i, b_j>`` for the first columns, and of how many pairs.

    Args:
        a: ``[n, d]``.
        b: ``[m, d]``.
        columns: how many columns are wanted, from the first on.
        exclusion: pairs to leave out.
        chunk_size: columns that are looked at together; ``None`` picks what suits the device.

    Returns:
        Sums of rows ``[n]`` and of columns ``[columns]``, then their numbers of pairs, likewise.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [1.0, 3.0]])
        >>> score_sums(a, b, columns=1)
        (tensor([3., 3.]), tensor([2.]), tensor([2., 2.]), tensor([2.]))
    """
    n, m = len(a), len(b)
    if exclusion is None:
        rows, of_columns = a @ b.sum(0), b[:columns] @ a.sum(0)
        return rows, of_columns, torch.full_like(rows, m), torch.full_like(of_columns, n)

    def weights(tile: Tile) -> Tensor:
        return exclusion.mask(tile.rows, tile.columns).logical_not_().to(a.dtype)

    rows = (a * weighted_sums(b, weights, (n, m), chunk_size=chunk_size)).sum(-1)
    counts = weighted_sums(b.new_ones(m, 1), weights, (n, m), chunk_size=chunk_size)[:, 0]
    if not columns:
        return rows, rows[:0], counts, counts[:0]
    narrow = (n, columns)
    of_columns = (b[:columns] * weighted_sums(a, weights, narrow, by_column=True, chunk_size=chunk_size)).sum(-1)
    column_counts = weighted_sums(a.new_ones(n, 1), weights, narrow, by_column=True, chunk_size=chunk_size)[:, 0]
    return rows, of_columns, counts, column_counts


class _WeightedSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weights: TileWeights, shape: tuple[int, int], by_column: bool, chunk_size: int | None
    ) -> Tensor:
        ctx.arguments = weights, shape, by_column, chunk_size
        return _sweep(x, weights, shape, by_column, chunk_size)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        weights, shape, by_column, chunk_size = ctx.arguments
        return _sweep(gradient, weights, shape, not by_column, chunk_size), None, None, None, None


def _sweep(x: Tensor, weights: TileWeights, shape: tuple[int, int], by_column: bool, chunk_size: int | None) -> Tensor:
    sums = x.new_zeros(shape[1] if by_column else shape[0], x.shape[1])
    with torch.autocast(x.device.type, enabled=False):
        for tile in tiles(*shape, chunk_size, x.device):
            if by_column:
                sums[tile.columns].addmm_(weights(tile).T, x[tile.rows])
            else:
                sums[tile.rows].addmm_(weights(tile), x[tile.columns])
    return sums
