"""Which rows of a table own the gradient norm of the whole model, by which it is clipped."""

from __future__ import annotations

import math
import weakref
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lightning_normdyn.capture.layout import TableLayout
from lightning_normdyn.capture.spread_step import SpreadStep
from lightning_normdyn.capture.table import TableStep
from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.core.sharded_tensor import are_flat_pieces, is_sharded
from lightning_normdyn.instruments.base import CadencedInstrument, Need

_LARGEST = 0.01


class ClipShare(CadencedInstrument):
    """The share of the squared gradient norm of all that an optimizer trains that the largest rows of a table own.

    The largest are a hundredth of the rows that got a gradient in the step, one at least. As long as gradients are
    clipped by one norm, all by the same factor, the share is that before clipping too.

    Args:
        every_n_steps: cadence, in optimizer steps.
        optimizer: what trains the table.
    """

    def __init__(self, every_n_steps: int, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(every_n_steps)
        self._optimizer = optimizer

    def need(self, step: int) -> Need:
        """The gradients of all rows, on the cadence."""
        return Need.TOUCHED | Need.TRACKED if self.is_due(step) else Need.NOTHING

    def share(self, layout: TableLayout) -> Tensor:
        """What this rank adds to the squared norm of all gradients, ``[1]``."""
        norms = _STEP_NORMS.get(self._optimizer)
        square = None if norms is None else norms.get(layout.ranks)
        if square is None:
            square = layout.share_of_square(self._gradients())
        if norms is not None:
            norms[layout.ranks] = square
        return square[None]

    def observe(self, step: int, table_step: TableStep) -> None:
        """Compares the rows of one step with the whole gradient, where this rank has it."""
        if self._lies_in_pieces():
            return
        rows, squares = _squares_by_row(table_step)
        if isinstance(table_step, SpreadStep):
            squared_norm: Tensor | None = table_step.further_sums[0]
        else:
            squared_norm = self._whole_squared_norm(squares)
        if not len(rows) or squared_norm is None:
            return
        largest, places = squares.topk(math.ceil(_LARGEST * len(rows)))
        has_norm = (squared_norm > 0) & (squared_norm < torch.inf)
        self._readings = {
            "clip_share": (largest.sum() / squared_norm).where(has_norm, torch.nan),
            "clip_row": rows[places[0]].to(squares.dtype).where(has_norm, torch.nan),
        }

    def _whole_squared_norm(self, like: Tensor) -> Tensor | None:
        norms = _STEP_NORMS.get(self._optimizer)
        if norms is None:
            return _squared_norm(self._gradients(), like)
        kind = (like.dtype, like.device)
        if kind not in norms:
            norms[kind] = _squared_norm(self._gradients(), like)
        return norms[kind]

    def _gradients(self) -> Iterator[Tensor]:
        for group in self._optimizer.param_groups:
            yield from (parameter.grad for parameter in group["params"] if parameter.grad is not None)

    def _lies_in_pieces(self) -> bool:
        """Whether FSDP1 keeps a piece of the gradient on this rank."""
        return any(are_flat_pieces(group["params"]) for group in self._optimizer.param_groups)


_Norms = dict[Hashable, Tensor | None]
"""By type and device or, of what a rank adds to that of all, by the ranks."""
_STEP_NORMS: weakref.WeakKeyDictionary[torch.optim.Optimizer, _Norms] = weakref.WeakKeyDictionary()


@contextmanager
def shared_gradient_norm(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Lets all tables that are looked at within, after one step of an optimizer, read its whole gradient once.

    Args:
        optimizer: which has made the step.
    """
    _STEP_NORMS[optimizer] = {}
    try:
        yield
    finally:
        del _STEP_NORMS[optimizer]


def _squares_by_row(table_step: TableStep) -> tuple[Tensor, Tensor]:
    """Rows with a gradient, each once, and its squared length, ``[m]``."""
    squares = table_step.once_a_row(most_precise(table_step.gradient).square().sum(1))
    rows = table_step.target.row_numbers().to(squares.device) if table_step.rows is None else table_step.distinct_rows
    has_gradient = squares > 0
    return rows[has_gradient], squares[has_gradient]


def _squared_norm(gradients: Iterator[Tensor], like: Tensor) -> Tensor | None:
    """Sum of squares, of the type of another tensor; ``None`` if there are none, or if ranks hold parts of them."""
    norms = []
    for gradient in gradients:
        if is_sharded(gradient):
            return None
        entries = gradient.detach().coalesce().values() if gradient.is_sparse else gradient.detach()
        dtype = torch.promote_types(entries.dtype, torch.float32)
        norms.append(torch.linalg.vector_norm(entries, dtype=dtype).to(like))
    return torch.stack(norms).square().sum() if norms else None
