"""The sum of ``log(1 + exp ±score)`` over all pairs, without ever holding the scores."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import Exclusion
from lightning_normdyn.core.contrast.first_derivative import first_derivative_only
from lightning_normdyn.core.contrast.positive_pairs import PositivePairs as PositivePairs
from lightning_normdyn.core.contrast.score_tiles import ScoreTiles, Tile, tiles


def softplus_sum(
    a: Tensor,
    b: Tensor,
    bias: Tensor,
    *,
    positives: PositivePairs | None = None,
    exclusion: Exclusion | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """``sum_ij log(1 + exp(-z_ij (<a_i, b_j> + bias)))``, ``z`` being 1 for positive pairs and -1 for all others.

    The pairwise sigmoid loss (arXiv 2303.15343, eq. 1). Scores of positives change their sign before anything is summed
    (``log(1 + e^x) - x`` would leave few digits of a small ``log(1 + e^-x)``). The gradient is made on the way forward.

    Args:
        a: ``[n, d]``, float32 or float64.
        b: ``[m, d]``, likewise.
        bias: no dimension.
        positives: positive pairs; ``None`` if there are none.
        exclusion: pairs to leave out.
        chunk_size: columns that are looked at together; ``None`` picks what suits the device.

    Returns:
        A scalar.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        >>> softplus_sum(a, b, torch.tensor(0.0))
        tensor(2.8201)
    """
    total: Tensor = _SoftplusSum.apply(a, b, bias, positives, exclusion, chunk_size)
    return total


def softplus_sums(
    a: Tensor,
    b: Tensor,
    bias: Tensor,
    *,
    positives: PositivePairs | None = None,
    exclusion: Exclusion | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """The same sum of every row, ``[n]``, for whoever weighs rows.

    What each row counts is known on the way back alone, so that the scores are made twice.

    Args:
        a: ``[n, d]``, float32 or float64.
        b: ``[m, d]``, likewise.
        bias: no dimension.
        positives: positive pairs; ``None`` if there are none.
        exclusion: pairs to leave out.
        chunk_size: columns that are looked at together; ``None`` picks what suits the device.

    Returns:
        ``[n]``.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        >>> softplus_sums(a, b, torch.tensor(0.0))
        tensor([2.8201, 1.3863])
    """
    sums: Tensor = _SoftplusSums.apply(a, b, bias, positives, exclusion, chunk_size)
    return sums


class _Gradients(NamedTuple):
    """What is added up over tiles for the inputs; ``None`` for those that want no gradient."""

    of_a: Tensor | None
    of_b: Tensor | None
    of_bias: Tensor | None

    @classmethod
    def zeros(cls, ctx: Any, a: Tensor, b: Tensor, bias: Tensor) -> _Gradients:
        """Before the first tile."""
        wanted = zip((a, b, bias), ctx.needs_input_grad[:3], strict=True)
        return cls(*(torch.zeros_like(x) if is_wanted else None for x, is_wanted in wanted))

    def add(self, of_scores: Tensor, tile: Tile, a: Tensor, b: Tensor) -> None:
        """What the gradient of a tile's scores gives, in place."""
        if self.of_a is not None:
            self.of_a[tile.rows].addmm_(of_scores, b[tile.columns])
        if self.of_b is not None:
            self.of_b[tile.columns].addmm_(of_scores.T, a[tile.rows])
        if self.of_bias is not None:
            self.of_bias.add_(of_scores.sum())


class _SoftplusSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        bias: Tensor,
        positives: PositivePairs | None,
        exclusion: Exclusion | None,
        chunk_size: int | None,
    ) -> Tensor:
        ctx.positives, ctx.exclusion, ctx.chunk_size = positives, exclusion, chunk_size
        ctx.save_for_backward(a, b, bias)
        sums = a.new_zeros(len(a))
        with torch.autocast(a.device.type, enabled=False):
            scores = ScoreTiles(a, b, exclusion, [])
            for tile in tiles(len(a), len(b), chunk_size, a.device):
                sums[tile.rows] += F.softplus(_turn(scores(tile).add_(bias), positives, tile)).sum(1)
        return sums

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, of_sums: Tensor) -> tuple[Tensor | None, ...]:
        a, b, bias = ctx.saved_tensors
        gradients = _Gradients.zeros(ctx, a, b, bias)
        with torch.autocast(a.device.type, enabled=False):
            scores = ScoreTiles(a, b, ctx.exclusion, [])
            for tile in tiles(len(a), len(b), ctx.chunk_size, a.device):
                of_scores = (
                    _turn(scores(tile).add_(bias), ctx.positives, tile).sigmoid_().mul_(of_sums[tile.rows, None])
                )
                gradients.add(_turn(of_scores, ctx.positives, tile), tile, a, b)
        return *gradients, None, None, None


class _SoftplusSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        bias: Tensor,
        positives: PositivePairs | None,
        exclusion: Exclusion | None,
        chunk_size: int | None,
    ) -> Tensor:
        with torch.autocast(a.device.type, enabled=False):
            gradients = _Gradients.zeros(ctx, a, b, bias)
            scores = ScoreTiles(a, b, exclusion, [])
            total = torch.zeros_like(bias)
            for tile in tiles(len(a), len(b), chunk_size, a.device):
                tile_scores = _turn(scores(tile).add_(bias), positives, tile)
                total += F.softplus(tile_scores).sum()
                if not any(ctx.needs_input_grad[:3]):
                    continue
                gradients.add(_turn(tile_scores.sigmoid_(), positives, tile), tile, a, b)
        ctx.save_for_backward(*(gradient for gradient in gradients if gradient is not None))
        return total

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, of_total: Tensor) -> tuple[Tensor | None, ...]:
        gradients = iter(ctx.saved_tensors)
        of_a, of_b, of_bias = (next(gradients) * of_total if wanted else None for wanted in ctx.needs_input_grad[:3])
        return of_a, of_b, of_bias, None, None, None


def _turn(values: Tensor, positives: PositivePairs | None, tile: Tile) -> Tensor:
    """Changes the sign of the positive pairs of a tile, in place."""
    return values if positives is None else positives.turn(values, tile)
