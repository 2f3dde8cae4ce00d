"""Who wrote a history: ``run.json``, and the runs that lie in one folder."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from lightning_normdyn._version import __version__
from lightning_normdyn.core.object_checks import check_path
from lightning_normdyn.file_lock import is_locked
from lightning_normdyn.history.checked_json import read_checked, write_checked
from lightning_normdyn.passwords import without_passwords

FOLDER = "normdyn"
RUN_FILE, LOCK_FILE, TARGETS_FILE, ROW_NAMES_FILE = "run.json", "lock", "targets.json", "row_names.json"
TRAJECTORY_FOLDER, QUANTITIES_FOLDER, ALERTS_FOLDER = "trajectory", "quantities", "alerts"
_FOLDER_NAME = re.compile(rf"{FOLDER}(-\d+)?")


class Bookmark(NamedTuple):
    """Where a run stood when a checkpoint was written, which carries it.

    Attributes:
        run: id of the run.
        stretch: number of the stretch that wrote it, from 0; ``None`` where that is unknown.
        folder: of the history, absolute; ``None`` where that is unknown.
    """

    run: str
    stretch: int | None = None
    folder: str | None = None


@dataclass(frozen=True)
class Stretch:
    """What one process wrote of a run, without a break.

    Attributes:
        step: the optimizer step that it went on from: what earlier stretches have beyond it is an abandoned branch.
        steps: the same of targets whose steps differ, by name.
        start: seconds since 1970.
        host: name of the machine.
        boot: what tells the machine's present start from others; empty where that is unknown.
        process: number on that machine; of use to people alone, as another container may count otherwise.
        command: that was run.
        origin: number of the stretch that it went on from, of the parent for a run's first; ``None`` where that is
            unknown, and then it is the one before, of the parent the last.
        order: of all stretches in the log folder, up from 1: clocks may be set back.
    """

    step: int = 0
    steps: Mapping[str, int] = field(default_factory=dict)
    start: float = 0.0
    host: str = ""
    boot: str = ""
    process: int = 0
    command: str = ""
    origin: int | None = None
    order: int = 0

    @classmethod
    def here(cls, step: int, steps: Mapping[str, int], origin: int | None = None) -> Stretch:
        """Of this process, from now on."""
        return cls(step, dict(steps), time.time(), platform.node(), _boot(), os.getpid(), _command(), origin)

    def step_of(self, target: str) -> int:
        """The step of a target that it went on from."""
        return self.steps.get(target, self.step)


@dataclass(frozen=True)
class RunRecord:
    """A run in a folder.

    Attributes:
        folder: ``<log_dir>/normdyn``, or ``normdyn-2`` and so on where it was not the first.
        id: of the run, which its checkpoints carry.
        parent: id of the run from whose checkpoint it began in a folder of its own; ``None`` if it did not.
        parent_folders: where that run's history lay: from this folder, which holds if both are moved, and absolutely.
        stretches: what wrote it, oldest first; more than one if it was resumed.
        end: when it was complete, in seconds since 1970; ``None`` if it goes on or was killed.
        version: of this package.
        damage: why ``run.json`` could not be read, so that nothing but the folder is known; empty if it could.
    """

    folder: Path
    id: str
    parent: str | None = None
    parent_folders: Sequence[str] = ()
    stretches: Sequence[Stretch] = ()
    end: float | None = None
    version: str = __version__
    damage: str = ""

    @classmethod
    def new(cls, folder: Path, parent: Bookmark | None) -> RunRecord:
        """A run that no folder has yet, from a checkpoint of another or from the start."""
        if parent is None:
            return cls(folder, uuid.uuid4().hex)
        return cls(folder, uuid.uuid4().hex, parent.run, _ways(folder, parent.folder) if parent.folder else ())

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Reads the record of a history.

        Raises:
            ValueError: if it is damaged.
            OSError: if there is none, or it cannot be read.
        """
        content = read_checked(folder / RUN_FILE)
        stretches = [Stretch(**stretch) for stretch in content.pop("stretches")]
        return cls(folder=folder, stretches=stretches, **content)

    def write(self) -> None:
        """Puts it into its folder.

        Raises:
            OSError: if that cannot be written.
        """
        content = asdict(self)
        write_checked(self.folder / RUN_FILE, {name: content[name] for name in _ENTRIES})

    def lineage(self, last: int | None = None) -> list[int]:
        """Numbers of the stretches that lead up to one, itself included, oldest first: the others are branches.

        Args:
            last: its number; ``None`` for the latest.
        """
        numbers = [len(self.stretches) - 1 if last is None else last] if self.stretches else []
        while numbers and numbers[-1] > 0:
            origin, before = self.stretches[numbers[-1]].origin, numbers[-1] - 1
            numbers.append(before if origin is None else min(origin, before))
        return numbers[::-1]

    @property
    def first_step(self) -> int:
        """The step of the parent's checkpoint; 0 for a run that began at its start."""
        first = self.stretches[0] if self.stretches else Stretch()
        return max(first.step, *first.steps.values(), 0)

    def going_on(self, stretch: Stretch) -> RunRecord:
        """The record with one stretch more, which has not ended."""
        return replace(self, stretches=[*self.stretches, stretch], end=None)

    def ended(self) -> RunRecord:
        """The record of a run that is complete now."""
        return replace(self, end=time.time())

    @property
    def start(self) -> float:
        """When it was begun or resumed last, in seconds since 1970."""
        if self.stretches:
            return self.stretches[-1].start
        try:
            return self.folder.stat().st_mtime
        except OSError:
            return 0.0

    @property
    def order(self) -> int:
        """Of its latest stretch among all in the log folder; 0 where that is unknown."""
        return self.stretches[-1].order if self.stretches else 0

    @property
    def has_writer(self) -> bool | None:
        """Whether some process writes to it now; ``None`` where that cannot be told, as from another machine."""
        is_held = is_locked(self.folder / LOCK_FILE)
        is_here = bool(self.stretches) and self.stretches[-1].boot == _boot() != ""
        return is_held if is_held or is_here else None

    def __str__(self) -> str:
        """One line: where it is, when it began and what became of it."""
        state = "complete" if self.end is not None else "being written" if self.has_writer else "broken off"
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.start))
        resumed = f", resumed {len(self.stretches) - 1} times" if len(self.stretches) > 1 else ""
        origin = f", goes on from step {self.first_step} of run {self.parent[:8]}" if self.parent else ""
        return f"{self.folder.name} (run {self.id[:8]}, {day}, {state}{resumed}{origin})"


