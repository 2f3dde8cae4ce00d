"""Per-row gradient moments of an embedding table, streamed over steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.geometry import at_least_float32, most_precise, safe_norm

_TOUCHES, _SECOND_MOMENT, _NONFINITE = range(3)
_MOST_WAITING = 8_192


class _Reading(NamedTuple):
    """What one step says about the rows it touched: their slots, ``|x|``, ``|g|`` and ``<x, g>``, all ``[k]``."""

    slots: Tensor | None
    norm: Tensor
    length: Tensor
    along: Tensor


class RowMoments:
    """Streaming sums of the scale-free gradient ``s = R·g_tan`` of every tracked row.

    Holds 24 bytes a row, whatever the number of steps, and some 160 kB of readings that wait to be added up together:
    a step by itself is too small to be worth a dozen operations. Two sets of steps merge by addition, in any order.
    Rows are named by their slot, 0 to ``rows - 1``; slot ``rows`` swallows what belongs to no tracked row, so that no
    step has to select (and, on a GPU, wait).

    Args:
        rows: tracked rows.
        device: where the sums live; that of the table.

    Example:
        >>> moments = RowMoments(2)
        >>> x, g = torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 3.0]])
        >>> moments.add(x, g, slots=torch.tensor([1]))  # tangential 3 at norm 2: |s|² = 36
        >>> moments.add(x, g * 0, slots=torch.tensor([1]))
        >>> [round(value, 3) for value in moments.second_moment.tolist()], moments.update_probability.tolist()
        ([0.0, 18.0], [0.0, 0.5])
    """

    def __init__(self, rows: int, device: torch.device | str | None = None) -> None:
        self.rows = rows
        self.steps = 0
        self._sums = most_precise(torch.zeros(rows + 1, 3, device=device))
        self._waiting: list[_Reading] = []
        self._rows_waiting = 0
        self._product = torch.empty(0)

    def add(self, embedding: Tensor, gradient: Tensor, slots: Tensor | None = None) -> None:
        """Adds one step. A row with a NaN or infinite gradient adds nothing but a count.

        Args:
            embedding: rows before the step, ``[k, d]``.
            gradient: their gradients as the optimizer got them, ``[k, d]``.
            slots: the slot of each row, ``[k]``; a slot may occur twice if its rows are the same. It is kept for a
                while and must not be overwritten. ``None`` means all rows in order, ``k = rows``.
        """
        self.steps += 1
        if not len(gradient):
            return
        embedding, gradient = at_least_float32(embedding), at_least_float32(gradient)
        product = torch.mul(embedding, gradient, out=self._room(embedding))
        self._waiting.append(_Reading(slots, safe_norm(embedding), safe_norm(gradient), product.sum(-1)))
        self._rows_waiting += len(gradient)
        if self._rows_waiting >= _MOST_WAITING:
            self._settle()

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
        self._sums += other._sums.to(self._sums.device)

    def reset(self) -> None:
        """Forgets every step."""
        self.steps = 0
        self._waiting, self._rows_waiting = [], 0
        self._sums.zero_()

    @property
    def second_moment(self) -> Tensor:
        """``V² = E|s|²``, absent steps counted as zero, ``[rows]``."""
        return self._settled()[:, _SECOND_MOMENT] / max(self.steps, 1)

    @property
    def update_probability(self) -> Tensor:
        """Share of steps in which the row got a gradient, ``[rows]``."""
        return self._settled()[:, _TOUCHES] / max(self.steps, 1)

    @property
    def nonfinite(self) -> Tensor:
        """How often a row's gradient was NaN or infinite, over all rows; no dimension."""
        return self._settled()[:, _NONFINITE].sum()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers, for a checkpoint."""
        self._settle()
        return {"steps": self.steps, "sums": self._sums.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        self.reset()
        self.steps = state["steps"]
        self._sums.copy_(state["sums"])

    def _room(self, like: Tensor) -> Tensor:
        """Memory of this shape that is kept: on a CPU, fresh memory may take longer to get than to fill."""
        if len(self._product) < len(like) or self._product.dtype != like.dtype:
            self._product = torch.empty_like(like, memory_format=torch.contiguous_format)
        return self._product[: len(like)]

    def _settled(self) -> Tensor:
        self._settle()
        return self._sums[: self.rows]

    def _settle(self) -> None:
        """Adds up the readings that wait."""
        if not self._waiting:
            return
        norms, lengths, alongs = (torch.cat(values) for values in list(zip(*self._waiting, strict=True))[1:])
        second = _scale_free_square(norms, lengths, alongs)
        finite = second < torch.inf
        added = torch.stack(((lengths > 0) & finite, second.where(finite, 0), ~finite), dim=1)
        for reading, step in zip(self._waiting, added.split([len(r.length) for r in self._waiting]), strict=True):
            if reading.slots is None:
                self._sums[: self.rows] += step
            else:
                # Copying, not adding: a row named twice in a step then counts once, with no need to find duplicates.
                kept = self._sums.index_select(0, reading.slots)
                self._sums.index_copy_(0, reading.slots, kept.add_(step))
        self._waiting, self._rows_waiting = [], 0


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
    whole, along = most_precise(norm) * length, most_precise(along)
    return torch.addcmul(whole * whole, along, along, value=-1).clamp_(min=0)
