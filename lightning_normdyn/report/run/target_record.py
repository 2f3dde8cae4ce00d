"""One target's history, read from disk into arrays: its description, trajectory, logged series, row names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lightning_normdyn.history import TargetHistory
from lightning_normdyn.report.run.trajectory import Trajectory, read_trajectory


@dataclass(frozen=True)
class TargetRecord:
    """One target's history, read into arrays.

    Attributes:
        name: the target, as the run named it.
        anchor: an HTML id that no other target of the page has.
        description: what ``targets.json`` holds of it.
        trajectory: norms and predictions per row, or per item of a probe; empty for an output without one.
        series: logged quantities by name.
        labels: names of the table's rows, all of them in order or some by row; None where none are known.
    """

    name: str
    anchor: str
    description: Mapping[str, Any]
    trajectory: Trajectory
    series: Mapping[str, Series]
    labels: Sequence[str] | Mapping[int, str] | None = None

    @property
    def is_table(self) -> bool:
        """Whether the target is a table, whose rows are embeddings; if not, it is an encoder or another submodule."""
        return bool(self.description.get("kind", "table") == "table")

    @property
    def members(self) -> str:
        """What the norms are of, in the plural."""
        return "rows" if self.is_table else "items"

    @property
    def last_step(self) -> int:
        """The latest step that the history holds; 0 where it holds none."""
        ends = [*self.trajectory.steps[-1:].tolist(), *(step for s in self.series.values() for step in s.steps[-1:])]
        return int(max(ends, default=0))

    @property
    def end_step(self) -> int:
        """The step at which training ends: as planned where the plan is known, else the latest one."""
        total = self.description.get("total_steps")
        if isinstance(total, (int, float)) and math.isfinite(total) and total > 0:
            return max(int(total), self.last_step)
        return self.last_step

    @property
    def finished(self) -> bool:
        """Whether the norms were seen at (nearly) the end of training, so that a forecast can be held against them."""
        latest: list[int] = self.trajectory.steps[-1:].tolist()
        return any(step >= 0.98 * self.end_step for step in latest)

    def row_name(self, row: int) -> str | None:
        """The name of a row of the table; None where it has none."""
        if isinstance(self.labels, Mapping):
            return self.labels.get(row)
        return self.labels[row] if self.labels is not None and 0 <= row < len(self.labels) else None

    def values(self, name: str) -> Series:
        """A logged quantity; empty where it was never logged."""
        return self.series.get(name, Series(np.empty(0, np.int64), np.empty(0)))


def read_record(name: str, history: TargetHistory, *, anchor: str, labels: Sequence[str] | None) -> TargetRecord:
    """Reads one target's history.

    Args:
        name: the target.
        history: its history on disk.
        anchor: an HTML id for it.
        labels: names of rows, taken if the target is a table with that many rows; else those of the history.
    """
    description = history.description()
    return TargetRecord(
        name=str(description.get("target", name)),
        anchor=anchor,
        description=description,
        trajectory=read_trajectory(history.trajectory()),
        series=read_series(history.quantities()),
        labels=labels if labels is not None and fits_labels(description, labels) else _stored_names(history),
    )


def latest_step(records: Sequence[TargetRecord]) -> int:
    """The latest step that any of the histories holds; 0 where none holds one."""
    return max((record.last_step for record in records), default=0)


def _stored_names(history: TargetHistory) -> Mapping[int, str] | None:
    """Names of rows that were recorded with the run; None for a history without any."""
    return history.row_names() or None


def fits_labels(description: Mapping[str, Any], labels: Sequence[str]) -> bool:
    """Whether a target is a table with as many rows as there are labels."""
    return description.get("kind", "table") == "table" and bool(description.get("rows", len(labels)) == len(labels))


class Series(NamedTuple):
    """One quantity at the steps at which it was finite, in order of step.

    Attributes:
        steps: training steps, ``[n]``.
        values: the quantity there, ``[n]``.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def last(self) -> float:
        """The latest finite value; NaN where there is none."""
        return float(self.values[-1]) if len(self.values) else float("nan")

    def thinned(self, points: int) -> Series:
        """Means over at most ``points`` runs of neighbouring entries, so that a long run stays a small drawing."""
        if len(self.steps) <= points:
            return self
        starts = np.linspace(0, len(self.steps), points, endpoint=False).astype(np.int64)
        counts = np.diff(np.append(starts, len(self.steps)))
        steps = np.add.reduceat(self.steps, starts) // counts
        return Series(steps, np.add.reduceat(self.values, starts) / counts)

    def smoothed(self) -> Series:
        """Running mean over about a twentieth of the entries; shorter windows at both ends, so that none is lost."""
        points = len(self.values) // 40 * 2 + 1
        counts = np.convolve(np.ones_like(self.values), np.ones(points), "same")
        return Series(self.steps, np.convolve(self.values, np.ones(points), "same") / counts)


def read_series(quantities: pa.Table) -> dict[str, Series]:
    """Sorts the long table of a history into one series per quantity.

    A step that was logged twice (a resumed run) counts as it was logged last; NaN and infinities are left out.

    Args:
        quantities: columns step, quantity, value.
    """
    names = np.asarray(quantities.column("quantity").to_pylist(), dtype=object)
    steps = quantities.column("step").to_numpy().astype(np.int64)
    values = quantities.column("value").to_numpy().astype(np.float64)
    return {name: _one_series(steps[names == name], values[names == name]) for name in sorted(set(names.tolist()))}


def _one_series(steps: NDArray[np.int64], values: NDArray[np.float64]) -> Series:
    latest = dict(zip(steps.tolist(), values.tolist(), strict=True))
    entries = sorted((step, value) for step, value in latest.items() if np.isfinite(value))
    return Series(np.array([step for step, _ in entries], np.int64), np.array([value for _, value in entries], float))
