"""Log-sum-exp over all scores of two sets of vectors, both ways in one sweep, without ever holding the scores.

The scores ``S = a·bᵀ`` are made a tile at a time, so memory grows with the vectors and not with their product, and the
work between two matrix products stays in the processor's cache. The backward sweep makes the tiles again; the first few
are kept instead, as many as fit in a small budget, so that a small batch is never computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import Exclusion
from lightning_normdyn.core.contrast.first_derivative import first_derivative_only
from lightning_normdyn.core.contrast.positive_pairs import PairShares, PairSums, PositivePairs
from lightning_normdyn.core.contrast.score_tiles import ScoreTiles, Tile, tiles
from lightning_normdyn.core.contrast.tile_edits import TileEdits
from lightning_normdyn.core.dynamics.geometry import most_precise

_STRIP = 2**23  # scores in a strip of whole rows
STORED_SCORES = 2**23  # scores that are kept for the backward sweep: 32 MiB in float32
_SAFE_SPREAD = 40.0  # e^40 and e^-40 are far from the ends of float32
_SMALLEST_EXP = 1e-30  # smaller exponentials are zero: numbers at the end of float32 slow a product down tenfold
_EXPONENT_FLOOR = -80.0
_SMALLEST_EXACT_SUM = 1e-18  # a sum as small as this may have lost terms to that
_LARGEST_EXPONENT = 60.0  # beyond it log(1 + e^x) is x to the last bit of float64
LARGEST_UNSHIFTED_SCORE = 40.0  # scores of at most this size need no shift


def log_sum_exp(
    a: Tensor,
    b: Tensor,
    *,
    columns: int = 0,
    positives: Tensor | None = None,
    exclusion: Exclusion | None = None,
    edits: TileEdits | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``log sum_j exp <a_i, b_j>`` for every row and ``log sum_i exp <a_i, b_j>`` for the first columns.

    Safe at any size of the scores. Memory is O(n·chunk_size) beside the vectors and their gradients; nothing is
    approximated, and the same scores give both directions. A pair that is a positive is in neither sum: it is handed
    out by itself, so that :func:`softmax_loss` of both keeps its digits however small it is.

    Args:
        a: ``[n, d]``, float32 or float64.
        b: ``[m, d]``, likewise.
        columns: how many columns are wanted, from the first on.
        positives: a column of each row whose score is handed out instead of summed, ``[n]``.
        exclusion: pairs to leave out.
        edits: what else happens to scores before they are summed.
        chunk_size: columns that are looked at together; ``None`` picks what suits the device.

    Returns:
        Rows ``[n]`` and columns ``[columns]`` in float64 (float32 where the device has none), minus infinity where
        everything is left out, and the scores of the positives, ``[n]`` or empty.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        >>> log_sum_exp(a, b, columns=1, positives=torch.arange(2))
        (tensor([0., 0.], dtype=torch.float64), tensor([0.], dtype=torch.float64), tensor([2., 0.]))
    """
    rows, columns_, of_positives, *_ = _LogSumExp.apply(a, b, columns, positives, exclusion, edits, None, chunk_size)
    return rows, columns_, of_positives


def target_log_sum_exp(
    a: Tensor,
    b: Tensor,
    targets: PositivePairs | None,
    *,
    columns: int = 0,
    positives: Tensor | None = None,
    exclusion: Exclusion | None = None,
    edits: TileEdits | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, PairSums]:
    """:func:`log_sum_exp`, and the sums of the scores of some pairs, by which means over positives are made.

    Args:
        a: ``[n, d]``, float32 or float64.
        b: ``[m, d]``, likewise.
        targets: pairs whose scores are added up, without ``positives`` and what is left out; ``None`` for none.
        columns: how many columns are wanted, from the first on.
        positives: a column of each row whose score is handed out instead of summed, ``[n]``.
        exclusion: pairs to leave out.
        edits: what else happens to scores before they are summed.
        chunk_size: columns that are looked at together; ``None`` picks what suits the device.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [3.0, 0.0], [5.0, 0.0]])
        >>> target_log_sum_exp(a, b, PositivePairs(torch.tensor([[0, 2]])))[3].rows
        tensor([7.], dtype=torch.float64)
    """
    outcome = _LogSumExp.apply(a, b, columns, positives, exclusion, edits, targets, chunk_size)
    rows, columns_, of_positives, *of_targets = outcome
    return rows, columns_, of_positives, PairSums(*of_targets)


