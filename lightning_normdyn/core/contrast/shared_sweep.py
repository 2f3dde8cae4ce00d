"""Sums of several losses over the scores of the same vectors, or of their prefixes, in one sweep of matrix products.

A loss sees the inner products of a tile times factors of its rows and columns: a temperature, powers of norms. The
products are made once on the way forward and once on the way back, where the gradients that the losses give them are
added up before the next product. The products of a prefix are those of the one before it and of a block of coordinates
more, so that nested losses take no more of them than the longest alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import Exclusion
from lightning_normdyn.core.contrast.first_derivative import first_derivative_only
from lightning_normdyn.core.contrast.log_sum_exp import (
    LARGEST_UNSHIFTED_SCORE,
    STORED_SCORES,
    ScoreShares,
    accumulate,
)
from lightning_normdyn.core.contrast.positive_pairs import PairShares, PairSums, PositivePairs
from lightning_normdyn.core.contrast.product_tiles import ProductTiles
from lightning_normdyn.core.contrast.score_tiles import ScoreTiles, Tile, edit_tile, move_positives, tiles
from lightning_normdyn.core.contrast.tile_edits import TileEdits
from lightning_normdyn.core.dynamics.geometry import most_precise


class SoftmaxTerm(NamedTuple):
    """Log-sum-exps, as of :func:`lightning_normdyn.core.contrast.log_sum_exp.log_sum_exp`.

    Its outcome is those of rows ``[n]`` and of columns ``[columns]``, the scores of the positives ``[n]``, and sums of
    the targets' scores, of rows and of columns likewise.

    Attributes:
        positives: a column of each row whose score is handed out instead of summed, ``[n]``.
        columns: how many columns are wanted, from the first on.
        width: how many take part, from the first on; ``None`` for all.
        exclusion: pairs to leave out.
        edits: what else happens to scores before they are summed.
        targets: pairs whose scores are added up besides.
        row_factors: of its scores, ``[n]``; ``None`` for ones.
        column_factors: likewise, ``[m]``.
        prefix: number of the prefix that it looks at.
    """

    positives: Tensor
    columns: int = 0
    width: int | None = None
    exclusion: Exclusion | None = None
    edits: TileEdits | None = None
    targets: PositivePairs | None = None
    row_factors: Tensor | None = None
    column_factors: Tensor | None = None
    prefix: int = 0


class SoftplusTerm(NamedTuple):
    """Sums of every row, as of :func:`lightning_normdyn.core.contrast.softplus_sum.softplus_sums`.

    Its outcome is those sums, ``[n]``.

    Attributes:
        bias: added to all its scores, no dimension.
        positives: positive pairs.
        exclusion: pairs to leave out.
        row_factors: of its scores, ``[n]``; ``None`` for ones.
        column_factors: likewise, ``[m]``.
        prefix: number of the prefix that it looks at.
    """

    bias: Tensor
    positives: PositivePairs
    exclusion: Exclusion | None = None
    row_factors: Tensor | None = None
    column_factors: Tensor | None = None
    prefix: int = 0


Term = SoftmaxTerm | SoftplusTerm


def shared_sums(
    a: Tensor, b: Tensor, terms: Sequence[Term], *, widths: Sequence[int] = (), chunk_size: int | None = None
) -> list[tuple[Tensor, ...]]:
    """The outcome of every term, of scores ``f_i g_j <a_i[:w], b_j[:w]>`` with factors of its own.

    Args:
        a: ``[n, d]``, float32 or float64.
        b: ``[m, d]``, likewise.
        terms: what is summed.
        widths: of the prefixes that terms look at, ascending; the vectors themselves if left out.
        chunk_size: columns that are looked at together; ``None`` picks what suits the device.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        >>> places = torch.arange(2)
        >>> softplus = SoftplusTerm(torch.tensor(0.0), PositivePairs(places[:, None]), row_factors=torch.zeros(2))
        >>> (rows, _, of_positives, *_), (sums,) = shared_sums(a, b, [SoftmaxTerm(places), softplus])
        >>> rows, of_positives, sums
        (tensor([0., 0.], dtype=torch.float64), tensor([2., 0.]), tensor([1.3863, 1.3863]))
    """
    tensors = [x for term in terms for x in _tensors(term)]
    constants = tuple(_constant(term) for term in terms)
    outcomes = list(_SharedSums.apply(a, b, constants, tuple(widths) or (a.shape[1],), chunk_size, *tensors))
    return [tuple(outcomes.pop(0) for _ in range(_SWEEPS[type(term)].outcomes)) for term in terms]


def _tensors(term: Term) -> tuple[Tensor | None, ...]:
    """What of a term may carry gradient."""
    return term.row_factors, term.column_factors, term.bias if isinstance(term, SoftplusTerm) else None


def _constant(term: Term) -> Term:
    """The same without their graphs."""
    rows, columns, bias = (None if x is None else x.detach() for x in _tensors(term))
    constant: Term = term._replace(row_factors=rows, column_factors=columns)
    return constant._replace(bias=bias) if isinstance(constant, SoftplusTerm) and bias is not None else constant


class _TermSweep:
    """A term of a sweep: its scores of a tile, and the gradients of its factors."""

    outcomes: int

    def __init__(self, term: Any, a: Tensor, b: Tensor, width: int, memory: ScoreTiles) -> None:
        self.term, self.a, self.b, self.memory = term, a[:, :width], b[:, :width], memory
        self.of_rows, self.of_columns, self.of_bias = (
            None if x is None else torch.zeros_like(x) for x in _tensors(term)
        )

    def scores(self, products: Tensor, tile: Tile) -> Tensor:
        """Inner products times factors, in memory that the next term overwrites."""
        scores = self.memory.buffer("scores of a term", products)
        row_factors, column_factors = self.term.row_factors, self.term.column_factors
        if row_factors is not None:
            torch.mul(products, row_factors[tile.rows, None], out=scores)
        elif column_factors is None:
            return scores.copy_(products)
        if column_factors is None:
            return scores
        source = products if row_factors is None else scores
        return torch.mul(source, column_factors[tile.columns], out=scores)

    def add(self, products: Tensor, tile: Tile, total: Tensor, *, is_first: bool) -> None:
        """Adds the gradient of the products of a tile to that of terms before, and keeps that of the factors."""
        gradient = self.of_scores(products, tile)
        row_factors, column_factors = self.term.row_factors, self.term.column_factors
        self._add_factors(products, gradient, tile)
        if column_factors is not None:
            gradient = gradient.mul_(column_factors[tile.columns])
        if row_factors is None:
            total.copy_(gradient) if is_first else total.add_(gradient)
        elif is_first:
            torch.mul(gradient, row_factors[tile.rows, None], out=total)
        else:
            total.addcmul_(gradient, row_factors[tile.rows, None].expand_as(gradient))

    def of_scores(self, products: Tensor, tile: Tile) -> Tensor:
        """The gradient of a tile of scores."""
        raise NotImplementedError

    def _add_factors(self, products: Tensor, gradient: Tensor, tile: Tile) -> None:
        """What a tile gives the factors' gradients."""
        if self.of_rows is None and self.of_columns is None:
            return
        shares = torch.mul(products, gradient, out=self.memory.buffer("scores of a term", products))
        row_factors, column_factors = self.term.row_factors, self.term.column_factors
        if self.of_rows is not None:
            self.of_rows[tile.rows] += (
                shares.sum(1) if column_factors is None else shares @ column_factors[tile.columns]
            )
        if self.of_columns is not None:
            self.of_columns[tile.columns] += shares.sum(0) if row_factors is None else row_factors[tile.rows] @ shares

    def finish(self, of_a: Tensor | None, of_b: Tensor | None) -> None:
        """Adds what no tile holds to the gradients of the vectors."""


