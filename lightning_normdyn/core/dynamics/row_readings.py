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
_MOST_VIEWS = 64


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
    """Gathers steps in their order.

    A step that touches many rows is read at once, into memory that is kept: on a CPU the allocator may hand memory of
    this size back to the system after each step, and to get it again takes longer than the arithmetic. Rows of a step
    that touches few wait as they are, since an operation on them takes longer to start than to run.

    Args:
        slots: how many there are.
    """

    def __init__(self, slots: int) -> None:
        self._slot_count = slots
        self._most_steps = max(_FEWEST_STEPS, min(_MOST_STEPS, _MOST_PLACES // slots))
        self._sizes: list[int] = []
        self._slots: list[Tensor] = []
        self._unread: list[tuple[Tensor, Tensor] | None] = []
        self._unread_numbers = self._length = self._room = 0
        self._values = torch.empty(3, 0)
        self._scratch = torch.empty(0, 0)
        self._known_views: dict[tuple[int, int], tuple[Tensor, ...]] = {}
        self._places = torch.empty(0, dtype=torch.int32)

    @property
    def is_full(self) -> bool:
        """Whether it is time to take what was gathered."""
        return len(self._sizes) >= self._most_steps or self._unread_numbers >= _MOST_NUMBERS

    def has_room_for(self, rows: int) -> bool:
        """Whether so many can be read; as many as never before always can once it is empty."""
        return not self._sizes or (self._length + rows <= self._room and not self.is_full)

    def read(self, embedding: Tensor, gradient: Tensor, slots: Tensor) -> None:
        """Reads the rows of one step.

        Args:
            embedding: ``x``, ``[k, d]``.
            gradient: ``g``, ``[k, d]``.
            slots: the slot of each row, ``[k]``.
        """
        embedding, gradient, rows = at_least_float32(embedding), at_least_float32(gradient), slots.numel()
        self._reserve(rows, embedding)
        norm, length, product, scratch = self._views(rows)
        torch.linalg.vector_norm(embedding, dim=-1, out=norm)
        torch.linalg.vector_norm(gradient, dim=-1, out=length)
        torch.sum(torch.mul(embedding, gradient, out=scratch), -1, out=product)
        self._length += rows
        self._append(slots.clone(), None)

    def keep(self, embedding: Tensor, gradient: Tensor, slots: Tensor) -> None:
        """Takes the rows of one step to read them later; nobody may write to the tensors any more."""
        self._unread_numbers += embedding.numel()
        self._append(slots, (embedding, gradient))

    def take(self) -> GatheredSteps | None:
        """All that was gathered, and forgets it; ``None`` if it is nothing."""
        if not self._sizes:
            return None
        sizes, slots = self._sizes, torch.cat(self._slots)
        values = self._values[:, : self._length]
        if self._unread_numbers:
            values = self._read_the_unread(values)
        self._sizes, self._slots, self._unread = [], [], []
        self._unread_numbers = self._length = 0
        return GatheredSteps(sizes, slots, *values.unbind())

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

    def _append(self, slots: Tensor, unread: tuple[Tensor, Tensor] | None) -> None:
        self._sizes.append(slots.numel())
        self._slots.append(slots)
        self._unread.append(unread)

    def _read_the_unread(self, values: Tensor) -> Tensor:
        """The values ``[3, n]`` of all steps in their order, given those that were read at once."""
        pairs = [pair for pair in self._unread if pair is not None]
        embedding, gradient = (at_least_float32(torch.cat(tensors)) for tensors in zip(*pairs, strict=True))
        norms = (torch.linalg.vector_norm(rows, dim=-1) for rows in (embedding, gradient))
        late_values = torch.stack((*norms, (embedding * gradient).sum(-1)))
        if len(pairs) == len(self._unread):
            return late_values
        late_sizes = [size for size, pair in zip(self._sizes, self._unread, strict=True) if pair is not None]
        early_sizes = [size for size, pair in zip(self._sizes, self._unread, strict=True) if pair is None]
        late, early = iter(late_values.split(late_sizes, 1)), iter(values.split(early_sizes, 1))
        return torch.cat([next(early if pair is None else late) for pair in self._unread], 1)

    def _reserve(self, rows: int, like: Tensor) -> None:
        if not self._length and (self._room < rows or self._values.dtype != like.dtype):
            self._room = max(rows, _MOST_ROWS)
            self._values = like.new_empty(3, self._room)
            self._known_views.clear()
        if self._scratch.shape[0] < rows or self._scratch.dtype != like.dtype:
            self._scratch = like.new_empty(rows, like.shape[1])
            self._known_views.clear()

    def _views(self, rows: int) -> tuple[Tensor, ...]:
        """Where the next values go. Kept, because a run tends to touch as many rows in each step."""
        key = (self._length, rows)
        if key not in self._known_views:
            if len(self._known_views) > _MOST_VIEWS:
                self._known_views.clear()
            values = self._values.narrow(1, *key)
            self._known_views[key] = (*values.unbind(), self._scratch.narrow(0, 0, rows))
        return self._known_views[key]
