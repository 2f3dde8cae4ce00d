"""A lock on a file or folder that the system itself takes back when its holder ends, however it ends."""

from __future__ import annotations

import errno
import os
import sys
import time
import weakref
from pathlib import Path
from types import TracebackType

if sys.platform == "win32":  # no lock is taken there, and nobody is known to hold one
    LOCK_EX = LOCK_NB = LOCK_SH = 0

    def flock(fd: int, operation: int, /) -> None:
        """Says that there are no such locks."""
        del fd, operation
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
else:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock


_HELD_BY_ANOTHER = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK}
_TRIES, _PAUSE_SECONDS = 5, 0.02


class FileLock:
    """The right to write somewhere, held by one opened file on this machine, or on all that share its disk.

    A process number says nothing in another container and may be given away again; this lock goes with the process.
    Children that it forks, such as the workers of a data loader, do not inherit it: one that outlives the process would
    keep everybody else out. (That is why it is not `filelock`'s, which they do inherit.)

    Args:
        path: an existing folder, or a file, which is made if it is not there.

    Attributes:
        is_certain: whether others are really kept out; not where the file system has no locks.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "lock"
        >>> lock = FileLock(path)
        >>> lock.acquire(), FileLock(path).acquire(), is_locked(path)
        (True, False, True)
        >>> lock.release()
        >>> is_locked(path)
        False
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._close: weakref.finalize[[int], FileLock] | None = None
        self._descriptor = -1
        self.is_certain = False

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock, and what it holds is still what lies at its path."""
        if self._close is None or not self._close.alive:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except OSError:
            return False

    def acquire(self) -> bool:
        """Takes the lock if nobody holds it.

        Where the file system knows no locks it is taken to be free, and :attr:`is_certain` says so.

        Returns:
            Whether it is held now.

        Raises:
            OSError: if the file cannot be made or opened.
        """
        if self.is_held:
            return True
        self.release()
        flags = os.O_RDONLY if self.path.is_dir() else os.O_RDWR | os.O_CREAT
        descriptor = os.open(self.path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0), 0o666)
        for _ in range(_TRIES):  # somebody who only asks holds it for a moment
            state = _try_lock(descriptor, shared=False)
            if state is not False:
                self._descriptor, self.is_certain = descriptor, state is True
                self._close = weakref.finalize(self, os.close, descriptor)
                _HELD.add(self)
                return True
            time.sleep(_PAUSE_SECONDS)
        os.close(descriptor)
        return False

    def release(self) -> None:
        """Gives it back; the file stays."""
        if self._close is not None:
            self._close()
            self._close = None

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        self.release()


def is_locked(path: str | os.PathLike[str]) -> bool | None:
    """Whether somebody holds the lock of a file or folder; ``None`` if that cannot be told, as where there is none.

    Args:
        path: the file or folder.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return None
    try:
        state = _try_lock(descriptor, shared=True)
    finally:
        os.close(descriptor)
    return None if state is None else not state


_HELD: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _try_lock(descriptor: int, *, shared: bool) -> bool | None:
    """Whether it was taken; ``None`` where the system or the disk has no such locks."""
    try:
        flock(descriptor, (LOCK_SH if shared else LOCK_EX) | LOCK_NB)
    except OSError as error:
        return False if error.errno in _HELD_BY_ANOTHER else None
    return True


def _forget_all() -> None:
    """Closes in a forked child what is its parent's; closing one of two copies leaves the lock to the other."""
    for lock in list(_HELD):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
