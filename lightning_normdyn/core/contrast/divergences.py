"""How far softmaxes over scores are from target distributions, by row and by column, without ever holding the scores.

Two sweeps forward (sums of exponentials, then divergences) and one back, over tiles of scores and of target scores.
Each difference of two probabilities is taken before it is multiplied by a vector or added up, so that a scorer which
has nearly reached its targets still gets a gradient of its own and not one of rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import Exclusion
from lightning_normdyn.core.contrast.first_derivative import first_derivative_only
from lightning_normdyn.core.contrast.log_sum_exp import accumulate, shifted_exp
from lightning_normdyn.core.contrast.score_tiles import ScoreTiles, Tile, tiles
from lightning_normdyn.core.contrast.target_scores import LeftOut, TargetScores
from lightning_normdyn.core.contrast.tile_edits import TileEdits
from lightning_normdyn.core.dynamics.geometry import most_precise

TileReading = Callable[[Tensor, Tensor, Tile], None]
"""Looks at a tile of scores and one of target scores, on the way forward."""
_STORED_SCORES = 2**23  # as many as log_sum_exp keeps
_SMALLEST_LOG = -1e30  # of what is left out: finite, and its exponential is 0
_LARGEST_RATIO = 100.0  # of logarithms: e^100 times as likely as it should be
_NEAR = 1.0


class Divergences(NamedTuple):
    """What comes of a batch.

    Attributes:
        rows: ``KL(target || softmax)`` of each row, ``[n]``; 0 where it has no target, and without ``with_rows``.
        columns: this process's share of the same of each of the first columns, ``[columns]``.
        row_entropies: of the targets, ``[n]``, in nats; NaN where there is none.
        column_entropies: likewise, shares, ``[columns]``.
    """

    rows: Tensor
    columns: Tensor
    row_entropies: Tensor
    column_entropies: Tensor


class Sides(NamedTuple):
    """Which distributions are compared.

    Attributes:
        with_rows: whether each row is one.
        columns: how many columns are, from the first on.
        over_ranks: makes log-sum-exps of columns over this process's rows ``[columns]`` those over all processes';
            ``None`` for what there is here.
    """

    with_rows: bool = True
    columns: int = 0
    over_ranks: Callable[[Tensor], Tensor] | None = None


ROWS = Sides()


def divergences(
    a: Tensor,
    b: Tensor,
    targets: TargetScores,
    *,
    sides: Sides = ROWS,
    exclusion: Exclusion | None = None,
    reading: TileReading | None = None,
    chunk_size: int | None = None,
) -> Divergences:
    """``sum_j t_ij (log t_ij - log p_ij)`` with ``p_i = softmax_j <a_i, b_j>`` and ``t_i = softmax_j`` of the targets.

    Added up as ``sum_j [p - t - t log(p/t)]``, whose terms are never negative, so that next to nothing stays precise,
    and what rounding does to a whole row is of second order.

    Args:
        a: ``[n, d]``, float32 or float64.
        b: ``[m, d]``, likewise.
        targets: of the pairs, up to what a row, or a column, has in common.
        sides: rows, columns or both.
        exclusion: pairs that neither distribution has.
        reading: looks at scores and targets.
        chunk_size: columns that are looked at together; ``None`` picks what suits the device.

    Returns:
        In float64 (float32 where the device has none).

    Example:
        >>> from lightning_normdyn.core.contrast.target_scores import MatrixTargets
        >>> teacher = MatrixTargets(torch.tensor([[0.0, 0.0]]), 1.0, torch.float32, True)
        >>> divergences(torch.tensor([[1.0]]), torch.tensor([[2.0], [2.0]]), teacher).rows
        tensor([0.], dtype=torch.float64)
    """
    return Divergences(*_Divergences.apply(a, b, targets, sides, exclusion, reading, chunk_size))


class _Pairs:
    """Tiles of scores and of targets that agree in what is left out."""

    def __init__(
        self,
        a: Tensor,
        b: Tensor,
        targets: TargetScores,
        exclusion: Exclusion | None,
        stored_tiles: list[Tensor],
        room: int = 0,
    ) -> None:
        edits = TileEdits(masks=(LeftOut(targets),)) if targets.leaves_out else None
        self.scores = ScoreTiles(a, b, exclusion, stored_tiles, room, edits=edits)
        self._targets, self._excludes = targets, exclusion is not None

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor]:
        scores, targets = self.scores(tile), self._targets(tile)
        if self._excludes:
            targets = targets.masked_fill(scores == -torch.inf, -torch.inf)
        return scores, targets


class _Side(NamedTuple):
    """Log-sum-exps of scores and of targets along one side of all tiles, rounded, and what makes up for the rounding.

    Infinite where there is nothing to sum or no target, so that every exponential is 0.
    """

    is_rows: bool
    of_scores: Tensor
    of_targets: Tensor
    score_factors: Tensor
    target_factors: Tensor

    @classmethod
    def of(cls, of_scores: Tensor, of_targets: Tensor, dtype: torch.dtype, *, is_rows: bool) -> _Side:
        exact = [x.where(of_targets != -torch.inf, torch.inf) for x in (of_scores, of_targets)]
        near = [x.to(dtype) for x in exact]
        factors = [
            (most_precise(rounded) - x).exp().where(x < torch.inf, 1.0).to(dtype)
            for rounded, x in zip(near, exact, strict=True)
        ]
        return cls(is_rows, near[0], near[1], factors[0], factors[1])

    def part(self, values: Tensor, tile: Tile) -> Tensor:
        """What a tile meets of something of this side, to be broadcast over the tile; nothing of further columns."""
        return values[tile.rows, None] if self.is_rows else values[tile.columns]

    def meets(self, x: Tensor, tile: Tile) -> Tensor:
        """The pairs of a tile ``[rows, columns]`` that are of this side."""
        return x if self.is_rows else x[:, : self.of_scores[tile.columns].shape[0]]

    def terms(self, scores: Tensor, targets: Tensor, tile: Tile) -> tuple[Tensor, Tensor]:
        """Of a tile, what its pairs add to divergences and to entropies, along this side."""
        log_p = (self.meets(scores, tile) - self.part(self.of_scores, tile)).clamp_(min=_SMALLEST_LOG)
        log_t = self.meets(targets, tile) - self.part(self.of_targets, tile)
        t = log_t.exp()
        entropies = -(t * log_t.clamp_(min=_SMALLEST_LOG))
        gap = (log_p - log_t).clamp_(max=_LARGEST_RATIO)
        near = gap.expm1().sub_(gap).mul_(t)
        far = log_p.exp_().sub_(t.mul_(gap + 1))
        dim = 1 if self.is_rows else 0
        return torch.where(gap < _NEAR, near, far).sum(dim), entropies.sum(dim)

    def add_gradient(self, total: Tensor, scores: Tensor, targets: Tensor, of_sums: Tensor, tile: Tile) -> None:
        """Adds ``g (p - t)`` to the gradient of a tile's scores, with ``g`` that of each divergence of this side."""
        scores, targets = self.meets(scores, tile), self.meets(targets, tile)
        p = shifted_exp(scores, self.part(self.of_scores, tile), torch.empty_like(scores))
        t = shifted_exp(targets, self.part(self.of_targets, tile), torch.empty_like(scores))
        p.mul_(self.part(self.score_factors, tile)).addcmul_(
            t, self.part(self.target_factors, tile).expand_as(t), value=-1
        )
        self.meets(total, tile).addcmul_(p, self.part(of_sums, tile).expand_as(p))


