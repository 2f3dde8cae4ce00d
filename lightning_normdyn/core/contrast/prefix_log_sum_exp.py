"""Log-sum-exps over the scores of several prefixes of the same vectors, in one sweep: nested, or Matryoshka, losses.

The inner products of a prefix are those of the one before it and of a block of coordinates more, and so are, on the way
back, the gradients of a block: all prefixes together take the matrix products of the longest alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import Exclusion
from lightning_normdyn.core.contrast.first_derivative import first_derivative_only
from lightning_normdyn.core.contrast.log_sum_exp import LARGEST_UNSHIFTED_SCORE, row_tops, shifted_exp, softmax_losses
from lightning_normdyn.core.dynamics.geometry import most_precise, most_precise_dtype

_STRIP = 2**20  # scores in a strip of whole rows, of which there is one for each prefix


def prefix_norms(x: Tensor, widths: Sequence[int]) -> Tensor:
    """Norms of the first coordinates, ``|x[:w]|`` for every width ``w``: one cumulative sum of squares.

    Args:
        x: ``[n, d]``.
        widths: ascending, up to d.

    Returns:
        ``[k, n]`` in float64 (float32 where the device has none), one where a prefix is zero, which gets no gradient.

    Example:
        >>> prefix_norms(torch.tensor([[3.0, 4.0, 0.0, 12.0]]), (1, 2, 4))
        tensor([[ 3.],
                [ 5.],
                [13.]], dtype=torch.float64)
    """
    norms: Tensor = _PrefixNorms.apply(x, tuple(widths))
    return norms


def sum_prefix_log_sum_exp(
    a: Tensor,
    b: Tensor,
    widths: Sequence[int],
    weights: Sequence[float],
    *,
    row_factors: Tensor | None = None,
    column_factors: Tensor | None = None,
    positives: Tensor,
    exclusion: Exclusion | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """``sum_k w_k sum_i (log sum_j exp S_kij - S_ki,positive(i))`` with ``S_kij = f_ki g_kj <a_i[:w], b_j[:w]>``.

    The longest prefix has no factors, which vectors that are rescaled for it do not need. The gradient is made on the
    way forward, as in :func:`lightning_normdyn.core.contrast.log_sum_exp.sum_log_sum_exp`.

    Args:
        a: ``[n, d]``, float32 or float64.
        b: ``[m, d]``, likewise.
        widths: of the prefixes, ascending, up to d.
        weights: of the prefixes' sums.
        row_factors: of all prefixes but the last, ``[k - 1, n]``; ``None`` for ones.
        column_factors: likewise, ``[k - 1, m]``.
        positives: the column of each row whose score is taken off, ``[n]``.
        exclusion: pairs to leave out.
        chunk_size: rows that are looked at together; ``None`` picks what suits the device.

    Returns:
        A scalar.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        >>> sum_prefix_log_sum_exp(a, b, (1, 2), (1.0, 0.5), positives=torch.arange(2))
        tensor(1.2301, dtype=torch.float64)
    """
    total: Tensor = _SumPrefixLogSumExp.apply(
        a, b, row_factors, column_factors, tuple(widths), tuple(weights), positives, exclusion, chunk_size
    )
    return total


def _blocks(widths: Sequence[int]) -> list[slice]:
    """The coordinates that each prefix has more than the one before."""
    return [slice(left, right) for left, right in zip((0, *widths[:-1]), widths, strict=True)]


class _PrefixNorms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, widths: tuple[int, ...]) -> Tensor:
        dtype = most_precise_dtype(x.device)
        blocks = [torch.linalg.vector_norm(x[:, block], dim=1, dtype=dtype) for block in _blocks(widths)]
        norms = torch.stack(blocks).square_().cumsum(0).sqrt_()
        norms = norms.where(norms > 0, 1)
        ctx.widths = widths
        ctx.save_for_backward(x, norms)
        return norms

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, norms = ctx.saved_tensors
        shares = (gradient / norms).flip(0).cumsum(0).flip(0).to(x.dtype)  # of the prefixes that a block is part of
        of_x = torch.zeros_like(x)
        for block, share in zip(_blocks(ctx.widths), shares, strict=True):
            torch.mul(x[:, block], share[:, None], out=of_x[:, block])
        return of_x, None


class _SumPrefixLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        row_factors: Tensor | None,
        column_factors: Tensor | None,
        widths: tuple[int, ...],
        weights: tuple[float, ...],
        positives: Tensor,
        exclusion: Exclusion | None,
        chunk_size: int | None,
    ) -> Tensor:
        with torch.autocast(a.device.type, enabled=False):
            sweep = _PrefixSweep(a, b, row_factors, column_factors, widths, weights, ctx.needs_input_grad[:4])
            height = chunk_size or max(1, _STRIP // max(len(b), 1))
            for top in range(0, len(a), height):
                rows = slice(top, min(top + height, len(a)))
                sweep.take(rows, positives[rows, None], exclusion)
        ctx.save_for_backward(*sweep.gradients())
        return sweep.total

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, of_total: Tensor) -> tuple[Tensor | None, ...]:
        gradients = iter(ctx.saved_tensors)
        scaled = [next(gradients) * of_total if wanted else None for wanted in ctx.needs_input_grad[:4]]
        return *scaled, None, None, None, None, None


class _PrefixSweep:
    """Sums and gradients, a strip of rows at a time."""

    def __init__(
        self,
        a: Tensor,
        b: Tensor,
        row_factors: Tensor | None,
        column_factors: Tensor | None,
        widths: tuple[int, ...],
        weights: tuple[float, ...],
        wanted: Sequence[bool],
    ) -> None:
        self._sides = a, b, row_factors, column_factors
        self._blocks, self._weights = _blocks(widths), weights
        self._gradients = [
            torch.zeros_like(x) if wants and x is not None else None
            for x, wants in zip(self._sides, wanted, strict=True)
        ]
        self.total = most_precise(a.new_zeros(()))
        self._memory = a.new_empty(0)
        self._are_plain = self._plain(widths)

    def gradients(self) -> list[Tensor]:
        """Of those arguments that want one."""
        return [gradient for gradient in self._gradients if gradient is not None]

    def _plain(self, widths: tuple[int, ...]) -> list[bool]:
        """For which prefixes scores are so small that they may be exponentiated as they are."""
        a, b, *factors = self._sides
        if a.device.type != "cpu":
            return [False] * len(widths)
        longest = []
        for x, of_x in zip((a, b), factors, strict=True):
            norms = prefix_norms(x.detach(), widths)
            if of_x is not None:
                norms[:-1] *= of_x.abs()
            longest.append(norms.amax(1))
        return [size <= LARGEST_UNSHIFTED_SCORE for size in (longest[0] * longest[1]).tolist()]

    def take(self, rows: slice, positives: Tensor, exclusion: Exclusion | None) -> None:
        """Adds the sums of some rows, whose positives are in the columns ``[h, 1]``, and their gradients."""
        a, b = self._sides[0][rows], self._sides[1]
        inner, scores, *exps = self._strips_of(len(a), len(b), len(self._blocks) + 2)
        mask = None if exclusion is None else exclusion.mask(rows, slice(0, len(b)))
        for number, block in enumerate(self._blocks):
            if number:
                inner.addmm_(a[:, block], b[:, block].T)
            else:
                torch.mm(a[:, block], b[:, block].T, out=inner)
            self._add_prefix(number, rows, inner, scores, exps[number], positives, mask)
        of_a, of_b = self._gradients[:2]
        for number, block in reversed(list(enumerate(self._blocks))):
            self._add_next(number, exps)
            if of_a is not None:
                of_a[rows, block] = torch.mm(exps[number], b[:, block])
            if of_b is not None:
                of_b[:, block].addmm_(exps[number].T, a[:, block])

    def _add_prefix(
        self,
        number: int,
        rows: slice,
        inner: Tensor,
        scores: Tensor,
        exps: Tensor,
        positives: Tensor,
        mask: Tensor | None,
    ) -> None:
        """The sums of a prefix; its exponentials become the gradient of the inner products, but for column factors."""
        of_rows, of_columns = (None if of is None else of[number] for of in self._factors(number))
        of_rows = None if of_rows is None else of_rows[rows, None]
        scores = _scaled(inner, of_rows, of_columns, inner if number + 1 == len(self._blocks) else scores)
        of_positives = scores.gather(1, positives)
        scores.scatter_(1, positives, -torch.inf)
        if mask is not None:
            scores.masked_fill_(mask, -torch.inf)
        shift = None if self._are_plain[number] else row_tops(scores)
        torch.exp(scores, out=exps) if shift is None else shifted_exp(scores, shift, exps)
        sums = exps.sum(1, keepdim=True)
        losses, divisors = softmax_losses(sums, shift, of_positives)
        self.total += self._weights[number] * losses.sum()
        exps.scatter_(1, positives, -sums)
        shares = self._weights[number] / divisors
        if of_rows is not None or of_columns is not None:
            if mask is not None:
                scores.masked_fill_(mask, 0.0)
            scores.scatter_(1, positives, of_positives)
            self._add_factors(number, rows, scores.mul_(exps), shares)
        exps.mul_(shares if of_rows is None else shares * of_rows)

    def _factors(self, number: int) -> tuple[Tensor | None, Tensor | None]:
        """Those of rows and of columns; none of the last prefix."""
        is_last = number + 1 == len(self._blocks)
        return (None, None) if is_last else (self._sides[2], self._sides[3])

    def _add_next(self, number: int, exps: list[Tensor]) -> None:
        """Makes of a prefix's gradient that of its last block, which all longer prefixes have too."""
        of_columns = self._factors(number)[1]
        if number + 1 == len(exps):
            return
        if of_columns is None:
            exps[number].add_(exps[number + 1])
        else:
            torch.addcmul(exps[number + 1], exps[number], of_columns[number], out=exps[number])

    def _add_factors(self, number: int, rows: slice, products: Tensor, shares: Tensor) -> None:
        """Gradients of the factors: ``sum dL/dS · S`` over a row or column, by the factor."""
        _, _, row_factors, column_factors = self._sides
        of_rows, of_columns = self._gradients[2:]
        if of_rows is not None and row_factors is not None:
            of_rows[number, rows] = (products.sum(1) * shares[:, 0]) / row_factors[number, rows]
        if of_columns is not None and column_factors is not None:
            of_columns[number] += (shares[:, 0] @ products) / column_factors[number]

    def _strips_of(self, height: int, width: int, count: int) -> list[Tensor]:
        """Memory for so many strips of scores, used again and again."""
        size = height * width
        if len(self._memory) < count * size:
            self._memory = self._sides[0].new_empty(count * size)
        return [part.view(height, width) for part in self._memory[: count * size].split(size)]


def _scaled(inner: Tensor, of_rows: Tensor | None, of_columns: Tensor | None, out: Tensor) -> Tensor:
    """``of_rows · inner · of_columns``, in ``out``, which may be ``inner``."""
    if of_columns is not None:
        torch.mul(inner, of_columns, out=out)
    elif out is not inner:
        out.copy_(inner)
    return out if of_rows is None else out.mul_(of_rows)
