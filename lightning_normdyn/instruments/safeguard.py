"""Keeps errors of the observer out of the training that it observes: what fails is off, with one warning."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, overload

from lightning_normdyn._version import __version__
from lightning_normdyn.atomic_file import write_atomically
from lightning_normdyn.caution import SettingsError

FAILURES = "failures.txt"
"""The file beside a history that holds the tracebacks of what failed."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class TargetEndedError(Exception):
    """A target cannot be measured any more, for a reason that is no fault of ours; the text says which."""


class TargetGoneError(TargetEndedError):
    """The same, until the model has it again and an optimizer trains it."""


@overload
def safeguarded(method: Callable[Arguments, None]) -> Callable[Arguments, None]: ...


@overload
def safeguarded(
    method: type[Result],
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]: ...


def safeguarded(method: Any) -> Any:
    """Makes a method that a training calls end the observation, not the training, when it fails.

    Its object has ``_switch_off(error)``, which may be called any number of times. Only a :class:`SettingsError` goes
    through, which comes up in the first step alone. A method that failed gives ``None``, or an empty object of the
    type that the decorator is given.

    Example:
        >>> class Observer:
        ...     def _switch_off(self, error):
        ...         print("off:", error)
        ...
        ...     @safeguarded
        ...     def on_step(self):
        ...         1 / 0
        ...
        ...     @safeguarded(dict)
        ...     def state_dict(self):
        ...         return {"step": 1 / 0}
        >>> Observer().on_step()
        off: division by zero
        >>> Observer().state_dict()
        off: division by zero
        {}
    """
    if isinstance(method, type):
        return functools.partial(_safeguarded, make_default=method)
    return _safeguarded(method, make_default=lambda: None)


def _safeguarded(method: Callable[..., Any], *, make_default: Callable[[], Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def safeguarded_method(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except SettingsError:
            raise
        except Exception as error:  # whatever it is, the training is worth more
            self._switch_off(error)
            return make_default()

    return safeguarded_method


class FailureLog:
    """Keeps the tracebacks of what failed in a run.

    Args:
        folder: gives that of the history; it gives ``None`` to leave tracebacks to the log of the process, at level
            debug.
    """

    def __init__(self, folder: Callable[[], Path | None]) -> None:
        self._folder, self._text = folder, ""

    def record(self, error: Exception, subject: str) -> str:
        """Keeps a traceback.

        Args:
            error: what was raised.
            subject: what failed, and when.

        Returns:
            A sentence on where to report it, and with what.
        """
        logging.getLogger(__name__).debug("%s failed", subject, exc_info=error)
        self._text += f"{subject}\n{''.join(traceback.format_exception(error))}\n"
        return f"please report it {report_address()}, with the traceback in {self._place()}"

    def _place(self) -> str:
        """Where the tracebacks are, after they were written there if that can be."""
        folder = self._folder()
        if folder is None:
            return "the debug log"
        file = folder / FAILURES
        try:
            write_atomically(file, self._text.encode("utf-8", "replace"))
        except OSError:
            return "the debug log"
        return f"'{file}'"


def unobserved_failure(name: str, error: Exception) -> str:
    """What is said of an error that came up before anything was observed.

    Args:
        name: who failed.
        error: what was raised.
    """
    return f"{name}: it failed ({in_a_line(error)}); please report it {report_address()}"


def in_a_line(error: Exception) -> str:
    r"""The kind of an error and the first line of what it says.

    Example:
        >>> in_a_line(ValueError("too long\nby far"))
        'ValueError: too long'
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def report_address() -> str:
    """Where to report an error: the address that the installed package names, or else who made it."""
    try:
        metadata: Any = importlib.metadata.metadata("lightning-normdyn")
    except importlib.metadata.PackageNotFoundError:
        metadata = None
    entries = [] if metadata is None else metadata.get_all("Project-URL") or []
    addresses = dict(entry.split(", ", 1) for entry in entries if ", " in entry)
    labels = [label for label in addresses if any(word in label.lower() for word in ("issue", "bug", "tracker"))]
    labels = labels or list(addresses)
    if labels:
        return f"at {addresses[labels[0]]}"
    return f"to the developers of lightning_normdyn {__version__}"
