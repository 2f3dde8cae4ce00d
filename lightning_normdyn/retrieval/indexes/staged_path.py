"""Atomic output: a file or folder is written in a temporary place and moved to its path in one step."""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from lightning_normdyn.atomic_file import leftovers_of, make_temporary, remove_leftovers, sync_folder, write_json
from lightning_normdyn.caution import caution
from lightning_normdyn.datasets.storage_place import is_url
from lightning_normdyn.file_lock import FileLock, is_locked

_LONGEST_NAME = 230  # that of the folder for the time being, which has some letters more, must fit too


class StagedPath:
    """A temporary path on the disk of the final one, so that moving it into place is one step.

    Args:
        place: the file or folder that is to be.
        overwrite: whether one that is there may be replaced.
        folder: whether it is a folder; a file never replaces one.
        resume_key: of this export; what a killed one of the same key had written is taken over.

    Attributes:
        rows_done: rows that the killed one had put on the disk; 0 for a fresh start.
        state: that it had noted with them.

    Raises:
        FileExistsError: if there is one and it may not.
        IsADirectoryError: if there is a folder where a file is to be.
        NotADirectoryError: if what should hold it is a file.
        OSError: if nothing can be written there.

    Example:
        >>> place = Path(tempfile.mkdtemp()) / "made" / "numbers.txt"
        >>> staged = StagedPath(place, overwrite=False)
        >>> staged.path.write_text("1 2 3")
        5
        >>> place.exists()
        False
        >>> staged.publish()
        >>> place.read_text(), [file.name for file in place.parent.iterdir()]
        ('1 2 3', ['numbers.txt'])
    """

    def __init__(self, place: Path, *, overwrite: bool, folder: bool = False, resume_key: str | None = None) -> None:
        check_staged_place(place, overwrite=overwrite, folder=folder)
        self.place, self._overwrite, self._key = place, overwrite, resume_key
        self._new_folders = _make_folders(place.parent)
        killed = None if resume_key is None else _killed_export(place, resume_key)
        _clear_leftovers(place)
        self._lock = make_temporary(place, folder=True) if killed is None else killed
        self._folder = self._lock.path
        self.path = self._folder / place.name
        journal = {} if killed is None else _journal(self._folder)
        self.rows_done: int = journal.get("rows", 0)
        self.state: dict[str, int] = journal.get("state", {})
        if self.rows_done:
            caution(
                f"out: an export to '{place}' was killed after {self.rows_done:,} rows; this one goes on from there",
                stacklevel=3,
            )

    @property
    def is_resumable(self) -> bool:
        """Whether the next export of the same key would go on from a checkpoint."""
        return self._key is not None

    def checkpoint(self, rows: int, **state: int) -> None:
        """Notes that so many rows are on the disk, from which the next export of the same key goes on.

        Args:
            rows: from the first on.
            state: to be noted with them.
        """
        if self._key is not None:
            write_json(self._folder / _JOURNAL, {"key": self._key, "rows": rows, "state": state})

    def publish(self) -> None:
        """Moves what was written, and whatever lies beside it, into place, once it is on the disk.

        Raises:
            FileExistsError: if somebody else has written there meanwhile, and may not be overwritten.
        """
        if self.place.exists() and not self._overwrite:
            raise FileExistsError(f"out: '{self.place}' has been written by somebody else meanwhile; choose another")
        (self._folder / _JOURNAL).unlink(missing_ok=True)
        _sync_all(self._folder)
        products = sorted(self._folder.iterdir(), key=lambda file: file.name, reverse=True)
        if len(products) > 1 and self.place.is_file():
            self.place.unlink()  # a kill between two moves must not leave new ids beside old vectors
        for new in products:
            place, old = self.place.with_name(new.name), self._folder / f"{new.name}{_OLD}"
            if not place.is_dir():
                new.replace(place)
                continue
            place.rename(old)  # a folder that holds something cannot be replaced in one step
            try:
                new.rename(place)
            except BaseException:
                old.rename(place)
                raise
        sync_folder(self.place.parent)
        shutil.rmtree(self._folder)
        self._lock.release()

    def discard(self) -> None:
        """Removes what was written, and folders that were made for it."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.release()
        for folder in self._new_folders:
            if not any(folder.iterdir()):
                folder.rmdir()


def local_place(out: str, *, target: str, kind: str = "file") -> Path:
    """The path of what is to be written; of a URL, a disk would make a folder that is named like its scheme.

    Args:
        out: what the user gave.
        target: the word of what is written.
        kind: ``file`` or ``folder``.

    Raises:
        ValueError: if it is a URL.
    """
    if is_url(out):
        raise ValueError(f"out: expected a {kind} for {target}, got a URL; export to a {kind} and copy it there")
    return Path(out)


def check_staged_place(place: Path, *, overwrite: bool, folder: bool = False) -> None:
    """Refuses a place where nothing can be written, and makes nothing.

    Args:
        place: the file or folder that is to be.
        overwrite: whether one that is there may be replaced.
        folder: whether it is a folder.

    Raises:
        ValueError: if no disk can hold such a name.
        FileExistsError: if there is one and it may not.
        IsADirectoryError: if there is a folder where a file is to be.
        NotADirectoryError: if what should hold it is a file.
        OSError: if nothing can be written there.
    """
    longest_part = max(place.parts, key=len, default="")
    if "\0" in str(place) or len(os.fsencode(longest_part)) > _LONGEST_NAME:
        raise ValueError(
            f"out: expected names of at most {_LONGEST_NAME} bytes without zero bytes, got {longest_part[:40]!r}; "
            "choose a plain word"
        )
    if place.is_dir() and not folder:
        raise IsADirectoryError(f"out: expected a file, got the folder '{place}'; name a file, such as one in it")
    if place.exists() and not overwrite:
        raise FileExistsError(f"out: '{place}' exists already; pass --overwrite to replace it, or choose another")
    holder = next(parent for parent in place.absolute().parents if parent.exists())
    if not holder.is_dir():
        raise NotADirectoryError(f"out: expected a folder, got the file '{holder}' in '{place}'; choose another")
    try:
        with tempfile.TemporaryFile(dir=holder):
            pass
    except OSError as error:
        raise OSError(f"out: cannot write '{place}' ({error.strerror}); choose a folder of your own") from error


_OLD = ".old"
_JOURNAL = ".progress.json"


def _journal(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / _JOURNAL).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _killed_export(place: Path, key: str) -> FileLock | None:
    """The lock of what a killed export of that key has written, held."""
    for folder in leftovers_of(place.parent, place.name):
        lock = FileLock(folder)
        if folder.is_dir() and _journal(folder).get("key") == key and lock.acquire():
            return lock
    return None


def _sync_all(folder: Path) -> None:
    for name, _, file_names in os.walk(folder):
        for file_name in file_names:
            with (Path(name) / file_name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(name))


def _clear_leftovers(place: Path) -> None:
    for old in place.parent.glob(f".*/{glob.escape(place.name)}{_OLD}"):
        if not place.exists() and is_locked(old.parent) is False:
            old.rename(place)  # that export was killed between moving the old folder away and the new one in
    leftovers = remove_leftovers(place.parent, place.name)
    if leftovers:
        names = ", ".join(f"'{path.name}'" for path in leftovers)
        caution(
            f"out: an export to '{place}' was killed; {names}, which it left half-written, was removed", stacklevel=3
        )


def _make_folders(folder: Path) -> list[Path]:
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(f"out: expected a folder, got the file '{error.filename}'; choose another") from error
    return missing
