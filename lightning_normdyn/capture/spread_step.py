"""One optimizer step of a table that lies on several ranks, of which each reads its own part and all share the sums.

What is measured of a row depends on the lengths of its vector, its gradient and its update, and on the angles that the
vector has with the other two. A row is therefore shown in two dimensions instead of ``d``: the first along the vector
before the step, the second across it. Lengths, products with the vector, and the change of length are those of the
whole row.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from lightning_normdyn.capture.layout import TableLayout
from lightning_normdyn.capture.scarce_step import ScarceStep
from lightning_normdyn.capture.table import Clipping, TableStep, TableTarget
from lightning_normdyn.core.dynamics.geometry import by_blocks, most_precise, squared_sum


class SpreadStep(TableStep):
    """A :class:`TableStep` of a sharded table, read by all ranks: they share one message, when it is complete.

    Rows are shown in two dimensions, in float64, all tracked rows in order.

    Attributes:
        further_sums: of what each rank gave with its part, ``[n]``.
    """

    further_sums: Tensor

    def __init__(
        self, target: TableTarget, *, touched: bool, tracked: bool, clipping: Clipping, norms: bool = True
    ) -> None:
        self.target = target
        self.wants_touched, self.wants_tracked = touched, tracked
        self.slots = self._rows = self._tracked_places = None
        self._clipping, self._has_gradient = clipping, False
        self._layout = _layout(target)
        self._share: tuple[Tensor, Tensor] | None = None
        self._wants_update = tracked or (touched and norms)
        self._wants_norms = norms
        self._rows_before = self._local_rows().clone() if self._wants_update else None
        self._touches = _Touches(target, self._rows_before) if touched else None
        self._raw_square = self._gradient_square() if tracked and clipping is Clipping.AHEAD else None

    def read_gradient(self, *, copy: bool = False) -> None:
        """Reads this rank's part of the gradient; the last time before :meth:`complete` counts."""
        del copy  # what is read is a copy
        if self._touches is not None:
            self._touches.read_gradient()
        if self.wants_tracked:
            self._square = self._gradient_square()
        self._has_gradient = True

    def complete(self, lr: float) -> None:
        """Adds up what all ranks have read."""
        self.lr = lr
        if self._share is None:
            self.read_share()
        assert self._share is not None
        sums, numbers = self._layout.sums(*self._share)
        self._show(sums.unbind(1))
        self.further_sums = numbers[2:] if self.wants_tracked else numbers
        if self.wants_tracked:
            self.raw_gradient_norm, self.gradient_norm = numbers[:2].sqrt().unbind()

    def read_share(self, further: Tensor | None = None) -> None:
        """Reads this rank's part of the rows after the update.

        Args:
            further: this rank's share of further numbers that all are to know, ``[n]``; ``None`` for none.
        """
        if not self._has_gradient:
            self.read_gradient()
        before = () if self._rows_before is None else (self._rows_before,)
        shares = by_blocks(self._row_sums, self._local_rows(), *before) if self._wants_norms or before else []
        if self._touches is not None:
            shares.append(self._touches.sums())
        squares = self._squares()
        numbers = squares if further is None else torch.cat((squares, further.to(squares)))
        self._share = torch.cat(shares, 1), numbers

    def _local_rows(self) -> Tensor:
        """This rank's part of the tracked rows as they are, ``[m, c]``."""
        return self._layout.tracked_part(self._layout.block(self.target.table()))

    def _row_sums(self, rows: Tensor, before: Tensor | None = None) -> tuple[Tensor]:
        """Sums over the columns of rows after the update, given those before it if these are wanted, ``[k, n]``."""
        rows, columns = most_precise(rows), []
        if self._wants_norms:
            columns += [torch.linalg.vecdot(rows, rows), rows @ self.target.direction(rows)]
        if before is not None:
            before = most_precise(before)
            update = rows - before
            columns += [torch.linalg.vecdot(a, b) for a, b in ((before, before), (before, update), (update, update))]
        return (torch.stack(columns, 1),)

    @cached_property
    def norms(self) -> Tensor:
        """Norms of all tracked rows after the step, ``[tracked_rows]``."""
        return self._sums[0].sqrt()

    @cached_property
    def products(self) -> Tensor:
        """What :meth:`TableTarget.products` gives after the step, ``[tracked_rows]``."""
        return self._sums[1]

    @property
    def touched_after(self) -> Tensor:
        """All tracked rows after the step, ``[tracked_rows, 2]``."""
        return self.after

    def _show(self, sums: tuple[Tensor, ...]) -> None:
        columns = iter(sums)
        if self._wants_norms:
            self._sums = next(columns), next(columns)
        if self._wants_update:
            before = next(columns).sqrt()
            along, across = two_dimensions(before, next(columns), next(columns))
            self.before = self.embedding = torch.stack((before, torch.zeros_like(before)), 1)
            self.after = torch.stack((before + along, across), 1)
        if self.wants_touched:
            self.embedding, self.gradient = _with_gradient(*columns)

    def _gradient_square(self) -> Tensor:
        """This rank's share of the squared norm of the whole gradient."""
        return squared_sum(self.target.gradient())

    def _squares(self) -> Tensor:
        """This rank's shares of the squared gradient norm as backward left it, and as the optimizer got it, ``[2]``."""
        if not self.wants_tracked:
            return torch.zeros(0, dtype=torch.float64)
        raw = self._raw_square
        if self._clipping is Clipping.NONE:
            raw = self._square
        elif self._clipping is Clipping.PAST:
            backward_norm = None if self.target.backward_norm is None else self.target.backward_norm.last
            nobody_knows = torch.full_like(self._square, torch.nan)
            raw = nobody_knows if backward_norm is None else backward_norm.to(self._square).square()
        assert raw is not None
        return torch.stack((raw.to(self._square), self._square))


