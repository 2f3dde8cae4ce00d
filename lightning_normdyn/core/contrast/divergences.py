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
from lightning_normdyn.core.contrast.log_sum_exp import accumulate, is_plain, shifted_exp
from lightning_normdyn.core.contrast.score_tiles import ScoreTiles, Tile, tiles
from lightning_normdyn.core.contrast.target_scores import LeftOut, TargetScores
from lightning_normdyn.core.contrast.tile_edits import TileEdits
from lightning_normdyn.core.dynamics.geometry import most_precise

TileReading = Callable[[Tensor, Tensor, Tile], None]
"""Looks at a tile of scores and one of target scores, on the way forward."""
_STORED_SCORES = 2**23  # as many as log_sum_exp keeps
_SMALLEST_LOG = -1e9  # of the share of what is left out, so that it is a number
_SMALLEST_TARGET = -80.0  # of targets: what is less likely counts as that, which times 1e9 is still nothing


class Divergences(NamedTuple):
    """What comes of a batch.

    Attributes:
        rows: ``KL(target || softmax)`` of each row, ``[n]``; 0 where it has no target, and without ``with_rows``.
        columns: this process's share of the same of each of the first columns, ``[columns]``.
        row_entropies: of the targets, ``[n]``, in nats, or 0 unless they are wanted; NaN where there is no target.
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
        with_entropies: whether the entropies of targets are wanted.
        over_ranks: makes log-sum-exps of columns over this process's rows ``[columns]`` those over all processes';
            ``None`` for what there is here.
    """

    with_rows: bool = True
    columns: int = 0
    with_entropies: bool = False
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
    """Tiles of scores and of targets that agree in what is left out; the first few are kept, as far as they fit."""

    def __init__(
        self,
        a: Tensor,
        b: Tensor,
        targets: TargetScores,
        exclusion: Exclusion | None,
        stored_tiles: tuple[list[Tensor], list[Tensor]],
        room: int = 0,
    ) -> None:
        edits = TileEdits(masks=(LeftOut(targets),)) if targets.leaves_out else None
        self.stored_tiles = stored_tiles
        self._scores = ScoreTiles(a, b, exclusion, stored_tiles[0], room, edits=edits)
        self._targets, self._excludes = targets, exclusion is not None

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor]:
        scores, stored_targets = self._scores(tile), self.stored_tiles[1]
        if tile.number < len(stored_targets):
            return scores, stored_targets[tile.number]
        targets = self._targets(tile)
        if self._excludes:
            targets = targets.masked_fill(scores == -torch.inf, -torch.inf)
        if tile.number < len(self.stored_tiles[0]):
            stored_targets.append(targets)
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

    def divergences(self, scores: Tensor, targets: Tensor, tile: Tile) -> Tensor:
        """What a tile adds to the divergences along this side.

        ``t (e^x - 1 - x)`` with ``x = log(p/t)`` is ``p - t - t log(p/t)``, with its digits where ``p`` is near ``t``.
        """
        log_t = (self.meets(targets, tile) - self.part(self.of_targets, tile)).clamp_(min=_SMALLEST_TARGET)
        gap = (self.meets(scores, tile) - self.part(self.of_scores, tile)).clamp_(min=_SMALLEST_LOG).sub_(log_t)
        return gap.expm1().sub_(gap).mul_(log_t.exp_()).sum(self.dim)

    def entropies(self, targets: Tensor, tile: Tile) -> Tensor:
        """And to the entropies of targets."""
        log_t = (self.meets(targets, tile) - self.part(self.of_targets, tile)).clamp_(min=_SMALLEST_TARGET)
        return -(log_t.exp() * log_t).sum(self.dim)

    @property
    def dim(self) -> int:
        """Of a tile, along which a distribution lies."""
        return 1 if self.is_rows else 0

    def place(self, tile: Tile) -> slice:
        """Where this side meets a tile."""
        return tile.rows if self.is_rows else tile.columns

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
            pairs = _Pairs(a, b, targets, exclusion, ([], []), room)
            all_tiles = list(tiles(len(a), len(b), chunk_size, a.device))
            ctx.sides = list(_compared(pairs, all_tiles, a, b, sides))
            sums = [most_precise(a.new_zeros(length)) for length in (len(a), len(a), sides.columns, sides.columns)]
            for tile in all_tiles:
                scores, target_scores = pairs(tile)
                if reading is not None:
                    reading(scores, target_scores, tile)
                for side in ctx.sides:
                    totals, entropies = sums[:2] if side.is_rows else sums[2:]
                    totals[side.place(tile)] += side.divergences(scores, target_scores, tile)
                    if sides.with_entropies:
                        entropies[side.place(tile)] += side.entropies(target_scores, tile)
            for side in ctx.sides:
                totals, entropies = sums[:2] if side.is_rows else sums[2:]
                totals[side.of_targets == torch.inf], entropies[side.of_targets == torch.inf] = 0.0, torch.nan
        ctx.arguments = targets, exclusion, all_tiles, len(pairs.stored_tiles[0])
        ctx.mark_non_differentiable(sums[1], sums[3])
        ctx.save_for_backward(a, b, *pairs.stored_tiles[0], *pairs.stored_tiles[1])
        return sums[0], sums[2], sums[1], sums[3]

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, of_rows: Tensor, of_columns: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        a, b, *stored_tiles = ctx.saved_tensors
        targets, exclusion, all_tiles, count = ctx.arguments
        wants_a, wants_b = ctx.needs_input_grad[:2]
        of_a = torch.zeros_like(a) if wants_a else None
        of_b = torch.zeros_like(b) if wants_b else None
        of_rows, of_columns = of_rows.to(a.dtype), of_columns.to(a.dtype)
        with torch.autocast(a.device.type, enabled=False):
            pairs = _Pairs(a, b, targets, exclusion, (stored_tiles[:count], stored_tiles[count:]))
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


def _compared(pairs: _Pairs, all_tiles: list[Tile], a: Tensor, b: Tensor, sides: Sides) -> Iterator[_Side]:
    """Rows, columns or both, with their log-sum-exps over all tiles."""
    height = len(a) if sides.with_rows else 0
    sums = [
        most_precise(a.new_full((length,), -torch.inf)) for length in (height, height, sides.columns, sides.columns)
    ]
    plain = is_plain(a, b), False
    for tile in all_tiles:
        rows = tile.rows if sides.with_rows else slice(0)
        for values, of_rows, of_columns, is_small in zip(pairs(tile), sums[:2], sums[2:], plain, strict=True):
            accumulate(values, torch.empty_like(values), of_rows[rows], of_columns[tile.columns], plain=is_small)
    if sides.with_rows:
        yield _Side.of(sums[0], sums[1], a.dtype, is_rows=True)
    if sides.columns:
        columns = sums[2:] if sides.over_ranks is None else [sides.over_ranks(x) for x in sums[2:]]
        yield _Side.of(columns[0], columns[1], a.dtype, is_rows=False)