def softmax_loss(log_sums: Tensor, scores: Tensor) -> Tensor:
    """``log(1 + exp(log_sum - score))``: minus the log of a positive's share, precise where that is nearly one.

    Args:
        log_sums: log-sum-exps over everything but the positives.
        scores: of the positives.

    Example:
        >>> softmax_loss(torch.tensor([0.0, -torch.inf]), torch.tensor([2.0, 2.0]))
        tensor([0.1269, 0.0000])
    """
    return F.softplus(log_sums - scores, threshold=_LARGEST_EXPONENT)


def sum_log_sum_exp(
    a: Tensor,
    b: Tensor,
    *,
    positives: Tensor | None = None,
    exclusion: Exclusion | None = None,
    edits: TileEdits | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """``sum_i (log sum_j exp <a_i, b_j> - <a_i, b_positive(i)>)``: one direction, its gradient made on the way forward.

    Every row counts the same, so the gradient is known up to a factor once a row is complete: three matrix products
    in all, where :func:`log_sum_exp` needs four. What is taken off the weight of a positive is the sum of all other
    weights, before the product, so that value and gradient keep their digits however small they are.

    Args:
        a: ``[n, d]``, float32 or float64.
        b: ``[m, d]``, likewise.
        positives: the column of each row whose score is taken off, ``[n]``; ``None`` to take nothing off.
        exclusion: pairs to leave out.
        edits: what else happens to scores before they are summed.
        chunk_size: rows that are looked at together; ``None`` picks what suits the device.

    Returns:
        A scalar.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        >>> sum_log_sum_exp(a, b, positives=torch.arange(2))
        tensor(0.8201, dtype=torch.float64)
    """
    total: Tensor = _SumLogSumExp.apply(a, b, positives, exclusion, edits, chunk_size)
    return total


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        columns: int,
        positives: Tensor | None,
        exclusion: Exclusion | None,
        edits: TileEdits | None,
        targets: PositivePairs | None,
        chunk_size: int | None,
    ) -> tuple[Tensor, ...]:
        with torch.autocast(a.device.type, enabled=False):
            ctx.positives, ctx.exclusion, ctx.edits, ctx.chunk_size = positives, exclusion, edits, chunk_size
            ctx.targets = targets
            wants_gradient = any(ctx.needs_input_grad)
            room = STORED_SCORES if wants_gradient else 0
            scores = ScoreTiles(a, b, exclusion, [], room, positives, edits, reads=True)
            rows = most_precise(a.new_full((len(a),), -torch.inf))
            columns_ = rows.new_full((columns,), -torch.inf)
            of_targets = PairSums.zeros(targets, rows, columns_)
            plain = (edits is None or not edits.weights) and is_plain(a, b)
            for tile in tiles(len(a), len(b), chunk_size, a.device):
                tile_scores = scores(tile)
                exps = scores.buffer("exps", tile_scores)
                accumulate(tile_scores, exps, rows[tile.rows], columns_[tile.columns], plain=plain)
                if targets is not None:
                    of_targets.see(targets, tile_scores, tile)
        ctx.plain = plain
        ctx.save_for_backward(a, b, rows, columns_, *scores.stored_tiles)
        return rows, columns_, scores.of_positives, *of_targets

    @staticmethod
    @first_derivative_only
    def backward(
        ctx: Any, of_rows: Tensor, of_columns: Tensor, of_positives: Tensor, *of_targets: Tensor
    ) -> tuple[Tensor | None, ...]:
        a, b, rows, columns, *stored_scores = ctx.saved_tensors
        wants_a, wants_b = ctx.needs_input_grad[:2]
        with torch.autocast(a.device.type, enabled=False):
            of_a = torch.zeros_like(a) if wants_a else None
            of_b = torch.zeros_like(b) if wants_b else None
            scores = ScoreTiles(a, b, ctx.exclusion, list(stored_scores), positives=ctx.positives, edits=ctx.edits)
            remaining_columns = len(b) - len(columns)
            columns, of_columns = (
                F.pad(columns, (0, remaining_columns), value=-torch.inf),
                F.pad(of_columns, (0, remaining_columns)),
            )
            shares = ScoreShares.of(rows, columns, of_rows, of_columns, a.dtype, plain=ctx.plain)
            target_shares = PairShares.of(ctx.targets, of_targets, len(b), a.dtype)
            for tile in tiles(len(a), len(b), ctx.chunk_size, a.device):
                tile_scores = scores(tile)
                of_scores = shares.of_tile(tile_scores, tile, scores)
                if target_shares is not None:
                    target_shares.add(of_scores, tile_scores, tile)
                if of_a is not None:
                    of_a[tile.rows].addmm_(of_scores, b[tile.columns])
                if of_b is not None:
                    of_b[tile.columns].addmm_(of_scores.T, a[tile.rows])
            if ctx.positives is not None:
                _add_positives(of_a, of_b, a, b, ctx.positives, of_positives)
        return of_a, of_b, None, None, None, None, None, None


