"""Base classes of everything that measures a target: cadences, and the hand-over of scalars and columns."""

from __future__ import annotations

from enum import Flag, auto
from typing import Any

from torch import Tensor

from lightning_normdyn.capture.layout import TableLayout
from lightning_normdyn.capture.scarce_step import ScarceStep
from lightning_normdyn.capture.table import TableStep
from lightning_normdyn.core.number_checks import check_count

Readings = dict[str, Tensor | float]
"""Quantity name to its value; tensors have no dimension and stay on their device until they are logged."""

Columns = dict[str, Tensor]
"""Column name to one value a row, ``[rows]``, for the trajectory on disk."""


class Need(Flag):
    """What an instrument wants to see of a step. Nothing means that the step costs nothing."""

    NOTHING = 0
    NORMS = auto()
    TOUCHED = auto()
    TRACKED = auto()


class Measurement:
    """A part of a watch. What it reads waits in ``_readings`` and ``_columns`` until the watch collects it.

    Holds its state in tensors and plain numbers alone.
    """

    def __init__(self) -> None:
        self._readings: Readings = {}
        self._columns: Columns = {}

    @property
    def has_news(self) -> bool:
        """Whether :meth:`collect` gives anything."""
        return bool(self._readings or self._columns)

    def collect(self) -> tuple[Readings, Columns]:
        """Scalars and columns read since the last call."""
        news = self._readings, self._columns
        self._readings, self._columns = {}, {}
        return news

    def finish(self, step: int) -> None:
        """Called once after the last step."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, strings, lists and dicts, for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""


class TableInstrument(Measurement):
    """Measures one table on the steps that it asks for."""

    def begin(self, step: int) -> None:
        """Called once before the first step it sees, after weights and state were restored; ``step`` came before."""

    def next_due(self, step: int) -> int:
        """The first step, from ``step`` on, that it may want to see."""
        raise NotImplementedError

    def need(self, step: int) -> Need:
        """What step number ``step`` (from 1) should show."""
        raise NotImplementedError

    def note_lr(self, lr: float) -> None:
        """Called after every step of the table, measured or not, with its nominal learning rate."""

    def note_rate(self, lr: float, radial_decay: float) -> None:
        """Called after every step of the table, measured or not, with its effective rate and its ``lambda_rad``."""

    def observe(self, step: int, table_step: TableStep) -> None:
        """Looks at a step it asked for."""
        raise NotImplementedError

    def scarce(self, step: int) -> Tensor | None:
        """The slots of rows that step number ``step`` is to show besides, each time that it touches them.

        Returns:
            A mask ``[tracked_rows + 1]``; ``None`` for none.
        """
        return None

    def observe_scarce(self, step: int, scarce_step: ScarceStep) -> None:
        """Looks at the rows that :meth:`scarce` asked for, before :meth:`observe`; keeps what it likes."""
        raise NotImplementedError

    def share(self, layout: TableLayout) -> Tensor:
        """This rank's share of numbers ``[n]`` that all ranks of a sharded table are to know of a step it asked for.

        Their sums are the ``further_sums`` of the step that it observes.
        """
        raise NotImplementedError

    def overhear(self, gradient: Tensor, slots: Tensor | None) -> None:
        """May look at gradients that others asked for, before they do; must cost next to nothing.

        Args:
            gradient: of touched rows, ``[k, d]``.
            slots: of these, ``[k]``; ``None`` if they are all the tracked rows in order.
        """


class CadencedInstrument(TableInstrument):
    """Measures one table on the first step and then every so many.

    Args:
        every_n_steps: cadence, in optimizer steps.
    """

    def __init__(self, every_n_steps: int) -> None:
        super().__init__()
        self.every_n_steps = check_every("every_n_steps", every_n_steps)

    def is_due(self, step: int) -> bool:
        """Whether step number ``step`` is measured."""
        return is_due(step, self.every_n_steps)

    def next_due(self, step: int) -> int:
        """The first step, and each of the cadence."""
        return 1 if step == 1 else next_multiple(step, self.every_n_steps)


def check_every(name: str, value: int) -> int:
    """Refuses a cadence that is not a positive whole number."""
    cadence: dict[str, Any] = {name: value}
    check_count(**cadence)
    return value


def is_due(step: int, every_n_steps: int) -> bool:
    """Whether a cadence falls on this step; the first step always counts, so that a run shows signs of life."""
    return step % every_n_steps == 0 or step == 1


def next_multiple(step: int, every_n_steps: int) -> int:
    """The first step, from ``step`` on, at which a cadence falls due.

    Example:
        >>> next_multiple(50, 50), next_multiple(51, 50)
        (50, 100)
    """
    return -(-step // every_n_steps) * every_n_steps
