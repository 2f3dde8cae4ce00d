"""One step of a table whose optimizer is fused into backward: each rank reads its blocks, and all share sums."""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_normdyn.capture.fused_table import LR_OF_HOLDERS, FusedTable, Touches
from lightning_normdyn.capture.scarce_step import ScarceStep
from lightning_normdyn.capture.spread_step import two_dimensions
from lightning_normdyn.capture.table import TableStep


class FusedStep(TableStep):
    """A :class:`TableStep` of a fused table: rows in two dimensions, in float64, as in :class:`SpreadStep`.

    Touched rows are those that have a gradient, each once.

    Attributes:
        gradient_error: how far rounding may have taken the table's gradient as it was read off the step, relative to
            its norm.
    """

    target: FusedTable
    gradient_error: Tensor

    def __init__(self, target: FusedTable, *, touched: bool, tracked: bool) -> None:
        self.target = target
        self.wants_touched, self.wants_tracked = touched, tracked
        self.slots = self._rows = self._tracked_places = None
        self._share: tuple[Tensor, Tensor, Tensor] | None = None
        self._start_blocks = target.blocks() if tracked else []

    def read_gradient(self, *, copy: bool = False) -> None:
        """Does nothing: there is no gradient to be read."""

    def read_share(self) -> None:
        """Reads what this rank has of the step, once rows have moved."""
        touches = self.target.touches() if self.wants_touched else None
        tracked_sums = self._tracked_sums() if self.wants_tracked else None
        numbers = self._numbers(touches)
        slots = [] if tracked_sums is None else [self.target.block_slots]
        sums = [] if tracked_sums is None else [F.pad(tracked_sums, (0, _TOUCHED_COLUMNS))]
        if touches is not None:
            slots.append(touches.slots)
            sums.append(F.pad(_touched_sums(touches), (0 if tracked_sums is None else _TRACKED_COLUMNS, 0)))
        if not sums:  # norms alone are wanted, which whoever wants them asks the table for
            slots, sums = [self.target.block_slots[:0]], [numbers.new_zeros(0, 0)]
        self._share = torch.cat(slots), torch.cat(sums), numbers

    def complete(self, lr: float) -> None:
        """Adds up what all ranks have read."""
        if self._share is None:
            self.read_share()
        assert self._share is not None
        sums, numbers = self.target.sums(*self._share)
        holders, total_lr, square, squared_error = numbers.unbind()
        self.lr = self.target.group[LR_OF_HOLDERS] = float(total_lr / holders) if float(holders) else lr
        if self.wants_touched:
            self._show_touched(sums[:, -_TOUCHED_COLUMNS:].unbind(1))
            self.gradient_error = (squared_error / square).sqrt()
            clips = self.target.settings is not None and self.target.settings.clips
            self.gradient_norm = square.sqrt()
            self.raw_gradient_norm = torch.full_like(square, torch.nan) if clips else self.gradient_norm
        if self.wants_tracked:
            self._show_tracked(sums[:, :_TRACKED_COLUMNS].unbind(1))

    @cached_property
    def norms(self) -> Tensor:
        """Norms of all tracked rows after the step, ``[tracked_rows]``."""
        return self._end_sums[0].sqrt() if self.wants_tracked else self.target.norms()

    @cached_property
    def products(self) -> Tensor:
        """What :meth:`TableTarget.products` gives after the step, ``[tracked_rows]``."""
        return self._end_sums[1] if self.wants_tracked else self.target.products()

    @property
    def touched_after(self) -> Tensor:
        """Touched rows after a step of which the tracked rows are known, ``[k, 2]``."""
        assert self.slots is not None
        return self.after.index_select(0, self.slots)

    def _tracked_sums(self) -> Tensor:
        """``|x'|²``, ``<x', v>``, ``|x|²``, ``<x, dx>`` and ``|dx|²`` of the tracked rows on this rank, ``[m, 5]``."""
        end_blocks = self.target.blocks()
        pieces = []
        for old, new in zip(self._start_blocks, end_blocks, strict=True):
            update = new - old
            pairs = ((new, new), (old, old), (old, update), (update, update))
            pieces.append(torch.stack([(a * b).sum(1) for a, b in pairs], 1))
        products = self.target.block_products(end_blocks)[:, None]
        sums = torch.cat([products.new_zeros(0, 4), *pieces])
        return torch.cat((sums[:, :1], products, sums[:, 1:]), 1)

    def _numbers(self, touches: Touches | None) -> Tensor:
        """Whether this rank holds a block, its rate then, and the squares of its gradient and of the error, ``[4]``."""
        numbers = torch.zeros(4, dtype=torch.float64, device=self.target.plan.device)
        if self.target.plan.shards and self.target.settings is not None:
            numbers[0], numbers[1] = 1, self.target.settings.lr
        if touches is not None:
            squared_errors = touches.squares * touches.errors.square()
            numbers[2], numbers[3] = touches.squares.sum(), squared_errors.where(touches.squares > 0, 0).sum()
        return numbers

    def _show_touched(self, columns: tuple[Tensor, ...]) -> None:
        norm_squares, products, squares = columns
        slots = (squares != 0).nonzero().squeeze(1)
        norm = norm_squares.index_select(0, slots).sqrt()
        along, across = two_dimensions(norm, products.index_select(0, slots), squares.index_select(0, slots))
        self.slots, self._rows = slots, self.target.sample.numbers(slots)
        self.embedding = torch.stack((norm, torch.zeros_like(norm)), 1)
        self.gradient = torch.stack((along, across), 1)

    def _show_tracked(self, columns: tuple[Tensor, ...]) -> None:
        self._end_sums = columns[:2]
        norm = columns[2].sqrt()
        along, across = two_dimensions(norm, *columns[3:5])
        self.before = torch.stack((norm, torch.zeros_like(norm)), 1)
        self.after = torch.stack((norm + along, across), 1)


class FusedScarceStep(ScarceStep):
    """A :class:`ScarceStep` of a fused table; rows are shown in two dimensions, in float64."""

    def __init__(self, target: FusedTable, scarce: Tensor) -> None:
        self._table, self._scarce = target, scarce
        self._share: tuple[Tensor, Tensor] | None = None

    def read_gradient(self) -> None:
        """Does nothing: there is no gradient to be read."""

    def read_share(self) -> None:
        """Reads what this rank has of the step, once rows have moved."""
        touches = self._table.touches()
        places = self._scarce.index_select(0, touches.slots).nonzero().squeeze(1)
        self._share = touches.slots[places], _touched_sums(touches)[places]

    def complete(self) -> None:
        """Adds up what all ranks have read."""
        if self._share is None:
            self.read_share()
        assert self._share is not None
        sums, _ = self._table.sums(*self._share)
        self.slots = (sums[:, 2] != 0).nonzero().squeeze(1)
        norm_squares, products, squares = sums.index_select(0, self.slots).unbind(1)
        norm = norm_squares.sqrt()
        self.embedding = torch.stack((norm, torch.zeros_like(norm)), 1)
        self.gradient = torch.stack(two_dimensions(norm, products, squares), 1)


_TRACKED_COLUMNS, _TOUCHED_COLUMNS = 5, 3


def _touched_sums(touches: Touches) -> Tensor:
    return torch.stack((touches.norm_squares, touches.products, touches.squares), 1)
