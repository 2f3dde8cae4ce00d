"""Writes the history of a run: in a folder of its own, under a lock, in one line of time however often it resumes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from lightning_normdyn.atomic_file import remove_leftovers
from lightning_normdyn.core.object_checks import check_callable, check_path
from lightning_normdyn.file_lock import FileLock
from lightning_normdyn.history.checked_json import read_checked, write_checked
from lightning_normdyn.history.outage import Outage
from lightning_normdyn.history.part_log import PartLog
from lightning_normdyn.history.run_reader import QUANTITY_SCHEMA, TRAJECTORY
from lightning_normdyn.history.run_record import (
    ALERTS_FOLDER,
    FOLDER,
    LOCK_FILE,
    QUANTITIES_FOLDER,
    ROW_NAMES_FILE,
    RUN_FILE,
    TARGETS_FILE,
    TRAJECTORY_FOLDER,
    Bookmark,
    RunRecord,
    Stretch,
    list_runs,
)

Columns = Mapping[str, Sequence[Any] | NDArray[Any]]


class RunWriter:
    """Shared by all monitors of a run: each begins and ends it, the first and the last really do.

    A new run takes a folder that nobody has: ``<log_dir>/normdyn``, else ``normdyn-2`` and so on. A run that is resumed
    is known by its id, which its checkpoints carry, and goes on in its own folder, if that is in ``log_dir`` and a lock
    says that no other process writes there; else it is a new run with the other as its parent, whose line of time it
    continues. Trouble with the disk is said and never raised.

    Args:
        log_dir: the run's folder.
        inform: hears where the history is, if that is not ``<log_dir>/normdyn``; ``None`` where nobody does.

    Example:
        >>> import tempfile
        >>> from lightning_normdyn.history import read_run
        >>> writer = RunWriter(tempfile.mkdtemp())
        >>> writer.begin({"table": 0})
        >>> writer.target("table").append_quantities(10, {"norm_mean": 1.5})
        >>> writer.end()
        >>> read_run(writer.log_dir)["table"].quantities().to_pylist()
        [{'step': 10, 'quantity': 'norm_mean', 'value': 1.5}]
    """

    def __init__(self, log_dir: str | os.PathLike[str], *, inform: Callable[[str], object] | None = None) -> None:
        check_path("folder", log_dir=log_dir)
        check_callable("of a message", optional=True, inform=inform)
        self.log_dir = Path(log_dir)
        self.outage = Outage()
        self._inform = inform
        self._record: RunRecord | None = None
        self._lock: FileLock | None = None
        self._users = 0
        self._descriptions: dict[str, dict[str, Any]] = {}
        self._row_names: dict[str, dict[str, list[Any]]] = {}
        self._unwritten_files: set[str] = set()
        self._logs: dict[str, PartLog] = {}

    @property
    def root(self) -> Path:
        """The folder of the history."""
        return self._record.folder if self._record is not None else self.log_dir / FOLDER

    @property
    def run_id(self) -> str | None:
        """Of the run; ``None`` before it has begun."""
        return None if self._record is None else self._record.id

    @property
    def bookmark(self) -> Bookmark | None:
        """What a checkpoint is to carry; ``None`` before the run has begun."""
        if self._record is None:
            return None
        return Bookmark(self._record.id, len(self._record.stretches) - 1, str(self.root.absolute()))

    def begin(self, steps: Mapping[str, int], bookmark: Bookmark | None = None) -> None:
        """Takes the folder for a monitor.

        Args:
            steps: of each target of the monitor, how many steps were made; what the history has beyond them is an
                abandoned branch from now on.
            bookmark: out of the checkpoint that is resumed; ``None`` for a new run.
        """
        self._users += 1
        if self._users > 1:
            self._add_steps(steps)
            return
        stretch = _stretch(steps, None if bookmark is None else bookmark.stretch)
        try:
            self._record, self._lock = self._take_folder(bookmark, stretch)
        except OSError as error:
            self._record = RunRecord.new(self.log_dir / FOLDER, bookmark).going_on(stretch)
            self.outage.report(self.root, error)
        for log in self._logs.values():
            log.folder, log.stretch = self.root / log.folder.name, len(self._record.stretches) - 1
        if self.root.name != FOLDER and self._inform is not None:
            self._inform(
                f"normdyn history: '{self.log_dir / FOLDER}' holds another run's; this run's goes to '{self.root}'"
            )

    def target(self, name: str) -> TargetWriter:
        """What records one target.

        Args:
            name: any text.
        """
        return TargetWriter(self, name)

    def log(self, folder: str, schema: pa.Schema) -> PartLog:
        """A log of the run, the same for all that ask for it.

        Args:
            folder: its name.
            schema: its columns, but for the target's name.
        """
        if folder not in self._logs:
            stretch = 0 if self._record is None else len(self._record.stretches) - 1
            self._logs[folder] = PartLog(self.root / folder, schema, stretch=stretch, outage=self.outage)
        return self._logs[folder]

    def describe(self, target: str, description: Mapping[str, Any]) -> None:
        """Notes what is watched, for ``targets.json``; several monitors of one target each add theirs."""
        self._descriptions[target] = {**self._descriptions.get(target, {}), "target": target, **description}
        self._unwritten_files.add(TARGETS_FILE)

    def name_rows(self, target: str, names: Mapping[int, str]) -> None:
        """Notes row number to name, for ``row_names.json``; nothing where there are none."""
        if names:
            self._row_names[target] = {"rows": list(names), "names": list(names.values())}
            self._unwritten_files.add(ROW_NAMES_FILE)

    def flush(self) -> None:
        """Puts all that waits in memory on disk; trouble is reported, and it waits on."""
        if self._record is None or not (self._unwritten_files or any(log.waiting_rows for log in self._logs.values())):
            return
        self._keep_folder()
        self._write_files()
        for log in self._logs.values():
            log.flush()

    def end(self) -> None:
        """Ends the run for a monitor; with the last the history is complete, and the folder free."""
        self._users = max(0, self._users - 1)
        if self._users or self._record is None:
            return
        self.flush()
        if (self.root / RUN_FILE).exists():
            self._keep_folder()
        self.outage.conclude(sum(log.waiting_rows for log in self._logs.values()))
        with suppress(OSError):
            for log in self._logs.values():
                log.seal()
            if self._lock is not None and self._lock.is_held:
                self._record = self._record.ended()
                self._record.write()
        if self._lock is not None:
            self._lock.release()
        self._logs = {}

    def _take_folder(self, bookmark: Bookmark | None, stretch: Stretch) -> tuple[RunRecord, FileLock]:
        records = list_runs(self.log_dir)
        stretch = replace(stretch, order=1 + max((record.order for record in records), default=0))
        for record in records if bookmark is not None else []:
            lock = FileLock(record.folder / LOCK_FILE)
            if bookmark is not None and record.id == bookmark.run and lock.acquire() and lock.is_certain:
                return self._resume(record.folder, stretch), lock
        return self._make_folder(RunRecord.new(self.log_dir / FOLDER, bookmark), stretch)

    def _resume(self, folder: Path, stretch: Stretch) -> RunRecord:
        record = RunRecord.read(folder)  # again, now that nobody else can write it
        for name in ("", TRAJECTORY_FOLDER, QUANTITIES_FOLDER, ALERTS_FOLDER):
            remove_leftovers(folder / name)
        for name, schema in _SCHEMAS.items():
            PartLog(folder / name, schema, stretch=len(record.stretches) - 1).seal()  # that a kill left in small parts
        record = record.going_on(stretch)
        record.write()
        self._take_back_files(folder)
        return record

    def _take_back_files(self, folder: Path) -> None:
        """What was said of targets that are not watched any more stays."""
        with suppress(OSError, ValueError):
            targets = read_checked(folder / TARGETS_FILE).get("targets", [])
            self._descriptions = {target["target"]: target for target in targets} | self._descriptions
        with suppress(OSError, ValueError):
            self._row_names = read_checked(folder / ROW_NAMES_FILE) | self._row_names

    def _make_folder(self, record: RunRecord, stretch: Stretch) -> tuple[RunRecord, FileLock]:
        self.log_dir.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = self.log_dir / (FOLDER if number == 1 else f"{FOLDER}-{number}")
            try:
                folder.mkdir()  # exclusively: of two runs that try, one gets it
                break
            except FileExistsError:
                continue
        lock = FileLock(folder / LOCK_FILE)
        lock.acquire()
        record = replace(record, folder=folder, stretches=[]).going_on(stretch)
        record.write()
        return record, lock

    def _add_steps(self, steps: Mapping[str, int]) -> None:
        """Puts on record from where a further monitor's targets go on."""
        assert self._record is not None
        *earlier, present = self._record.stretches
        further = {
            target: min(step, present.steps.get(target, step))
            for target, step in ((storable(target), step) for target, step in steps.items())
            if step != present.step_of(target)
        }
        if not further:
            return
        present = replace(present, steps={**present.steps, **further})
        self._record = replace(self._record, stretches=[*earlier, present])
        try:
            self._record.write()
        except OSError as error:
            self.outage.report(self.root, error)

    def _keep_folder(self) -> None:
        """Makes sure that the folder is there and still this run's: somebody may have cleared or moved it."""
        assert self._record is not None
        if self._lock is not None and self._lock.is_held:
            return
        try:
            if self._lock is not None:
                self._lock.release()
            folder = self.root
            try:
                is_free = not folder.exists() or RunRecord.read(folder).id == self._record.id
            except (FileNotFoundError, ValueError):
                is_free = not any(folder.iterdir())
            lock = FileLock(folder / LOCK_FILE)
            if is_free:
                folder.mkdir(parents=True, exist_ok=True)
            if not is_free or not lock.acquire():
                self._record, lock = self._make_folder(self._record, self._record.stretches[-1])
            else:
                self._record.write()
            self._lock = lock
            self._unwritten_files = {TARGETS_FILE, ROW_NAMES_FILE}
            for log in self._logs.values():
                log.folder, log.stretch = self.root / log.folder.name, len(self._record.stretches) - 1
        except OSError as error:
            self.outage.report(self.root, error)

    def _write_files(self) -> None:
        contents: dict[str, dict[str, Any]] = {
            TARGETS_FILE: {"targets": list(self._descriptions.values())},
            ROW_NAMES_FILE: self._row_names,
        }
        try:
            for name in sorted(self._unwritten_files):
                if contents[name]:
                    write_checked(self.root / name, contents[name])
                self._unwritten_files.discard(name)
        except (OSError, TypeError, ValueError) as error:
            self.outage.report(self.root, error)


