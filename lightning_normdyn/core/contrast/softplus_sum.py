"""The sum of ``log(1 + exp score)`` over all pairs, without ever holding the scores."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import Exclusion
from lightning_normdyn.core.contrast.first_derivative import first_derivative_only
from lightning_normdyn.core.contrast.score_tiles import ScoreTiles, tiles


def softplus_sum(
    a: Tensor, b: Tensor, bias: Tensor, *, exclusion: Exclusion | None = None, chunk_size: int | None = None
) -> Tensor:
    """``sum_ij log(1 + exp(<a_i, b_j> + bias))``: the pairwise sigmoid loss of every pair as a negative one.

    A positive pair differs from a negative one by its score alone, ``log(1 + e^-x) = log(1 + e^x) - x``, so that
    positives are taken off outside (arXiv 2303.15343, algorithm 1). The gradient is made on the way forward.

    Args:
        a: ``[n, d]``, float32 or float64.
        b: ``[m, d]``, likewise.
        bias: no dimension.
        exclusion: pairs to leave out.
        chunk_size: columns that are looked at together; ``None`` picks what suits the device.

    Returns:
        A scalar.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        >>> softplus_sum(a, b, torch.tensor(0.0))
        tensor(2.8201)
    """
    total: Tensor = _SoftplusSum.apply(a, b, bias, exclusion, chunk_size)
    return total


def softplus_sums(
    a: Tensor, b: Tensor, bias: Tensor, *, exclusion: Exclusion | None = None, chunk_size: int | None = None
) -> Tensor:
    """``sum_j log(1 + exp(<a_i, b_j> + bias))`` of every row, ``[n]``, for whoever weighs rows.

    What each row counts is known on the way back alone, so that the scores are made twice.

    Args:
        a: ``[n, d]``, float32 or float64.
        b: ``[m, d]``, likewise.
        bias: no dimension.
        exclusion: pairs to leave out.
        chunk_size: columns that are looked at together; ``None`` picks what suits the device.

    Returns:
        ``[n]``.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        >>> softplus_sums(a, b, torch.tensor(0.0))
        tensor([2.8201, 1.3863])
    """
    sums: Tensor = _SoftplusSums.apply(a, b, bias, exclusion, chunk_size)
    return sums


class _SoftplusSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, bias: Tensor, exclusion: Exclusion | None, chunk_size: int | None
    ) -> Tensor:
        ctx.exclusion, ctx.chunk_size = exclusion, chunk_size
        ctx.save_for_backward(a, b, bias)
        sums = a.new_zeros(len(a))
        with torch.autocast(a.device.type, enabled=False):
            scores = ScoreTiles(a, b, exclusion, [])
            for tile in tiles(len(a), len(b), chunk_size, a.device):
                sums[tile.rows] += F.softplus(scores(tile).add_(bias)).sum(1)
        return sums

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, of_sums: Tensor) -> tuple[Tensor | None, ...]:
        a, b, bias = ctx.saved_tensors
        of_a, of_b, of_bias = (
            torch.zeros_like(x) if wanted else None
            for x, wanted in zip((a, b, bias), ctx.needs_input_grad[:3], strict=True)
        )
        with torch.autocast(a.device.type, enabled=False):
            scores = ScoreTiles(a, b, ctx.exclusion, [])
            for tile in tiles(len(a), len(b), ctx.chunk_size, a.device):
                of_scores = scores(tile).add_(bias).sigmoid_().mul_(of_sums[tile.rows, None])
                if of_a is not None:
                    of_a[tile.rows].addmm_(of_scores, b[tile.columns])
                if of_b is not None:
                    of_b[tile.columns].addmm_(of_scores.T, a[tile.rows])
                if of_bias is not None:
                    of_bias += of_scores.sum()
        return of_a, of_b, of_bias, None, None


class _SoftplusSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, bias: Tensor, exclusion: Exclusion | None, chunk_size: int | None
    ) -> Tensor:
        with torch.autocast(a.device.type, enabled=False):
            wants_a, wants_b, wants_bias = ctx.needs_input_grad[:3]
            of_a = torch.zeros_like(a) if wants_a else None
            of_b = torch.zeros_like(b) if wants_b else None
            of_bias = torch.zeros_like(bias) if wants_bias else None
            scores = ScoreTiles(a, b, exclusion, [])
            total = torch.zeros_like(bias)
            for tile in tiles(len(a), len(b), chunk_size, a.device):
                tile_scores = scores(tile).add_(bias)
                total += F.softplus(tile_scores).sum()
                if not any(ctx.needs_input_grad[:3]):
                    continue
                of_scores = tile_scores.sigmoid_()
                if of_a is not None:
                    of_a[tile.rows].addmm_(of_scores, b[tile.columns])
                if of_b is not None:
                    of_b[tile.columns].addmm_(of_scores.T, a[tile.rows])
                if of_bias is not None:
                    of_bias += of_scores.sum()
        ctx.save_for_backward(*(gradient for gradient in (of_a, of_b, of_bias) if gradient is not None))
        return total

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, of_total: Tensor) -> tuple[Tensor | None, ...]:
        gradients = iter(ctx.saved_tensors)
        of_a, of_b, of_bias = (next(gradients) * of_total if wanted else None for wanted in ctx.needs_input_grad[:3])
        return of_a, of_b, of_bias, None, None
