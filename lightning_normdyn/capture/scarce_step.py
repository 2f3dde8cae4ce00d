"""The rows of a step that are touched so seldom that each time counts."""

from __future__ import annotations

from torch import Tensor

from lightning_normdyn.capture.table import TableTarget


class ScarceStep:
    """What one optimizer step was to the scarce rows of a table, and nothing else of it.

    Made before the step with the rows as they were; :meth:`read_gradient` reads what the optimizer is given. Copies all
    that it holds, so that it may be kept.

    Args:
        target: the table, on a CPU: elsewhere to choose among rows waits for the device; its gradient is there.
        scarce: the slots of the rows, a mask ``[tracked_rows + 1]``.

    Attributes:
        slots: slot of each row, ``[k]``, possibly repeated.
        embedding: the rows before the step, ``[k, d]``.
        gradient: their gradients, ``[k, d]``.
    """

    gradient: Tensor

    def __init__(self, target: TableTarget, scarce: Tensor) -> None:
        self._target, self._has_gradient = target, False
        self._places: Tensor | None = None
        rows = target.touched()
        if rows is None:
            self.slots = scarce[:-1].nonzero().squeeze(1)
        elif target.has_sparse_gradient:
            slots = target.slots(rows)
            self._places = scarce.index_select(0, slots).nonzero().squeeze(1)
            self.slots = slots.index_select(0, self._places)
        else:
            slots = target.slots(rows)
            self.slots = slots.masked_select(scarce.index_select(0, slots))
        self._rows = target.sample.numbers(self.slots)
        self.embedding = target.table().index_select(0, self._rows)

    def read_gradient(self) -> None:
        """Reads the gradient as it is now; the last time before :meth:`complete` counts."""
        gradient = self._target.gradient()
        if self._places is None:
            self.gradient = gradient.index_select(0, self._rows)
        else:
            self.gradient = gradient.values().index_select(0, self._places)
        self._has_gradient = True

    def complete(self) -> None:
        """Reads the gradient after the update, if nobody could read it before."""
        if not self._has_gradient:
            self.read_gradient()