class ScoreShares(NamedTuple):
    """What turns scores into their gradient: ``g_i exp(S_ij - row_i) + g_j exp(S_ij - column_j)``.

    One exponential serves both terms, ``exp(S - shift)·(u_i + v_j)``, unless the log-sum-exps lie so far apart that the
    factors would leave float32.
    """

    rows: Tensor
    columns: Tensor
    of_rows: Tensor
    of_columns: Tensor
    shift: float | None
    plain: bool

    @classmethod
    def of(
        cls, rows: Tensor, columns: Tensor, of_rows: Tensor, of_columns: Tensor, dtype: torch.dtype, *, plain: bool
    ) -> ScoreShares:
        """Of log-sum-exps and their gradients; ``plain`` where scores are exponentiated as they are."""
        # A row that has nothing to sum gets nothing: exp(S - inf) = 0.
        rows, columns = (x.where(x > -torch.inf, torch.inf) for x in (rows, columns))
        shift = 0.0 if plain else cls._common_shift(rows, columns)
        narrow = [x.to(dtype) for x in (rows, columns)]
        # What a rounded shift is off by is made good in the factor.
        of_rows, of_columns = (
            (of * ((near if shift is None else shift) - exact).exp().nan_to_num(0)).to(dtype)
            for of, near, exact in zip((of_rows, of_columns), narrow, (rows, columns), strict=True)
        )
        return cls(narrow[0], narrow[1], of_rows, of_columns, shift, plain)

    @staticmethod
    def _common_shift(rows: Tensor, columns: Tensor) -> float | None:
        """What may be taken off all scores; nothing where they are small, for that costs a rounding."""
        if rows.device.type != "cpu":  # it would have to be waited for
            return None
        log_sums = torch.cat((rows, columns))
        log_sums = log_sums[log_sums < torch.inf]
        if not len(log_sums):
            return None
        lowest, top = (float(value) for value in log_sums.aminmax())
        if lowest > -_SAFE_SPREAD and top < _SAFE_SPREAD:
            return 0.0
        return top if top - lowest < _SAFE_SPREAD else None

    def of_tile(self, tile_scores: Tensor, tile: Tile, memory: ScoreTiles) -> Tensor:
        """The gradient with respect to a tile of scores, in memory that the next tile overwrites."""
        shifted, weights = memory.buffer("shifted", tile_scores), memory.buffer("weights", tile_scores)
        of_rows, of_columns = self.of_rows[tile.rows, None], self.of_columns[tile.columns]
        if self.shift is not None:
            exps = torch.exp(tile_scores, out=shifted) if self.plain else shifted_exp(tile_scores, self.shift, shifted)
            return exps.mul_(torch.add(of_rows, of_columns, out=weights))
        gradient = shifted_exp(tile_scores, self.rows[tile.rows, None], shifted).mul_(of_rows)
        by_column = shifted_exp(tile_scores, self.columns[tile.columns], weights)
        return gradient.addcmul_(by_column, of_columns.expand_as(by_column))


def accumulate(tile_scores: Tensor, out: Tensor, rows: Tensor, columns: Tensor, *, plain: bool) -> None:
    """Adds a tile of scores to the log-sum-exps of its rows, and of those of its columns that are wanted."""
    if plain or tile_scores.device.type == "cpu":
        shift = 0.0 if plain else max(float(tile_scores.amax()), torch.finfo(tile_scores.dtype).min)
        exps = torch.exp(tile_scores, out=out) if plain else shifted_exp(tile_scores, shift, out)
        by_row, by_column = exps.sum(1), exps[:, : len(columns)].sum(0)
        if plain or float(torch.cat((by_row, by_column)).amin()) > _SMALLEST_EXACT_SUM:
            _add(rows, by_row, shift)
            _add(columns, by_column, shift)
            return
    for total, side_scores, dim in ((rows, tile_scores, 1), (columns, tile_scores[:, : len(columns)], 0)):
        if len(total):
            top = side_scores.amax(dim, keepdim=True)
            top = top.where(top > -torch.inf, 0)
            _add(
                total,
                shifted_exp(side_scores, top, torch.empty_like(side_scores)).sum(dim),
                most_precise(top.squeeze(dim)),
            )