class _SoftmaxSweep(_TermSweep):
    outcomes = 5
    term: SoftmaxTerm

    def begin(self) -> None:
        """Before the first tile on the way forward."""
        self.rows = most_precise(self.a.new_full((len(self.a),), -torch.inf))
        self.columns = self.rows.new_full((self.term.columns,), -torch.inf)
        self.of_positives = self.a.new_zeros(len(self.a))
        self.of_targets = PairSums.zeros(self.term.targets, self.rows, self.columns)
        has_weights = self.term.edits is not None and bool(self.term.edits.weights)
        self.plain = not has_weights and self._has_small_scores()

    def _has_small_scores(self) -> bool:
        """Whether they may be exponentiated as they are, by the Cauchy-Schwarz inequality."""
        if self.a.device.type != "cpu" or not len(self.a) or not len(self.b):
            return False
        size = 1.0
        for side, factors in ((self.a, self.term.row_factors), (self.b, self.term.column_factors)):
            lengths = torch.linalg.vector_norm(side, dim=1)
            size *= float((lengths if factors is None else lengths * factors.abs()).max())
        return size <= LARGEST_UNSHIFTED_SCORE

    def _edited(self, products: Tensor, tile: Tile, *, reads: bool) -> Tensor:
        scores = self.scores(products, tile)
        of_positives = self.of_positives[tile.rows]
        move_positives(scores, self.term.positives[tile.rows] - tile.columns.start, of_positives)
        if self.term.exclusion is not None:
            scores.masked_fill_(self.term.exclusion.mask(tile.rows, tile.columns), -torch.inf)
        part, tile = self._taking_part(scores, tile)
        if self.term.edits is not None and part.shape[1]:
            edit_tile(self.term.edits, part, tile, reads=reads)
        return scores

    def _taking_part(self, scores: Tensor, tile: Tile) -> tuple[Tensor, Tile]:
        """The columns of a tile that do; the others are left out."""
        left, right = tile.columns.start, tile.columns.stop
        stop = right if self.term.width is None else max(left, min(right, self.term.width))
        scores[:, stop - left :] = -torch.inf
        return scores[:, : stop - left], tile._replace(columns=slice(left, stop))

    def see(self, products: Tensor, tile: Tile) -> None:
        """Adds a tile up."""
        scores = self._edited(products, tile, reads=True)
        exps = self.memory.buffer("exps", scores)
        accumulate(scores, exps, self.rows[tile.rows], self.columns[tile.columns], plain=self.plain)
        if self.term.targets is not None:
            self.of_targets.see(self.term.targets, scores, tile)

    def results(self) -> tuple[Tensor, ...]:
        """The outcome, and so what the way back needs."""
        return self.rows, self.columns, self.of_positives, *self.of_targets

    def resume(self, plain: bool, results: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Before the first tile on the way back."""
        self.plain, (self.rows, self.columns, self.of_positives, *_) = plain, results
        of_rows, of_columns, self.of_pairs, *of_targets = gradients
        missing = (0, len(self.b) - len(self.columns))
        columns, of_columns = F.pad(self.columns, missing, value=-torch.inf), F.pad(of_columns, missing)
        self._shares = ScoreShares.of(self.rows, columns, of_rows, of_columns, self.a.dtype, plain=plain)
        self._target_shares = PairShares.of(self.term.targets, of_targets, len(self.b), self.a.dtype)

    def of_scores(self, products: Tensor, tile: Tile) -> Tensor:
        """See :class:`_TermSweep`."""
        scores = self._edited(products, tile, reads=False)
        gradient = self._shares.of_tile(scores, tile, self.memory)
        if self._target_shares is not None:
            self._target_shares.add(gradient, scores, tile)
        return gradient

    def finish(self, of_a: Tensor | None, of_b: Tensor | None) -> None:
        """Adds the gradient of the positives' scores."""
        places, width = self.term.positives, self.a.shape[1]
        row_factors, column_factors = self.term.row_factors, self.term.column_factors
        partners = self.b.index_select(0, places)
        of_products = self.of_pairs
        if row_factors is not None or column_factors is not None:
            products = (self.a * partners).sum(1)
            of_rows = of_products if column_factors is None else of_products * column_factors[places]
            of_columns = of_products if row_factors is None else of_products * row_factors
            if self.of_rows is not None:
                self.of_rows += of_rows * products
            if self.of_columns is not None:
                self.of_columns.index_add_(0, places, of_columns * products)
            of_products = of_rows if row_factors is None else of_rows * row_factors
        if of_a is not None:
            of_a[:, :width].addcmul_(partners, of_products[:, None])
        if of_b is not None:
            of_b[:, :width].index_add_(0, places, self.a * of_products[:, None])


class _SoftplusSweep(_TermSweep):
    outcomes = 1
    term: SoftplusTerm
    plain = False

    def begin(self) -> None:
        """Before the first tile on the way forward."""
        self.sums = self.a.new_zeros(len(self.a))

    def _turned(self, products: Tensor, tile: Tile) -> Tensor:
        scores = self.scores(products, tile).add_(self.term.bias)
        if self.term.exclusion is not None:
            scores.masked_fill_(self.term.exclusion.mask(tile.rows, tile.columns), -torch.inf)
        return self.term.positives.turn(scores, tile)

    def see(self, products: Tensor, tile: Tile) -> None:
        """Adds a tile up."""
        self.sums[tile.rows] += F.softplus(self._turned(products, tile)).sum(1)

    def results(self) -> tuple[Tensor, ...]:
        """The outcome."""
        return (self.sums,)

    def resume(self, plain: bool, results: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Before the first tile on the way back."""
        del plain, results
        self._of_sums = gradients[0]

    def of_scores(self, products: Tensor, tile: Tile) -> Tensor:
        """See :class:`_TermSweep`."""
        shares = self.memory.buffer("shifted", products)
        torch.sigmoid(self._turned(products, tile), out=shares).mul_(self._of_sums[tile.rows, None])
        gradient = self.term.positives.turn(shares, tile)
        if self.of_bias is not None:
            self.of_bias += gradient.sum()
        return gradient


_SWEEPS: dict[type, type[_SoftmaxSweep] | type[_SoftplusSweep]] = {
    SoftmaxTerm: _SoftmaxSweep,
    SoftplusTerm: _SoftplusSweep,
}


class _SharedSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        terms: tuple[Term, ...],
        widths: tuple[int, ...],
        chunk_size: int | None,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        del tensors  # which the terms have too, without their graphs
        with torch.autocast(a.device.type, enabled=False):
            products = ProductTiles(a, b, widths, [], STORED_SCORES if any(ctx.needs_input_grad) else 0)
            sweeps = [_SWEEPS[type(term)](term, a, b, widths[term.prefix], products.memory) for term in terms]
            for sweep in sweeps:
                sweep.begin()
            for tile in tiles(len(a), len(b), chunk_size, a.device):
                of_prefixes = products(tile)
                for sweep in sweeps:
                    sweep.see(of_prefixes[sweep.term.prefix], tile)
        results = [sweep.results() for sweep in sweeps]
        outcomes = tuple(x for result in results for x in result)
        ctx.terms, ctx.widths, ctx.chunk_size = terms, widths, chunk_size
        ctx.plain = [sweep.plain for sweep in sweeps]
        ctx.save_for_backward(a, b, *outcomes, *products.stored)
        return outcomes

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        a, b, *saved = ctx.saved_tensors
        results = saved[: len(gradients)]
        with torch.autocast(a.device.type, enabled=False):
            products = ProductTiles(a, b, ctx.widths, saved[len(gradients) :], 0)
            of_a, of_b = (
                torch.zeros_like(x) if wants else None for x, wants in zip((a, b), ctx.needs_input_grad, strict=False)
            )
            sweeps = []
            first = 0
            for term, plain in zip(ctx.terms, ctx.plain, strict=True):
                sweep = _SWEEPS[type(term)](term, a, b, ctx.widths[term.prefix], products.memory)
                part = slice(first, first + sweep.outcomes)
                sweep.resume(plain, results[part], gradients[part])
                sweeps.append(sweep)
                first = part.stop
            for tile in tiles(len(a), len(b), ctx.chunk_size, a.device):
                of_prefixes = products(tile)
                totals = products.memory.stack("totals", of_prefixes.shape)
                seen: set[int] = set()
                for sweep in sweeps:
                    prefix = sweep.term.prefix
                    sweep.add(of_prefixes[prefix], tile, totals[prefix], is_first=prefix not in seen)
                    seen.add(prefix)
                products.add(totals, tile, of_a, of_b)
            for sweep in sweeps:
                sweep.finish(of_a, of_b)
        of_terms = [x for sweep in sweeps for x in (sweep.of_rows, sweep.of_columns, sweep.of_bias)]
        return of_a, of_b, None, None, None, *of_terms