class _Divergences(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        targets: TargetScores,
        sides: Sides,
        exclusion: Exclusion | None,
        reading: TileReading | None,
        chunk_size: int | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with torch.autocast(a.device.type, enabled=False):
            room = _STORED_SCORES if any(ctx.needs_input_grad) else 0
            pairs = _Pairs(a, b, targets, exclusion, [], room)
            all_tiles = list(tiles(len(a), len(b), chunk_size, a.device))
            ctx.sides = list(_compared(pairs, all_tiles, a, sides))
            sums = [most_precise(a.new_zeros(length)) for length in (len(a), len(a), sides.columns, sides.columns)]
            for tile in all_tiles:
                scores, target_scores = pairs(tile)
                if reading is not None:
                    reading(scores, target_scores, tile)
                for side in ctx.sides:
                    terms = side.terms(scores, target_scores, tile)
                    for total, addition in zip(sums[:2] if side.is_rows else sums[2:], terms, strict=True):
                        total[tile.rows if side.is_rows else tile.columns] += addition
            for side in ctx.sides:
                sums[1 if side.is_rows else 3][side.of_targets == torch.inf] = torch.nan
        ctx.arguments = targets, exclusion, all_tiles
        ctx.mark_non_differentiable(sums[1], sums[3])
        ctx.save_for_backward(a, b, *pairs.scores.stored_tiles)
        return sums[0], sums[2], sums[1], sums[3]

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, of_rows: Tensor, of_columns: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        a, b, *stored_tiles = ctx.saved_tensors
        targets, exclusion, all_tiles = ctx.arguments
        wants_a, wants_b = ctx.needs_input_grad[:2]
        of_a = torch.zeros_like(a) if wants_a else None
        of_b = torch.zeros_like(b) if wants_b else None
        of_rows, of_columns = of_rows.to(a.dtype), of_columns.to(a.dtype)
        with torch.autocast(a.device.type, enabled=False):
            pairs = _Pairs(a, b, targets, exclusion, list(stored_tiles))
            for tile in all_tiles:
                scores, target_scores = pairs(tile)
                of_scores = torch.zeros_like(scores)
                for side in ctx.sides:
                    side.add_gradient(of_scores, scores, target_scores, of_rows if side.is_rows else of_columns, tile)
                if of_a is not None:
                    of_a[tile.rows].addmm_(of_scores, b[tile.columns])
                if of_b is not None:
                    of_b[tile.columns].addmm_(of_scores.T, a[tile.rows])
        return of_a, of_b, None, None, None, None, None


def _compared(pairs: _Pairs, all_tiles: list[Tile], a: Tensor, sides: Sides) -> Iterator[_Side]:
    """Rows, columns or both, with their log-sum-exps over all tiles."""
    height = len(a) if sides.with_rows else 0
    sums = [
        most_precise(a.new_full((length,), -torch.inf)) for length in (height, height, sides.columns, sides.columns)
    ]
    for tile in all_tiles:
        rows = tile.rows if sides.with_rows else slice(0)
        for values, of_rows, of_columns in zip(pairs(tile), sums[:2], sums[2:], strict=True):
            accumulate(values, torch.empty_like(values), of_rows[rows], of_columns[tile.columns], plain=False)
    if sides.with_rows:
        yield _Side.of(sums[0], sums[1], a.dtype, is_rows=True)
    if sides.columns:
        columns = sums[2:] if sides.over_ranks is None else [sides.over_ranks(x) for x in sums[2:]]
        yield _Side.of(columns[0], columns[1], a.dtype, is_rows=False)