class SpreadScarceStep(ScarceStep):
    """A :class:`ScarceStep` of a sharded table; rows are shown in two dimensions, in float64."""

    def __init__(self, target: TableTarget, scarce: Tensor) -> None:
        self._target, self._has_gradient = target, False
        self._layout = _layout(target)
        self._share: Tensor | None = None
        self._scarce = scarce[:-1].nonzero().squeeze(1)
        self._touches = _Touches(target, among=scarce)

    def read_gradient(self) -> None:
        """Reads this rank's part of the gradient; the last time before :meth:`complete` counts."""
        self._touches.read_gradient()
        self._has_gradient = True

    def read_share(self) -> None:
        """Reads this rank's part, if nobody could read the gradient before."""
        super().complete()
        self._share = self._touches.sums()

    def complete(self) -> None:
        """Adds up what all ranks have read, and keeps the rows that have a gradient."""
        if self._share is None:
            self.read_share()
        assert self._share is not None
        sums, _ = self._layout.sums(self._share, self._share.new_zeros(0), self._scarce)
        touched = (sums[:, 2] != 0).nonzero().squeeze(1)  # NaN is a gradient too
        self.slots = self._scarce.index_select(0, touched)
        self.embedding, self.gradient = _with_gradient(*sums.index_select(0, touched).unbind(1))


class _Touches:
    """This rank's part of tracked rows and their gradients, of which sums are made.

    Where it holds rows whole, those without a gradient are left out: their sums are zero, however long they are. Of
    parts of rows the others may have a gradient.

    Args:
        target: the table; its gradient is there.
        before: all tracked rows as they are, if somebody has read them.
        among: slots of rows that alone are wanted, a mask ``[tracked_rows + 1]``; ``None`` for all.
    """

    def __init__(self, target: TableTarget, before: Tensor | None = None, *, among: Tensor | None = None) -> None:
        self._target, self._layout = target, _layout(target)
        self._places: Tensor | None = None  # among this rank's tracked rows; None for all
        if target.selects and (among is not None or self._layout.has_whole_rows):
            is_wanted = torch.ones_like(self._layout.slots, dtype=torch.bool)
            if among is not None:
                is_wanted = among[self._layout.slots]
            if self._layout.has_whole_rows:
                is_wanted &= (self._layout.tracked_part(target.gradient()) != 0).any(1)
            self._places = is_wanted.nonzero().squeeze(1)
        if before is None:
            before = self._layout.tracked(self._layout.block(target.table()), self._places)
        elif self._places is not None:
            before = before.index_select(0, self._places)
        self._before = before

    def read_gradient(self) -> None:
        """Reads the gradient as it is now."""
        self._gradient = self._layout.tracked(self._target.gradient(), self._places)

    def sums(self) -> Tensor:
        """Of each tracked row of this rank the squares, and products with the gradient and of it, ``[m, 3]``."""
        before, gradient = most_precise(self._before), self._gradient
        products = [(a * b).sum(1) for a, b in ((before, before), (before, gradient), (gradient, gradient))]
        sums = torch.stack(products, 1)
        if self._places is None:
            return sums
        return sums.new_zeros(len(self._layout.slots), 3).index_copy_(0, self._places, sums)


def _with_gradient(square: Tensor, along: Tensor, gradient_square: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and their gradients in two dimensions, ``[n, 2]`` each.

    Args:
        square: squared length of the rows, ``[n]``.
        along: their products with the gradient, ``[n]``.
        gradient_square: squared length of the gradients, ``[n]``.
    """
    norm = square.sqrt()
    rows = torch.stack((norm, torch.zeros_like(norm)), 1)
    return rows, torch.stack(two_dimensions(norm, along, gradient_square), 1)


def _layout(target: TableTarget) -> TableLayout:
    assert target.layout is not None, "a table that every rank holds whole has a step of its own"
    return target.layout


def two_dimensions(norm: Tensor, product: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """The part of vectors along others, and the length of the rest.

    Args:
        norm: of the others, ``[n]``; along one that is zero there is nothing.
        product: of the two, ``[n]``.
        square: squared length of the vectors, ``[n]``.
    """
    along = (product / norm).where(norm != 0, 0)
    square_across = square - along.square()
    return along, square_across.where(~(square_across < 0), 0).sqrt()  # NaN stays NaN
