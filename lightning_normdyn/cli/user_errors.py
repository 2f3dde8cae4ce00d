"""Errors that a user can mend: one sentence for our own checks, the user's frames for errors of the user's code."""

from __future__ import annotations

import errno
import sys
import sysconfig
import traceback
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

_PACKAGE = Path(__file__).resolve().parents[1]
_LIBRARIES = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]

_MORE_SPACE = "free some space on its disk, or choose another"
_OF_THE_DISK = {
    errno.ENOSPC: _MORE_SPACE,
    errno.EDQUOT: _MORE_SPACE,
    errno.EFBIG: _MORE_SPACE,
    errno.EIO: "the disk may be failing: choose another",
    errno.EROFS: "the disk is read-only: choose another",
}
_ADVICE = {errno.ENOENT: "check the path", **_OF_THE_DISK}


class MissingExtraError(ImportError):
    """A command needs a package that a plain installation leaves out."""


def require(*modules: str, extra: str) -> None:
    """Checks that optional packages are installed, without importing them.

    Args:
        modules: the names under which they are imported.
        extra: the extra of lightning-normdyn that brings them.

    Raises:
        MissingExtraError: if one is not installed.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            f"this command needs {' and '.join(missing)}; install with: pip install 'lightning-normdyn[{extra}]'"
        )


def is_the_users(error: Exception) -> bool:
    """Whether the user can mend what is wrong, as far as the kind of the error tells."""
    if isinstance(error, ValueError | OSError | MissingExtraError):
        return True
    if isinstance(error, RuntimeError) and str(error).startswith("SaveConfigCallback expected"):
        return True  # a configuration of an earlier run is in the way
    exceptions = sys.modules.get("lightning_fabric.utilities.exceptions")  # not loaded, so not raised
    return exceptions is not None and isinstance(error, exceptions.MisconfigurationException)


def is_of_drawing(error: Exception) -> bool:
    """Whether a page could not be drawn, which leaves all else as it is."""
    page = sys.modules.get("lightning_normdyn.report.kit.page")  # not loaded, so not raised
    return page is not None and isinstance(error, page.DrawingError)


def one_sentence(error: Exception) -> str:
    """The message on one line, but for a list that it ends with."""
    if isinstance(error, OSError) and error.errno is not None and (error.filename or error.errno in _OF_THE_DISK):
        advice = _ADVICE.get(error.errno, "choose a file or a folder of your own")
        place = f"use '{error.filename}'" if error.filename else "write"
        return f"cannot {place} ({error.strerror}); {advice}"
    first, *listing = str(error).split("\n  ")
    return "\n  ".join([" ".join(first.split()) or type(error).__name__, *listing]).rstrip()


def users_traceback(error: BaseException) -> str | None:
    """The traceback of an error that comes out of the user's own code, without the frames of libraries.

    Args:
        error: as caught.

    Returns:
        Frames, message and a hint; ``None`` if no frame is the user's own.
    """
    cause: BaseException | None = error
    while cause is not None:
        steps = [step for step in traceback.walk_tb(cause.__traceback__) if _is_the_users_own(step[0])]
        frames = traceback.StackSummary.extract(iter(steps))
        if frames:
            lines = "".join(frames.format())
            message = "".join(traceback.format_exception_only(cause)).rstrip()
            return (
                f"Traceback (your own frames):\n{lines}{message}\n"
                "normdyn: the error comes out of your own code; --debug shows the frames of the libraries too"
            )
        cause = cause.__cause__
    return None


def _is_the_users_own(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    if name.startswith("<"):
        return False
    file = Path(name).resolve()
    # Compiled modules name sources that are not installed.
    return file.is_file() and not any(file.is_relative_to(folder) for folder in (_PACKAGE, *_LIBRARIES))
