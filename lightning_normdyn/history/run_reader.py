"""Reads the history of a run: what was recorded of each target, in the order of time, and what of it is damaged."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.object_checks import check_name
from lightning_normdyn.history.checked_json import read_checked
from lightning_normdyn.history.part import Part, grouped_parts, read_part
from lightning_normdyn.history.part_log import TARGET
from lightning_normdyn.history.run_record import (
    FOLDER,
    QUANTITIES_FOLDER,
    ROW_NAMES_FILE,
    TARGETS_FILE,
    TRAJECTORY_FOLDER,
    RunRecord,
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

_ATTEMPTS = 5
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
    is left out too: an abandoned branch, which ``stretch`` shows.

    Args:
        record: of the run.
        stretch: reads the history as it was before the run was resumed after this stretch, from 0; ``None`` for the
            present one.
        warn: hears of damage, a sentence each, once; ``None`` where nobody does.

    Attributes:
        record: of the run.
        damaged: what is wrong with what was left out, a sentence each, as far as it was read.
    """

    def __init__(
        self, record: RunRecord, *, stretch: int | None = None, warn: Callable[[str], object] | None = None
    ) -> None:
        self.record = record
        self.damaged: list[str] = []
        self._warn, self._last_stretch = warn, stretch
        self._sentences: set[str] = set()
        self._parts: dict[Path, _ReadPart] = {}
        self._lines: dict[str, _Lines] = {}
        self._descriptions: dict[str, dict[str, Any]] | None = None
        self._row_names: dict[str, dict[int, str]] | None = None
        self._note_record()

    def targets(self) -> dict[str, TargetHistory]:
        """Target name to its history, in alphabetical order."""
        names = set(self.descriptions())
        if not names or self.damaged:
            names |= self._lines_of(TRAJECTORY_FOLDER, TRAJECTORY, "row").targets
            names |= self._lines_of(QUANTITIES_FOLDER, QUANTITY_SCHEMA, "quantity").targets
        return {name: TargetHistory(self, name) for name in sorted(names)}

    def refresh(self) -> None:
        """Looks at the disk again the next time that something is read."""
        self.damaged = []
        self._lines, self._descriptions, self._row_names = {}, None, None
        self.record = record_in(self.record.folder)
        self._note_record()

    def descriptions(self) -> dict[str, dict[str, Any]]:
        """What was watched, by the name of the target."""
        if self._descriptions is None:
            targets = self._read(TARGETS_FILE).get("targets", [])
            self._descriptions = {str(description.get("target")): description for description in targets}
        return self._descriptions

    def row_names(self) -> dict[str, dict[int, str]]:
        """Row number to name, by the name of the target."""
        if self._row_names is None:
            content = self._read(ROW_NAMES_FILE)
            self._row_names = {
                target: dict(zip(entry["rows"], entry["names"], strict=True)) for target, entry in content.items()
            }
        return self._row_names

    def lines(self, log: str, schema: pa.Schema, key: str, target: str) -> pa.Table:
        """The lines of a target, sorted by step and key, one for each of both.

        Args:
            log: name of the folder of the log.
            schema: its columns, but for the target's name.
            key: the column that tells the lines of a step apart; empty to keep them all, as they were written.
            target: its name.
        """
        lines = self._lines_of(log, schema, key)
        return lines.table.slice(*lines.places.get(target, (0, 0))).select(schema.names)

    def all_lines(self, log: str, schema: pa.Schema) -> pa.Table:
        """All lines of a log, as they were written.

        Args:
            log: name of the folder of the log.
            schema: its columns, but for the target's name.
        """
        full_schema = pa.schema([TARGET, *schema])
        return self._concatenated(log, full_schema).select(["target", *schema.names])

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

    def _note_record(self) -> None:
        if self.record.damage:
            self._note(f"{self.record.damage}; what an earlier branch has beyond a resume is told by its steps alone")

    def _note(self, sentence: str) -> None:
        if sentence not in self.damaged:
            self.damaged.append(sentence)
        if sentence not in self._sentences:
            self._sentences.add(sentence)
            if self._warn is not None:
                self._warn(sentence)

    def _lines_of(self, log: str, schema: pa.Schema, key: str) -> _Lines:
        if log not in self._lines:
            self._lines[log] = _in_order(self._concatenated(log, pa.schema([TARGET, *schema])), key)
        return self._lines[log]

    def _concatenated(self, log: str, schema: pa.Schema) -> pa.Table:
        parts = self._live_parts(self.record.folder / log, schema)
        tables = [table for part in parts if len(table := self._cut(part, log, parts))]
        return pa.concat_tables([schema.empty_table(), *tables]).unify_dictionaries().combine_chunks()

    def _live_parts(self, folder: Path, schema: pa.Schema) -> list[_ReadPart]:
        """The sound parts, read; once more if the writer puts some together meanwhile."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                parts = [sound for group in grouped_parts(folder) for sound in self._sound(*group, schema)]
                break
            except FileNotFoundError:
                if attempt == _ATTEMPTS:
                    raise
        files = {part.part.file for part in parts}
        self._parts = {file: part for file, part in self._parts.items() if file in files or file.parent != folder}
        last = self._last_stretch
        return [part for part in parts if last is None or part.part.stretch <= last]

    def _sound(self, part: Part, narrower: Sequence[Part], schema: pa.Schema) -> list[_ReadPart]:
        """The part, or if it is damaged what it was made of, as far as that is still there."""
        reading = self._read_once(part, schema)
        if reading.table is not None:
            return [reading]
        self._note(reading.damage)
        return [sound for old in narrower for sound in self._sound(old, [], schema)]

    def _read_once(self, part: Part, schema: pa.Schema) -> _ReadPart:
        if part.file not in self._parts:
            try:
                self._parts[part.file] = _ReadPart(part, read_part(part, schema))
            except ValueError as error:
                self._parts[part.file] = _ReadPart(part, None, f"{error}; its rows are left out")
            except FileNotFoundError:
                raise
            except OSError as error:
                return _ReadPart(
                    part, None, f"history: '{part.file}' cannot be read ({error.strerror}); its rows are left out"
                )
        return self._parts[part.file]

    def _cut(self, part: _ReadPart, log: str, parts: Sequence[_ReadPart]) -> pa.Table:
        """The rows of a part up to the steps from which the run was resumed later."""
        assert part.table is not None
        targets = part.table.column("target").combine_chunks()
        targets = targets.chunk(0) if isinstance(targets, pa.ChunkedArray) and targets.num_chunks else targets
        if not len(part.table) or not self._later_stretches(part.part.stretch, parts):
            return part.table
        names = targets.dictionary.to_pylist()
        limits = np.array([self._limit(name, part.part.stretch, parts) for name in names])
        steps = part.table.column("step").to_numpy()
        live = steps <= limits[targets.indices.to_numpy(zero_copy_only=False)]
        return part.table if live.all() else part.table.filter(pa.array(live))

    def _later_stretches(self, stretch: int, parts: Sequence[_ReadPart]) -> bool:
        last = self._last_stretch
        known = len(self.record.stretches) - 1 if not self.record.damage else max(part.part.stretch for part in parts)
        return stretch < (known if last is None else min(known, last))

    def _limit(self, target: str, stretch: int, parts: Sequence[_ReadPart]) -> float:
        """The last step of a target that counts of what a stretch wrote."""
        if self.record.damage:
            return _first_step(target, [part.table for part in parts if part.part.stretch > stretch]) - 1
        end = None if self._last_stretch is None else self._last_stretch + 1
        return min(later.step_of(target) for later in self.record.stretches[stretch + 1 : end])


def _first_step(target: str, tables: Sequence[pa.Table | None]) -> float:
    steps = [table.column("step").to_numpy()[_is_of(table, target)] for table in tables if table is not None]
    return min((float(column.min()) for column in steps if len(column)), default=np.inf)


def _is_of(table: pa.Table, target: str) -> NDArray[np.bool_]:
    names = np.asarray(table.column("target").to_pylist(), dtype=object)
    return np.asarray(names == target, bool)


class _ReadPart(NamedTuple):
    """A part as it was read; without a table if it is damaged."""

    part: Part
    table: pa.Table | None
    damage: str = ""


class _Lines(NamedTuple):
    """A log in the order of targets, steps and keys; of each target where it begins and how many lines it has."""

    table: pa.Table
    places: Mapping[str, tuple[int, int]]

    @property
    def targets(self) -> set[str]:
        return set(self.places)


def _in_order(table: pa.Table, key: str) -> _Lines:
    """Sorts lines and merges those of one target, step and key: of each column the last value that was written.

    Two monitors of a run each write columns of their own.
    """
    if not len(table):
        return _Lines(table, {})
    names, target_ranks = _ranked(table.column("target"))
    keys = _ranked(table.column(key))[1] if pa.types.is_string(table.schema.field(key).type) else _numbers(table, key)
    steps = _numbers(table, "step")
    order = np.lexsort((keys, steps, target_ranks))
    columns = [column[order] for column in (target_ranks, steps, keys)]
    is_first = np.ones(len(table), bool)
    is_first[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    starts = np.flatnonzero(is_first)
    merged = table.take(pa.array(order)) if len(starts) == len(table) else _merged(table, order, is_first)
    ranks = columns[0][starts]
    bounds = np.searchsorted(ranks, np.arange(len(names) + 1))
    spans = zip(names, itertools.pairwise(bounds.tolist()), strict=True)
    places = {name: (start, end - start) for name, (start, end) in spans if end > start}
    return _Lines(merged, places)


def _merged(table: pa.Table, order: NDArray[np.int64], is_first: NDArray[np.bool_]) -> pa.Table:
    """One line of each group: of every column the last that is not null."""
    groups = np.cumsum(is_first) - 1
    columns = []
    for column in table.columns:
        has_value = column.is_valid().to_numpy()[order]
        lines = np.full(groups[-1] + 1, -1)
        lines[groups[has_value]] = order[has_value]
        columns.append(column.take(pa.array(lines, pa.int64(), mask=lines < 0)))
    return pa.Table.from_arrays(columns, schema=table.schema)


def _ranked(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int64]]:
    """The texts of a column in alphabetical order, and of each line which of them it has."""
    array = column.combine_chunks()
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    texts = array.dictionary.to_pylist()
    order = sorted(range(len(texts)), key=texts.__getitem__)
    ranks = np.empty(len(texts), np.int64)
    ranks[order] = np.arange(len(texts))
    return [texts[place] for place in order], ranks[array.indices.to_numpy(zero_copy_only=False)]


def _numbers(table: pa.Table, name: str) -> NDArray[np.int64]:
    numbers: NDArray[np.int64] = table.column(name).to_numpy()
    return numbers


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
