"""Reads the history of a run: what was recorded of each target, in the order of time, and what of it is damaged."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.object_checks import check_name
from lightning_normdyn.history.checked_json import read_checked
from lightning_normdyn.history.log_lines import LogLines, with_columns
from lightning_normdyn.history.log_reader import Branch, LogReader, up_to
from lightning_normdyn.history.part_log import TARGET
from lightning_normdyn.history.run_record import (
    FOLDER,
    QUANTITIES_FOLDER,
    ROW_NAMES_FILE,
    TARGETS_FILE,
    TRAJECTORY_FOLDER,
    RunRecord,
    find_parent,
    has_old_history,
    list_runs,
    old_history,
    record_in,
)

TRAJECTORY = pa.schema(
    [
        ("step", pa.int64()),
        ("row", pa.int64()),
        ("norm", pa.float32()),
        # Filled at the end of a fit window alone, null elsewhere:
        ("second_moment", pa.float32()),
        ("second_moment_stderr", pa.float32()),
        ("update_probability", pa.float32()),
        ("kurtosis", pa.float32()),
        ("mean_norm", pa.float32()),
        ("norm_width", pa.float32()),
        ("equilibrium_norm_stderr", pa.float32()),
        ("equilibrium_gap_stderr", pa.float32()),
        ("equilibrium_norm", pa.float32()),
        ("transient_norm", pa.float32()),
        ("forecast_norm", pa.float32()),
        # Of the probe items of an encoder:
        ("radial_decay", pa.float32()),
        ("radial_decay_stderr", pa.float32()),
        ("drift", pa.float32()),
        ("drift_stderr", pa.float32()),
        ("growth", pa.float32()),
        ("growth_stderr", pa.float32()),
        ("angular_update", pa.float32()),
        ("variance_norm", pa.float32()),
        ("drift_norm", pa.float32()),
        ("balance_norm", pa.float32()),
    ]
)
"""One line per tracked row or probe item and snapshot: the norm, and at a fit what went into it and came of it."""

QUANTITY_SCHEMA = pa.schema([("step", pa.int64()), ("quantity", pa.string()), ("value", pa.float64())])
"""One line per logged scalar: the same values that went to the loggers."""

_Content = TypeVar("_Content")


class TargetHistory:
    """What a run recorded of one target.

    Args:
        reader: of the run.
        name: of the target.
    """

    def __init__(self, reader: RunReader, name: str) -> None:
        self._reader = reader
        self.name = name

    def description(self) -> dict[str, Any]:
        """What was watched: kind, rows, dim, lr, optimizer, law and so on; empty if that is damaged."""
        return dict(self._reader.descriptions().get(self.name, {}))

    def row_names(self) -> dict[int, str]:
        """Row number to name, for the rows of a table that were tracked; empty for none."""
        return self._reader.row_names().get(self.name, {})

    def trajectory(self) -> pa.Table:
        """The trajectory by step and row (columns of :data:`TRAJECTORY`)."""
        return self._reader.lines(TRAJECTORY_FOLDER, TRAJECTORY, "row", self.name)

    def quantities(self) -> pa.Table:
        """The logged scalars by step (columns of :data:`QUANTITY_SCHEMA`)."""
        return self._reader.lines(QUANTITIES_FOLDER, QUANTITY_SCHEMA, "quantity", self.name)


class RunReader:
    """Reads a history, once or again and again while it grows: each part once.

    A damaged part is left out and said, and the rest is read. What lies beyond the step from which the run was resumed
    is left out too: an abandoned branch, which ``stretch`` shows. A run that began from another's checkpoint in a
    folder of its own goes on from what that had recorded, as long as its folder is found.

    Args:
        record: of the run.
        stretch: reads the history as it was before the run was resumed after this stretch, from 0; ``None`` for the
            present one.
        warn: hears of damage, a sentence each, once; ``None`` where nobody does.
        heirs: ids of runs that go on from this one.

    Attributes:
        record: of the run.
    """

    def __init__(
        self,
        record: RunRecord,
        *,
        stretch: int | None = None,
        warn: Callable[[str], object] | None = None,
        heirs: frozenset[str] = frozenset(),
    ) -> None:
        self.record = record
        self._warn, self._last_stretch, self._heirs = warn, stretch, heirs
        self._damaged: list[str] = []
        self._sentences: set[str] = set()
        self._logs: dict[str, LogReader] = {}
        self._lines: dict[str, LogLines] = {}
        self._descriptions: dict[str, dict[str, Any]] | None = None
        self._row_names: dict[str, dict[int, str]] | None = None
        self._parent: RunReader | None = None
        self._begin()

    @property
    def damaged(self) -> list[str]:
        """What is wrong with what was left out, a sentence each, as far as it was read."""
        return self._damaged + (self._parent.damaged if self._parent is not None else [])

    def targets(self) -> dict[str, TargetHistory]:
        """Target name to its history, in alphabetical order."""
        names = set(self.descriptions())
        if not names or self.damaged:
            names.update(self._lines_of(TRAJECTORY_FOLDER, TRAJECTORY, "row").places)
            names.update(self._lines_of(QUANTITIES_FOLDER, QUANTITY_SCHEMA, "quantity").places)
        return {name: TargetHistory(self, name) for name in sorted(names)}

    def refresh(self) -> None:
        """Looks at the disk again the next time that something is read."""
        self._damaged = []
        self._lines, self._descriptions, self._row_names = {}, None, None
        self.record = record_in(self.record.folder)
        self._begin()

    def descriptions(self) -> dict[str, dict[str, Any]]:
        """What was watched, by the name of the target."""
        if self._descriptions is None:
            targets = self._read(TARGETS_FILE).get("targets", [])
            inherited = self._parent.descriptions() if self._parent is not None else {}
            self._descriptions = inherited | {str(description.get("target")): description for description in targets}
        return self._descriptions

    def row_names(self) -> dict[str, dict[int, str]]:
        """Row number to name, by the name of the target."""
        if self._row_names is None:
            inherited = self._parent.row_names() if self._parent is not None else {}
            self._row_names = inherited | {
                target: dict(zip(entry["rows"], entry["names"], strict=True))
                for target, entry in self._read(ROW_NAMES_FILE).items()
            }
        return self._row_names

    def lines(self, log: str, schema: pa.Schema, key: str, target: str) -> pa.Table:
        """The lines of a target, sorted by step and key, one for each of both.

        Args:
            log: name of the folder of the log.
            schema: its columns, but for the target's name.
            key: the column that tells the lines of a step apart.
            target: its name.
        """
        return self._lines_of(log, schema, key).of_target(target, schema)

    def all_lines(self, log: str, schema: pa.Schema) -> pa.Table:
        """All lines of a log, as they were written.

        Args:
            log: name of the folder of the log.
            schema: its columns, but for the target's name.
        """
        return with_columns(self._lines_of(log, schema, "").table, pa.schema([TARGET, *schema]))

    def checked(self, read: Callable[[Path], _Content]) -> _Content | None:
        """What is read of the folder; ``None`` if it is damaged, which is said.

        Args:
            read: called with the folder.
        """
        try:
            return read(self.record.folder)
        except (OSError, ValueError) as error:
            self._note(str(error))
            return None

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return read_checked(self.record.folder / name)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self._note(str(error))
            return {}

    def _begin(self) -> None:
        record = self.record
        if record.damage:
            self._note(f"{record.damage}; what an earlier branch has beyond a resume is told by its steps alone")
        if not record.parent or not record.first_step:
            self._parent = None
        elif self._parent is None or self._parent.record.id != record.parent:  # else it is as it was
            self._parent = self._find_parent()

    def _find_parent(self) -> RunReader | None:
        """Reads the run from whose checkpoint this one began, as it was when that was written."""
        parent, record = find_parent(self.record), self.record
        if parent is None:
            place = f" in '{record.parent_folders[-1]}'" if record.parent_folders else ""
            self._note(
                f"history: '{record.folder}' goes on from step {record.first_step} of run {str(record.parent)[:8]}, "
                f"which is not found{place}, so what came before is left out; put its folder back, or beside this one"
            )
            return None
        if parent.id in self._heirs:
            return None  # two that claim to go on from each other
        origin = record.stretches[0].origin
        known = None if origin is None or origin >= len(parent.stretches) else origin
        return RunReader(parent, stretch=known, warn=self._warn, heirs=self._heirs | {record.id})

    def _note(self, sentence: str) -> None:
        if sentence not in self._damaged:
            self._damaged.append(sentence)
        if sentence not in self._sentences:
            self._sentences.add(sentence)
            if self._warn is not None:
                self._warn(sentence)

    def _lines_of(self, log: str, schema: pa.Schema, key: str) -> LogLines:
        if log not in self._lines:
            if log not in self._logs:
                self._logs[log] = LogReader(self.record.folder / log, pa.schema([TARGET, *schema]), key)
            branch = Branch.of(self.record, self._last_stretch)
            self._lines[log] = self._logs[log].lines(branch, lambda: self._inherited(log, schema, key), self._note)
        return self._lines[log]

    def _inherited(self, log: str, schema: pa.Schema, key: str) -> list[pa.Table]:
        """What the runs before had recorded up to where this one began; they forget it, as it is here now."""
        parent = self._parent
        if parent is None:
            return []
        table = up_to(parent._lines_of(log, schema, key).table, self.record.stretches[0].step_of)
        del parent._lines[log], parent._logs[log]
        return [table]


def read_run(
    log_dir: str | os.PathLike[str], *, run: str | None = None, stretch: int | None = None
) -> dict[str, TargetHistory]:
    """Finds every target that a run recorded.

    Damaged parts are left out with a warning that names them.

    Args:
        log_dir: the run's folder, which holds ``normdyn/``; or such a history itself.
        run: id of a run, or the name of its folder, such as ``normdyn-2``, where several lie there; by default the one
            that was begun or resumed last. :func:`list_runs` lists them.
        stretch: reads what was recorded before the run was resumed after this stretch, from 0: an abandoned branch.

    Returns:
        Target name to its history, in alphabetical order.

    Raises:
        FileNotFoundError: if no target was recorded there, or not by that run.
        ValueError: if the run has no such stretch.
    """
    record = find_record(log_dir, run)
    if stretch is not None:
        check_count(0, stretch=stretch)
    if stretch is not None and not 0 <= stretch < max(1, len(record.stretches)):
        raise ValueError(
            f"stretch: expected one of {len(record.stretches)} from 0, got {stretch!r}; one begins whenever a run is "
            "resumed"
        )
    targets = RunReader(record, stretch=stretch, warn=_warn).targets()
    if not targets:
        raise _absent(log_dir)
    return targets


def find_record(log_dir: str | os.PathLike[str], run: str | None = None) -> RunRecord:
    """The record of a run, by default of the one that was begun or resumed last.

    Args:
        log_dir: as :func:`read_run` takes it.
        run: likewise.

    Raises:
        FileNotFoundError: if there is none; the message names those that there are.
    """
    if run is not None:
        check_name(run=run)
    records = list_runs(log_dir)
    if not records:
        raise _absent(log_dir)
    matches = [record for record in records if run is None or record.folder.name == run or _has_id(record, run)]
    if not matches:
        runs = "; ".join(map(str, records))
        raise FileNotFoundError(f"run: expected one of those in '{log_dir}', got {run!r}; there are: {runs}")
    return matches[0]


def _has_id(record: RunRecord, start: str) -> bool:
    return len(start) >= 4 and record.id.startswith(start)


def _absent(log_dir: str | os.PathLike[str]) -> FileNotFoundError:
    if has_old_history(log_dir):
        return FileNotFoundError(f"log_dir: {old_history(log_dir)}")
    return FileNotFoundError(
        f"log_dir: no norm history under '{Path(log_dir) / FOLDER}'; expected the folder of a run that trained with "
        "NormDynamics or NormTrajectoryMonitor"
    )


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)
