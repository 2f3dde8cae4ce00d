"""Per-row gradient moments of an embedding table, streamed over steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import at_least_float32, most_precise, safe_norm
from lightning_normdyn.core.number_checks import check_count

_TOUCHES, _SECOND_MOMENT, _FOURTH_MOMENT, _NONFINITE = range(4)
_MOST_WAITING = 8_192
_MOST_VIEWS = 64


class RowMoments:
    """Streaming sums of the scale-free gradient ``s = R·g_tan`` of every tracked row.

    Holds 37 bytes a row, whatever the number of steps. The readings of the last few steps wait to be added up together:
    a step by itself is too small to be worth a dozen operations. Two sets of steps merge by addition, in any order.
    Rows are named by their slot, 0 to ``rows - 1``; slot ``rows`` swallows what belongs to no tracked row, so that no
    step has to select (and, on a GPU, wait).

    Args:
        rows: tracked rows.
        device: where the sums live; that of the table.
        scarce: rows that are touched too seldom to be read on some steps alone, a mask ``[rows]``;
            :meth:`add_scarce` reads them, and no others, on the steps between. ``None`` for none.

    Attributes:
        steps: steps in which every row was read.

    Example:
        >>> moments = RowMoments(2)
        >>> x, g = torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 3.0]])
        >>> moments.add(x, g, slots=torch.tensor([1]))  # tangential 3 at norm 2: |s|² = 36
        >>> moments.add(x, g * 0, slots=torch.tensor([1]))
        >>> [round(value, 3) for value in moments.second_moment.tolist()], moments.update_probability.tolist()
        ([0.0, 18.0], [0.0, 0.5])
    """

    def __init__(self, rows: int, device: torch.device | str | None = None, *, scarce: Tensor | None = None) -> None:
        check_count(0, rows=rows)
        self.rows = rows
        self.steps = 0
        self._sums = most_precise(torch.zeros(rows + 1, 4, device=device))
        self._scarce = torch.zeros(rows + 1, dtype=torch.bool, device=device)
        if scarce is not None:
            self._scarce[:rows] = scarce
        self._scarce_steps = 0
        self._scarce_readings = torch.zeros(rows, dtype=torch.int32, device=device)
        self._waiting = _Readings()

    @property
    def scarce(self) -> Tensor:
        """The mask, with an entry for the slot that belongs to no row, ``[rows + 1]``."""
        return self._scarce

    def add(self, embedding: Tensor, gradient: Tensor, slots: Tensor | None = None) -> None:
        """Adds one step. A row with a NaN or infinite gradient adds nothing but a count.

        Args:
            embedding: rows before the step, ``[k, d]``.
            gradient: their gradients as the optimizer got them, ``[k, d]``.
            slots: the slot of each row, ``[k]``; a slot may occur twice if its rows are the same. ``None`` means all
                rows in order, ``k = rows``.
        """
        self.steps += 1
        self._push(embedding, gradient, slots)

    def add_scarce(self, embedding: Tensor, gradient: Tensor, slots: Tensor) -> None:
        """Adds one step of the scarce rows; arguments as for :meth:`add`, with scarce rows alone among them."""
        self._scarce_steps += 1
        self._push(embedding, gradient, slots)

    def _push(self, embedding: Tensor, gradient: Tensor, slots: Tensor | None) -> None:
        slots = self._all_slots(gradient.device) if slots is None else slots
        rows = slots.numel()
        if not rows:
            return
        if not self._waiting.has_room_for(rows):
            self._settle()
        self._waiting.push(embedding, gradient, slots)

    def merge(self, other: RowMoments) -> None:
        """Adds the steps that another object saw, on another rank or in another stretch of the run.

        Raises:
            ValueError: if the two track different numbers of rows.
        """
        if other.rows != self.rows:
            raise ValueError(
                f"other: expected moments of {self.rows} rows, got {other.rows}; merge the same table only"
            )
        self._settle()
        other._settle()
        self.steps += other.steps
        self._scarce_readings += other._scarce_readings.to(self._sums.device)
        self._sums += other._sums.to(self._sums.device)

    def reset(self) -> None:
        """Forgets every step."""
        self.steps = self._scarce_steps = 0
        self._waiting.pop()
        self._sums.zero_()
        self._scarce_readings.zero_()

    @property
    def readings(self) -> Tensor:
        """Steps in which each row was read, with a gradient or without, ``[rows]``."""
        self._settle()
        return (self.steps + self._scarce_readings).to(self._sums.dtype)

    @property
    def second_moment(self) -> Tensor:
        """``V² = E|s|²``, absent steps counted as zero, ``[rows]``."""
        return self._settled()[:, _SECOND_MOMENT] / self.readings.clamp(min=1)

    @property
    def update_probability(self) -> Tensor:
        """Share of steps in which the row got a gradient, ``[rows]``."""
        return self._settled()[:, _TOUCHES] / self.readings.clamp(min=1)

    @property
    def kurtosis(self) -> Tensor:
        """``kappa = E[s⁴]/E[s²]²`` over the steps in which a row got a gradient, ``[rows]``; NaN where it got none.

        1 where all its gradients are alike; a row then knows ``V²`` as well as ``touches/kappa`` of those would tell.
        """
        sums = self._settled()
        return sums[:, _TOUCHES] * sums[:, _FOURTH_MOMENT] / sums[:, _SECOND_MOMENT].square()

    @property
    def second_moment_stderr(self) -> Tensor:
        """Standard error of ``V²``, as of a mean of independent steps, ``[rows]``: ``V²·sqrt((kappa/p - 1)/n)``."""
        readings = self.readings.clamp(min=1)
        fourth_moment = self._settled()[:, _FOURTH_MOMENT] / readings
        return ((fourth_moment - self.second_moment.square()).clamp(min=0) / readings).sqrt()

    @property
    def nonfinite(self) -> Tensor:
        """How often a row's gradient was NaN or infinite, over all rows; no dimension."""
        return self._settled()[:, _NONFINITE].sum()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers, for a checkpoint."""
        self._settle()
        return {
            "steps": self.steps,
            "sums": self._sums.clone(),
            "scarce": self._scarce.clone(),
            "scarce_readings": self._scarce_readings.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        self.reset()
        self.steps = state["steps"]
        self._sums.copy_(state["sums"])
        self._scarce.copy_(state["scarce"])
        self._scarce_readings.copy_(state["scarce_readings"])

    def _all_slots(self, device: torch.device) -> Tensor:
        return torch.arange(self.rows, device=device)

    def _settled(self) -> Tensor:
        self._settle()
        return self._sums[: self.rows]

    def _settle(self) -> None:
        """Adds up the readings that wait."""
        if self._scarce_steps:
            self._scarce_readings.add_(self._scarce[:-1], alpha=self._scarce_steps)
            self._scarce_steps = 0
        sizes, slots, norms, lengths, alongs = self._waiting.pop()
        second = _scale_free_square(norms, lengths, alongs)
        finite = second < torch.inf
        second = second.where(finite, 0)
        news = torch.stack(((lengths > 0) & finite, second, second.square(), ~finite), dim=1)
        for rows, step in zip(slots.split(sizes), news.split(sizes), strict=True):
            # Copying, not adding: a row named twice in a step then counts once, with no need to find duplicates.
            self._sums.index_copy_(0, rows, self._sums.index_select(0, rows).add_(step))


class _Readings:
    """What steps say about the rows they touched, one after the other, in memory that is kept.

    On a CPU the allocator may hand memory back to the system after each step, and to get it again takes longer than the
    arithmetic.
    """

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._length = self._room = 0
        self._slots = torch.empty(0, dtype=torch.long)
        self._values = torch.empty(3, 0)
        self._products = torch.empty(0, 0)
        self._known_views: dict[tuple[int, int], tuple[Tensor, ...]] = {}

    def has_room_for(self, rows: int) -> bool:
        """Whether so many rows go in; as many as never before always do once it is empty."""
        return not self._sizes or self._length + rows <= self._room

    def push(self, embedding: Tensor, gradient: Tensor, slots: Tensor) -> None:
        """Reads ``|x|``, ``|g|`` and ``<x, g>`` of the rows of one step, ``[k]``."""
        embedding, gradient, rows = at_least_float32(embedding), at_least_float32(gradient), slots.numel()
        self._reserve(rows, embedding)
        place, norm, length, along, product = self._views(rows)
        place.copy_(slots)
        torch.linalg.vector_norm(embedding, dim=-1, out=norm)
        torch.linalg.vector_norm(gradient, dim=-1, out=length)
        torch.sum(torch.mul(embedding, gradient, out=product), -1, out=along)
        self._length += rows
        self._sizes.append(rows)

    def pop(self) -> tuple[list[int], Tensor, Tensor, Tensor, Tensor]:
        """All that was pushed and forgets it: rows of each step, slots, ``|x|``, ``|g|``, ``<x, g>``."""
        sizes, length = self._sizes, self._length
        self._sizes, self._length = [], 0
        norms, lengths, alongs = self._values[:, :length].unbind()
        return sizes, self._slots[:length], norms, lengths, alongs

    def _reserve(self, rows: int, like: Tensor) -> None:
        if not self._sizes and (self._room < rows or self._values.dtype != like.dtype):
            self._room = max(rows, _MOST_WAITING)
            self._slots = torch.empty(self._room, dtype=torch.long, device=like.device)
            self._values = like.new_empty(3, self._room)
            self._known_views.clear()
        if self._products.shape[0] < rows or self._products.dtype != like.dtype:
            self._products = like.new_empty(rows, like.shape[1])
            self._known_views.clear()

    def _views(self, rows: int) -> tuple[Tensor, ...]:
        """Where the next values go. Kept, because a run tends to touch as many rows in each step."""
        key = (self._length, rows)
        if key not in self._known_views:
            if len(self._known_views) > _MOST_VIEWS:
                self._known_views.clear()
            place, values = self._slots.narrow(0, *key), self._values.narrow(1, *key)
            self._known_views[key] = (place, *values.unbind(), self._products.narrow(0, 0, rows))
        return self._known_views[key]


def scale_free_square(embedding: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """``|s|² = |R·g_tan|² = |x|²|g|² - <x, g>²``, and the gradient's length.

    Args:
        embedding: ``x``, ``[k, d]``.
        gradient: ``g``, ``[k, d]``.

    Returns:
        ``|s|²`` in float64 (float32 where the device has no float64) and ``|g|``, both ``[k]``.
    """
    embedding, gradient = at_least_float32(embedding), at_least_float32(gradient)
    length = safe_norm(gradient)
    return _scale_free_square(safe_norm(embedding), length, (embedding * gradient).sum(-1)), length


def _scale_free_square(norm: Tensor, length: Tensor, along: Tensor) -> Tensor:
    product, along = most_precise(norm) * length, most_precise(along)
    return torch.addcmul(product * product, along, along, value=-1).clamp_(min=0)