_SCHEMAS = {TRAJECTORY_FOLDER: TRAJECTORY, QUANTITIES_FOLDER: QUANTITY_SCHEMA}


class TargetWriter:
    """Records one target of a run.

    Args:
        run: the history of the run.
        name: of the target.
    """

    def __init__(self, run: RunWriter, name: str) -> None:
        self.run, self.name = run, storable(name)

    def describe(self, description: Mapping[str, Any]) -> None:
        """Notes what is watched."""
        self.run.describe(self.name, description)

    def name_rows(self, names: Mapping[int, str]) -> None:
        """Notes row number to name."""
        self.run.name_rows(self.name, names)

    def append_rows(self, columns: Columns) -> None:
        """Adds lines to the trajectory.

        Args:
            columns: of :data:`~lightning_normdyn.history.TRAJECTORY`, ``step`` and ``row`` at least.
        """
        self.run.log(TRAJECTORY_FOLDER, TRAJECTORY).append(self.name, columns)

    def append_quantities(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one line per scalar."""
        if values:
            columns: Columns = {"step": [step] * len(values), "quantity": list(values), "value": list(values.values())}
            self.run.log(QUANTITIES_FOLDER, QUANTITY_SCHEMA).append(self.name, columns)

    def flush(self) -> None:
        """Puts all that waits in memory, of every target, on disk."""
        self.run.flush()


def storable(name: str) -> str:
    """A name that UTF-8 can say: halves of surrogate pairs, which no text has, are written as escapes.

    Example:
        >>> storable("user/item"), storable(chr(0xDCFF)).isascii()
        ('user/item', True)
    """
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _stretch(steps: Mapping[str, int], origin: int | None) -> Stretch:
    """What begins now; the most frequent step is the rule, the others are exceptions."""
    counts: dict[int, int] = {}
    steps = {storable(target): step for target, step in steps.items()}
    for step in steps.values():
        counts[step] = counts.get(step, 0) + 1
    usual = max(counts, key=lambda step: counts[step], default=0)
    return Stretch.here(usual, {target: step for target, step in steps.items() if step != usual}, origin)
