"""Per-row gradient moments of an embedding table, streamed over steps."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import at_least_float32, most_precise, safe_norm
from lightning_normdyn.core.dynamics.row_readings import RowReading, RowReadings, read_rows
from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.object_checks import check_device, check_instance
from lightning_normdyn.core.tensor_checks import check_real_tensors, check_tensors

_TOUCHES, _SECOND_MOMENT, _FOURTH_MOMENT = range(3)


class RowMoments:
    """Streaming sums of the scale-free gradient ``s = R·g_tan`` of every tracked row.

    Holds 25 bytes a row, whatever the number of steps. The readings of the last few steps wait to be added up together:
    a step by itself is too small to be worth a dozen operations. Two sets of steps merge by addition, in any order.
    Rows are named by their slot, 0 to ``rows - 1``; slot ``rows`` swallows what belongs to no tracked row, so that no
    step has to select (and, on a GPU, wait).

    Args:
        rows: tracked rows.
        device: where the sums live; that of the table.
        cadences: every how many steps each row is read at least, 1 to 127, ``[rows]``: those that are touched too
            seldom to be read on some steps alone have a lower one, and :meth:`add_scarce` reads them, and no others, on
            the steps between. ``None`` where all are read in the same steps.

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

    def __init__(self, rows: int, device: torch.device | str | None = None, *, cadences: Tensor | None = None) -> None:
        check_count(0, rows=rows)
        check_device(device)
        if cadences is not None:
            check_tensors(cadences=cadences)
            if cadences.shape != (rows,):
                raise ValueError(f"cadences: expected one for each of {rows} rows, got {tuple(cadences.shape)}")
        self.rows = rows
        self.steps = 0
        self._sums = most_precise(torch.zeros(rows + 1, 3, device=device))
        self._nonfinite = torch.zeros((), dtype=torch.int64, device=device)
        self._cadences = None if cadences is None else cadences.to(torch.int8)
        self._scarce_steps: dict[int, int] = {}
        self._waiting = RowReadings(rows + 1)

    def scarce(self, every: int) -> Tensor:
        """The rows that are read every ``every`` steps or more often, a mask of slots ``[rows + 1]``."""
        is_scarce = self._sums.new_zeros(self.rows + 1, dtype=torch.bool)
        if self._cadences is not None:
            torch.le(self._cadences, every, out=is_scarce[:-1])
        return is_scarce

    def add(self, embedding: Tensor, gradient: Tensor, slots: Tensor | None = None) -> None:
        """Adds one step. A row with a NaN or infinite gradient adds nothing but a count.

        Args:
            embedding: rows before the step, ``[k, d]``.
            gradient: their gradients as the optimizer got them, ``[k, d]``.
            slots: the slot of each row, ``[k]``; a slot may occur twice if its rows are the same. ``None`` means all
                rows in order, ``k = rows``.
        """
        if not self._fit(embedding, gradient, slots):
            self._refuse(embedding, gradient, slots)
        self.add_reading(read_rows(embedding, gradient), None if slots is None else slots.clone())

    def add_reading(self, reading: RowReading, slots: Tensor | None = None) -> None:
        """Adds one step that was read before, as :meth:`add` does. Keeps the tensors: nobody may write to them.

        Args:
            reading: of the rows ``[k]``.
            slots: the slot of each row, ``[k]``; ``None`` means all rows in order.
        """
        self.steps += 1
        slots = torch.arange(self.rows, device=reading.norms.device) if slots is None else slots
        if self._has_room_for(slots):
            self._waiting.keep(reading, slots)

    def _has_room_for(self, slots: Tensor) -> bool:
        """Makes room for a step with these rows, if there are any."""
        rows = slots.numel()
        if rows and not self._waiting.has_room_for(rows):
            self._settle()
        return bool(rows)

    def _fit(self, embedding: object, gradient: object, slots: object) -> bool:
        """Whether they are rows with their gradients and slots, in no time."""
        if not (isinstance(embedding, Tensor) and isinstance(gradient, Tensor)):
            return False
        rows = self.rows
        if slots is not None:
            if not isinstance(slots, Tensor) or slots.is_floating_point():
                return False
            rows = slots.numel()
        floating = embedding.is_floating_point() and gradient.is_floating_point()
        return floating and embedding.ndim == 2 and embedding.shape[0] == rows and embedding.shape == gradient.shape

    def _refuse(self, embedding: object, gradient: object, slots: object) -> NoReturn:
        check_real_tensors(embedding=embedding, gradient=gradient)
        assert isinstance(embedding, Tensor)
        assert isinstance(gradient, Tensor)
        if slots is not None and (not isinstance(slots, Tensor) or slots.is_floating_point()):
            came = slots.dtype if isinstance(slots, Tensor) else type(slots).__name__
            raise ValueError(f"slots: expected a tensor of whole numbers, got {came}; torch.arange makes one")
        if embedding.ndim != 2 or embedding.shape != gradient.shape:
            raise ValueError(
                f"embedding, gradient: expected rows [k, d] with their gradients, got {tuple(embedding.shape)} and "
                f"{tuple(gradient.shape)}"
            )
        expectation = f"all {self.rows} rows" if slots is None else f"a row for each of {slots.numel()} slots"
        raise ValueError(
            f"embedding, gradient, slots: expected {expectation}, got {len(embedding)}; pass slots to say which"
        )

    def add_scarce(self, embedding: Tensor, gradient: Tensor, slots: Tensor, every: int = 1) -> None:
        """Adds one step of the rows that are :meth:`scarce`; arguments as for :meth:`add`, with no other rows in them.

        Keeps the tensors for a while: nobody may write to them any more.

        Args:
            embedding: rows before the step, ``[k, d]``.
            gradient: their gradients, ``[k, d]``.
            slots: the slot of each row, ``[k]``.
            every: the cadence that the step belongs to; rows of a longer one are not read.
        """
        self._scarce_steps[every] = self._scarce_steps.get(every, 0) + 1
        if self._has_room_for(slots):
            self._waiting.keep_unread(embedding, gradient, slots)

    def merge(self, other: RowMoments) -> None:
        """Adds the steps that another object saw, on another rank or in another stretch of the run.

        Raises:
            ValueError: if the two track different numbers of rows, or read them at different cadences.
        """
        check_instance(RowMoments, other=other)
        if other.rows != self.rows:
            raise ValueError(
                f"other: expected moments of {self.rows} rows, got {other.rows}; merge the same table only"
            )
        cadences = [moments._cadences for moments in (self, other) if moments._cadences is not None]
        if cadences and not (len(cadences) == 2 and torch.equal(cadences[0], cadences[1].to(cadences[0].device))):
            raise ValueError("other: expected rows that are read at the same cadences, got others; merge one window")
        self._settle()
        other._settle()
        self.steps += other.steps
        for every, steps in other._scarce_steps.items():
            self._scarce_steps[every] = self._scarce_steps.get(every, 0) + steps
        self._sums += other._sums.to(self._sums.device)
        self._nonfinite += other._nonfinite.to(self._nonfinite.device)

    def reset(self) -> None:
        """Forgets every step."""
        self.steps = 0
        self._scarce_steps.clear()
        self._waiting.take()
        self._sums.zero_()
        self._nonfinite.zero_()

    @property
    def readings(self) -> Tensor:
        """Steps in which each row was read, with a gradient or without, ``[rows]``."""
        readings = self._sums.new_full((self.rows,), self.steps)
        for every, steps in self._scarce_steps.items():
            readings.add_(self.scarce(every)[:-1], alpha=steps)
        return readings

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
        self._settle()
        return self._nonfinite

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers, for a checkpoint."""
        self._settle()
        return {
            "steps": self.steps,
            "scarce_steps": dict(self._scarce_steps),
            "sums": self._sums.clone(),
            "nonfinite": self._nonfinite.clone(),
            "cadences": self._cadences,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        self.reset()
        self.steps, self._scarce_steps = state["steps"], dict(state["scarce_steps"])
        self._sums.copy_(state["sums"])
        self._nonfinite.copy_(state["nonfinite"])
        cadences = state["cadences"]
        self._cadences = None if cadences is None else cadences.to(self._sums.device)

    def _settled(self) -> Tensor:
        self._settle()
        return self._sums[: self.rows]

    def _settle(self) -> None:
        """Adds up the readings that wait."""
        steps = self._waiting.take()
        if steps is None:
            return
        is_first = self._waiting.are_first(steps)
        second = _scale_free_square(steps.norms, steps.lengths, steps.products)
        is_finite = second < torch.inf
        self._nonfinite += (is_first & ~is_finite & (steps.slots < self.rows)).sum()
        counts = is_first & is_finite
        second = second.where(counts, 0)
        columns = ((counts & (steps.lengths > 0)).to(second.dtype), second, second.square())
        if steps.slots.device.type == "cpu":
            for total, column in zip(self._sums.unbind(1), columns, strict=True):
                total.index_add_(0, steps.slots, column)
            return
        # Elsewhere additions have no order; those of one step to one row are of zeros, all but one.
        parts = torch.stack(columns, dim=1).split(steps.sizes)
        for slots, part in zip(steps.slots.split(steps.sizes), parts, strict=True):
            self._sums.index_add_(0, slots, part)


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
