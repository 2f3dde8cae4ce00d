"""Files that are written whole or not at all: streamed ones, small ones, and JSON."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning_normdyn.file_lock import FileLock, is_locked

_LONGEST_NAME = 200  # bytes; most file systems allow 255, and an ending of 22 is added


def write_json(file: Path, content: Any, *, indent: int | None = None) -> None:
    """Writes JSON whole or not at all; the folder is made.

    Args:
        file: where it goes.
        content: of what JSON knows.
        indent: spaces, for people to read.

    Raises:
        ValueError: if something in it is NaN or infinite, which JSON cannot say.
        OSError: if the file cannot be written.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent)
    write_atomically(file, (text + "\n").encode("utf-8"))


def write_atomically(file: Path, content: bytes) -> None:
    """Writes a small file whole or not at all, see :func:`atomic_file`.

    Args:
        file: where it goes; a link of that name is replaced by the file.
        content: all of it.

    Raises:
        OSError: if the file cannot be written; it names ``file``.
    """
    with atomic_file(file) as temporary:
        temporary.write_bytes(content)


@contextmanager
def atomic_file(file: Path) -> Iterator[Path]:
    """A temporary file of the same folder to write to, which is moved into place at the end; the folder is made.

    A process that is killed on the way leaves the old file as it was, and what it leaves besides is removed by the next
    that writes there. The temporary file has an unguessable name and is made exclusively, so neither a link that
    somebody put there is followed nor another writer's file taken over; on an error it is removed. A device or a pipe
    is written to as it stands. Content and name are on the disk when the block ends, so they outlive a power cut too.

    Args:
        file: where it goes; a link of that name is replaced by the file.

    Yields:
        The path to write to.

    Raises:
        OSError: if the file cannot be made, written or put in place; it names ``file``.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "made" / "numbers.txt"
        >>> with atomic_file(file) as temporary:
        ...     _ = temporary.write_text("1 2 3")
        ...     file.exists()
        False
        >>> file.read_text(), [file.name for file in file.parent.iterdir()]
        ('1 2 3', ['numbers.txt'])
    """
    temporary = file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and not (file.is_file() or file.is_dir()):
            yield file
            return
        remove_leftovers(file.parent, file.name)
        with make_temporary(file) as lock:
            temporary = lock.path
            yield temporary
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            temporary.replace(file)
        sync_folder(file.parent)
    except BaseException as error:
        if temporary != file:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename in _places(temporary):
            raise OSError(error.errno, error.strerror, str(file)) from error
        raise


def _places(temporary: Path) -> tuple[str | None, ...]:
    """What an error names where it is of the file that was to be written."""
    return (None, str(temporary), *map(str, temporary.parents))


def make_temporary(place: Path, *, folder: bool = False) -> FileLock:
    """Makes a hidden file or folder beside a place, of a name that nobody can guess.

    Args:
        place: what is to be.
        folder: whether that is a folder.

    Returns:
        Its lock, held; while it is, :func:`remove_leftovers` leaves it alone.

    Raises:
        OSError: if it cannot be made.
    """
    while True:
        lock = FileLock(place.with_name(f".{_shortened(place.name)}.{secrets.token_hex(8)}.tmp"))
        if folder:
            lock.path.mkdir(0o700)
        else:
            os.close(os.open(lock.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        with suppress(FileNotFoundError):
            lock.acquire()
        if lock.is_held:  # or somebody else took it for a leftover in the moment before it was locked
            return lock


def remove_leftovers(folder: Path, name: str | None = None) -> list[Path]:
    """Removes the temporary files and folders of writers that were killed; those of a writer at work are locked.

    Args:
        folder: where they lie.
        name: of what they were to be; ``None`` for any.

    Returns:
        What was removed.
    """
    leftovers = leftovers_of(folder, name)
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
    return leftovers


def leftovers_of(folder: Path, name: str | None = None) -> list[Path]:
    """What :func:`remove_leftovers` removes.

    Args:
        folder: where they lie.
        name: of what they were to be; ``None`` for any.
    """
    middle = r".+" if name is None else re.escape(_shortened(name))
    pattern = re.compile(rf"\.{middle}\.[0-9a-f]{{16}}\.tmp", re.DOTALL)
    try:
        with os.scandir(folder) as entries:
            paths = [Path(entry.path) for entry in entries if pattern.fullmatch(entry.name)]
    except OSError:
        return []
    return [path for path in paths if not path.is_symlink() and is_locked(path) is False]


def sync_folder(folder: Path) -> None:
    """Puts the names in a folder on the disk, where the system lets one."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _shortened(name: str) -> str:
    return name.encode("utf-8", "surrogateescape")[:_LONGEST_NAME].decode("utf-8", "ignore")