def shifted_exp(scores: Tensor, shift: float | Tensor, out: Tensor) -> Tensor:
    """``exp(scores - shift)``, with zero for next to nothing."""
    torch.sub(scores, shift, out=out).clamp_(min=_EXPONENT_FLOOR).exp_()
    return torch.threshold_(out, _SMALLEST_EXP, 0.0)


def _add(total: Tensor, exps: Tensor, shift: float | Tensor) -> None:
    """``log(exp(total) + exps·exp(shift))`` in place; precise, since a loss may be a small difference of these."""
    if len(total):
        torch.logaddexp(total, most_precise(exps).log_().add_(shift), out=total)


def is_plain(a: Tensor, b: Tensor) -> bool:
    """Whether scores are so small, by the Cauchy-Schwarz inequality, that they may be exponentiated as they are."""
    if a.device.type != "cpu" or not len(a) or not len(b):
        return False
    longest = torch.linalg.vector_norm(a, dim=1).max() * torch.linalg.vector_norm(b, dim=1).max()
    return float(longest) <= LARGEST_UNSHIFTED_SCORE


class _SumLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        positives: Tensor | None,
        exclusion: Exclusion | None,
        edits: TileEdits | None,
        chunk_size: int | None,
    ) -> Tensor:
        with torch.autocast(a.device.type, enabled=False):
            wants_a, wants_b = ctx.needs_input_grad[:2]
            of_a = torch.empty_like(a) if wants_a else None
            of_b = torch.zeros_like(b) if wants_b else None
            scores = ScoreTiles(a, b, exclusion, [], positives=positives, edits=edits, reads=True)
            plain = (edits is None or not edits.weights) and is_plain(a, b)
            total = most_precise(a.new_zeros(()))
            for rows in _strips(len(a), len(b), chunk_size, a.device):
                exps = scores(Tile(0, rows, slice(0, len(b))))
                of_positives = None if positives is None else scores.of_positives[rows, None]
                shift = None if plain else row_tops(exps)
                sums = (exps.exp_() if shift is None else shifted_exp(exps, shift, exps)).sum(1, keepdim=True)
                losses, divisors = softmax_losses(sums, shift, of_positives)
                total += losses.sum()
                if positives is not None:  # p - 1 of the positive is minus the share of all others
                    exps.scatter_(1, positives[rows, None], -sums)
                if of_a is not None:
                    torch.mm(exps, b, out=of_a[rows]).div_(divisors)
                if of_b is not None:
                    of_b.addmm_(exps.T, a[rows] / divisors)
        ctx.save_for_backward(*(gradient for gradient in (of_a, of_b) if gradient is not None))
        return total

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, of_total: Tensor) -> tuple[Tensor | None, ...]:
        gradients = iter(ctx.saved_tensors)
        of_a, of_b = (next(gradients) * of_total if is_needed else None for is_needed in ctx.needs_input_grad[:2])
        return of_a, of_b, None, None, None, None


def row_tops(scores: Tensor) -> Tensor:
    """The largest score of each row, ``[n, 1]``; zero where everything is left out."""
    top = scores.amax(1, keepdim=True)
    return top.where(top > -torch.inf, 0)


def softmax_losses(sums: Tensor, shift: Tensor | None, of_positives: Tensor | None) -> tuple[Tensor, Tensor]:
    """Losses of some rows, and what their exponentials are divided by in the gradient, both ``[n, 1]``.

    Args:
        sums: ``sum_j exp(S_ij - shift_i)`` over all but the positives.
        shift: ``None`` for nothing.
        of_positives: their scores; ``None`` if there are none.
    """
    logs = most_precise(sums).log()
    logs = logs if shift is None else logs + most_precise(shift)
    if of_positives is None:
        return logs, sums
    wide = most_precise(of_positives)
    shifted = wide if shift is None else wide - most_precise(shift)
    return softmax_loss(logs, wide), (most_precise(sums) + shifted.exp()).to(sums.dtype)


def _add_positives(
    of_a: Tensor | None, of_b: Tensor | None, a: Tensor, b: Tensor, positives: Tensor, gradient: Tensor
) -> None:
    """Adds the gradient of the positives' scores."""
    if of_a is not None:
        of_a.addcmul_(b.index_select(0, positives), gradient[:, None])
    if of_b is not None:
        of_b.index_add_(0, positives, a * gradient[:, None])


def _strips(n: int, m: int, chunk_size: int | None, device: torch.device) -> Iterator[slice]:
    height = chunk_size or max(1, (_STRIP if device.type == "cpu" else 4 * _STRIP) // max(m, 1))
    for top in range(0, n, height):
        yield slice(top, min(top + height, n))
