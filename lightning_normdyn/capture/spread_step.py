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
from lightning_normdyn.core.dynamics.geometry import most_precise


class SpreadStep(TableStep):
    """A :class:`TableStep` of a sharded table, read by all ranks: they share one message, when it is complete.

    Rows are shown in two dimensions, in float64, all tracked rows in order.
    """

    def __init__(self, target: TableTarget, *, touched: bool, tracked: bool, clipping: Clipping) -> None:
        self.target = target
        self.wants_touched, self.wants_tracked = touched, tracked
        self.slots = self._rows = self._tracked_places = None
        self._clipping, self._has_gradient = clipping, False
        self._layout = _layout(target)
        self._share: tuple[Tensor, Tensor] | None = None
        self._rows_before = _tracked(target) if touched or tracked else None
        self._raw_square = self._gradient_square() if tracked and clipping is Clipping.AHEAD else None

    def read_gradient(self, *, copy: bool = False) -> None:
        """Reads this rank's part of the gradient; the last time before :meth:`complete` counts."""
        del copy  # what is read is a copy
        if self.wants_touched:
            self._row_gradients = self._layout.tracked(self.target.gradient())
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
        if self.wants_tracked:
            self.raw_gradient_norm, self.gradient_norm = numbers.sqrt().unbind()

    def read_share(self) -> None:
        """Reads this rank's part of the rows after the update."""
        if not self._has_gradient:
            self.read_gradient()
        rows = _tracked(self.target)
        columns = [(rows * rows).sum(1), rows @ self.target.direction(rows)]
        if self._rows_before is not None:
            update = rows - self._rows_before
            columns += [
                (a * b).sum(1) for a, b in ((self._rows_before,) * 2, (self._rows_before, update), (update,) * 2)
            ]
            if self.wants_touched:
                gradient = self._row_gradients
                columns += [(self._rows_before * gradient).sum(1), (gradient * gradient).sum(1)]
        self._share = torch.stack(columns, 1), self._squares(rows)

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
        self._sums = sums
        if self._rows_before is None:
            return
        before = sums[2].sqrt()
        along, across = two_dimensions(before, *sums[3:5])
        self.before = self.embedding = torch.stack((before, torch.zeros_like(before)), 1)
        self.after = torch.stack((before + along, across), 1)
        if self.wants_touched:
            self.gradient = torch.stack(two_dimensions(before, *sums[5:7]), 1)

    def _gradient_square(self) -> Tensor:
        """This rank's share of the squared norm of the whole gradient."""
        return most_precise(self.target.gradient()).square().sum()

    def _squares(self, like: Tensor) -> Tensor:
        """This rank's shares of the squared gradient norm as backward left it, and as the optimizer got it, ``[2]``."""
        if not self.wants_tracked:
            return like.new_zeros(0)
        raw = self._raw_square
        if self._clipping is Clipping.NONE:
            raw = self._square
        elif self._clipping is Clipping.PAST:
            backward_norm = None if self.target.backward_norm is None else self.target.backward_norm.last
            raw = like.new_full((), torch.nan) if backward_norm is None else backward_norm.to(like).square()
        assert raw is not None
        return torch.stack((raw.to(like), self._square.to(like)))


class SpreadScarceStep(ScarceStep):
    """A :class:`ScarceStep` of a sharded table; rows are shown in two dimensions, in float64."""

    def __init__(self, target: TableTarget, scarce: Tensor) -> None:
        self._target, self._has_gradient = target, False
        self._layout = _layout(target)
        self._share: Tensor | None = None
        self.slots = scarce[:-1].nonzero().squeeze(1)
        self._rows_before = _tracked(target)

    def read_gradient(self) -> None:
        """Reads this rank's part of the gradient; the last time before :meth:`complete` counts."""
        self._row_gradients = self._layout.tracked(self._target.gradient())
        self._has_gradient = True

    def read_share(self) -> None:
        """Reads this rank's part, if nobody could read the gradient before."""
        super().complete()
        pairs = ((self._rows_before,) * 2, (self._rows_before, self._row_gradients), (self._row_gradients,) * 2)
        self._share = torch.stack([(a * b).sum(1) for a, b in pairs], 1)

    def complete(self) -> None:
        """Adds up what all ranks have read."""
        if self._share is None:
            self.read_share()
        assert self._share is not None
        sums, _ = self._layout.sums(self._share, self._share.new_zeros(0), self.slots)
        square, along, gradient_square = sums.unbind(1)
        norms = square.sqrt()
        self.embedding = torch.stack((norms, torch.zeros_like(norms)), 1)
        self.gradient = torch.stack(two_dimensions(norms, along, gradient_square), 1)


def _layout(target: TableTarget) -> TableLayout:
    assert target.layout is not None, "a table that every rank holds whole has a step of its own"
    return target.layout


def _tracked(target: TableTarget) -> Tensor:
    """This rank's part of the tracked rows as they are now, ``[m, c]``."""
    return target.tracked_here(_layout(target))


def two_dimensions(norm: Tensor, product: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """The part of vectors along others, and the length of the rest.

    Args:
        norm: of the others, ``[n]``; along one that is zero there is nothing.
        product: of the two, ``[n]``.
        square: squared length of the vectors, ``[n]``.
    """
    along = (product / norm).where(norm != 0, 0)
    rest = square - along.square()
    return along, rest.where(~(rest < 0), 0).sqrt()  # NaN stays NaN