_ENTRIES = ("id", "parent", "parent_folders", "stretches", "end", "version")


def find_parent(record: RunRecord) -> RunRecord | None:
    """The run from whose checkpoint another began: where it lay, else beside it or in a folder beside its own.

    Args:
        record: of the run that went on.

    Returns:
        ``None`` if that has no parent, or it is not found.
    """
    if record.parent is None:
        return None
    for folder in _parent_places(record):
        if (folder / RUN_FILE).is_file() and (parent := record_in(folder)).id == record.parent:
            return parent
    return None


def _parent_places(record: RunRecord) -> Iterator[Path]:
    yield from (record.folder / place for place in record.parent_folders)
    log_dir = record.folder.resolve().parent
    yield from sorted(log_dir.glob(f"{FOLDER}*"))
    yield from sorted(log_dir.parent.glob(f"*/{FOLDER}*"))


def _ways(folder: Path, goal: str) -> tuple[str, ...]:
    """A path from a folder and the absolute one."""
    absolute = os.path.realpath(goal)
    try:
        return os.path.relpath(absolute, os.path.realpath(folder)), absolute
    except ValueError:  # on another drive
        return (absolute,)


def list_runs(log_dir: str | os.PathLike[str]) -> list[RunRecord]:
    """The runs whose histories lie in a folder, the one that began or was resumed last first.

    Args:
        log_dir: the folder that was given to the logger, or the history of one run, such as ``<log_dir>/normdyn-2``.

    Example:
        >>> list_runs("no such folder")
        []
    """
    check_path("folder", log_dir=log_dir)
    place = Path(log_dir)
    if (place / RUN_FILE).is_file():
        return [record_in(place)]
    if not place.is_dir():
        return []
    folders = [folder for folder in place.iterdir() if _FOLDER_NAME.fullmatch(folder.name) and _is_history(folder)]
    records = [record_in(folder) for folder in folders]
    if all(record.order for record in records):
        return sorted(records, key=lambda record: (record.order, record.start), reverse=True)
    return sorted(records, key=lambda record: record.start, reverse=True)


def has_old_history(log_dir: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a history as development versions wrote them, which cannot be read any more."""
    return next(Path(log_dir).glob(f"{FOLDER}*/*/target.json"), None) is not None


def old_history(log_dir: str | os.PathLike[str]) -> str:
    """What is said of a folder that :func:`has_old_history`, and what to do."""
    return (
        f"the norm history in '{log_dir}' was written by an earlier development version, whose files this one does not "
        "read; read it with that version, or train again"
    )


def _is_history(folder: Path) -> bool:
    return (folder / RUN_FILE).is_file() or any(
        (folder / name).is_dir() for name in (TRAJECTORY_FOLDER, QUANTITIES_FOLDER)
    )


def record_in(folder: Path) -> RunRecord:
    """The record of a history; one that says no more than where it is and why, if it cannot be read.

    Args:
        folder: of the history.
    """
    try:
        return RunRecord.read(folder)
    except (OSError, TypeError, ValueError, KeyError) as error:
        return RunRecord(folder, id="", damage=str(error))


def _command() -> str:
    """What was typed, passwords left out."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv and sys.argv[0] else []
    return without_passwords(shlex.join(words))[:1000]


def _boot() -> str:
    """What all containers of a machine share from one start of it to the next."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
