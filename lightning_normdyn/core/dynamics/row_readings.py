"""What steps say about the rows that they touched, gathered until there is enough of it to be added up."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import at_least_float32

_MOST_ROWS = 8_192
_MOST_STEPS = 64
_FEWEST_STEPS = 8
_MOST_PLACES = 2**18
_MOST_NUMBERS = 2**16  # of the rows that wait unread, and of their gradients


class RowReading(NamedTuple):
    """What one step says about the rows that it touched, ``[k]`` each.

    Attributes:
        norms: ``|x|``.
        lengths: ``|g|``.
        products: ``<x, g>``.
    """

    norms: Tensor
    lengths: Tensor
    products: Tensor


def read_rows(embedding: Tensor, gradient: Tensor, *, scratch: Tensor | None = None) -> RowReading:
    """Reads the rows of one step.

    Args:
        embedding: ``x``, ``[k, d]``.
        gradient: ``g``, ``[k, d]``.
        scratch: memory to overwrite, of shape and type of the rows in float32 at least; ``None`` to get some.

    Example:
        >>> read_rows(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]))
        RowReading(norms=tensor([5.]), lengths=tensor([1.]), products=tensor([3.]))
    """
    embedding, gradient = at_least_float32(embedding), at_least_float32(gradient)
    return RowReading(
        torch.linalg.vector_norm(embedding, dim=-1),
        torch.linalg.vector_norm(gradient, dim=-1),
        torch.mul(embedding, gradient, out=scratch).sum(-1),
    )


class GatheredSteps(NamedTuple):
    """Readings of several steps, one after the other, ``[n]``.

    Attributes:
        sizes: rows of each step.
        slots: the slot of each row.
        norms: ``|x|``.
        lengths: ``|g|``.
        products: ``<x, g>``.
    """

    sizes: list[int]
    slots: Tensor
    norms: Tensor
    lengths: Tensor
    products: Tensor


class RowReadings:
    """Gathers the readings of steps in their order.

    Rows of a step that touches few may wait as they are, since an operation on them takes longer to start than to run.

    Args:
        slots: how many there are.
    """

    def __init__(self, slots: int) -> None:
        self._slot_count = slots
        self._most_steps = max(_FEWEST_STEPS, min(_MOST_STEPS, _MOST_PLACES // slots))
        self._slots: list[Tensor] = []
        self._readings: list[RowReading | None] = []  # None for a run of steps whose rows wait unread
        self._unread: list[tuple[Tensor, Tensor]] = []
        self._unread_rows: list[int] = []  # of each such run
        self._rows = self._unread_numbers = 0
        self._places = torch.empty(0, dtype=torch.int32)

    def has_room_for(self, rows: int) -> bool:
        """Whether so many can be kept; any number can once it is empty."""
        steps = len(self._slots)
        has_room = self._rows + rows <= _MOST_ROWS and self._unread_numbers < _MOST_NUMBERS
        return not steps or (has_room and steps < self._most_steps)

    def keep(self, reading: RowReading, slots: Tensor) -> None:
        """Takes the reading of one step; nobody may write to the tensors any more.

        Args:
            reading: of the rows.
            slots: the slot of each row, ``[k]``.
        """
        self._rows += slots.numel()
        self._slots.append(slots)
        self._readings.append(reading)

    def keep_unread(self, embedding: Tensor, gradient: Tensor, slots: Tensor) -> None:
        """Takes the rows of one step to read them later; likewise.

        Args:
            embedding: ``x``, ``[k, d]``.
            gradient: ``g``, ``[k, d]``.
            slots: the slot of each row, ``[k]``.
        """
        rows = slots.numel()
        self._rows += rows
        self._unread_numbers += embedding.numel()
        self._slots.append(slots)
        self._unread.append((embedding, gradient))
        if self._readings and self._readings[-1] is None:
            self._unread_rows[-1] += rows
        else:
            self._readings.append(None)
            self._unread_rows.append(rows)

    def take(self) -> GatheredSteps | None:
        """All that was gathered, and forgets it; ``None`` if it is nothing."""
        if not self._slots:
            return None
        late = iter(self._read_the_unread())
        readings = [next(late) if reading is None else reading for reading in self._readings]
        values = readings[0] if len(readings) == 1 else map(torch.cat, zip(*readings, strict=True))
        steps = GatheredSteps([slots.numel() for slots in self._slots], torch.cat(self._slots), *values)
        self._slots, self._readings, self._unread, self._unread_rows = [], [], [], []
        self._rows = self._unread_numbers = 0
        return steps

    def _read_the_unread(self) -> list[RowReading]:
        """The readings of each run of steps whose rows wait, in their order, from one look at all of them."""
        if not self._unread:
            return []
        reading = read_rows(*map(torch.cat, zip(*self._unread, strict=True)))
        return list(map(RowReading, *(values.split(self._unread_rows) for values in reading)))

    def are_first(self, steps: GatheredSteps) -> Tensor:
        """Which rows stand for their slot in their step, a mask ``[n]``: all but repetitions."""
        rows, device = steps.slots.numel(), steps.slots.device
        most_keys = self._slot_count * self._most_steps
        if len(self._places) < most_keys or self._places.device != device:
            self._places = torch.empty(most_keys, dtype=torch.int32, device=device)
        first_keys = torch.arange(len(steps.sizes), device=device).mul_(self._slot_count)
        sizes = torch.tensor(steps.sizes, device=device)
        keys = first_keys.repeat_interleave(sizes, output_size=rows).add_(steps.slots)
        order = torch.arange(rows, dtype=torch.int32, device=device)
        # Of several that write to one place, one is read back.
        return self._places.index_copy_(0, keys, order).index_select(0, keys) == order
