"""What hooks say in the midst of a training: warnings, which cannot end it, and the one error that may, early."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
OnError = Callable[[Exception], object]
"""Takes an error of a hook, and raises it only where it may end the training."""


class SettingsError(ValueError):
    """A setting of the user's that shows as wrong in the first step of a run, when nothing is lost by ending it."""


def caution(message: str, *, stacklevel: int = 1) -> None:
    """Warns, and never raises: where warnings are errors, as under ``python -W error``, it writes to the log instead.

    A hook that raised would end the training halfway through a step; what is said before a training may raise.

    Args:
        message: what to say.
        stacklevel: which caller the warning is put down to, as in :func:`warnings.warn`.

    Example:
        >>> with warnings.catch_warnings(record=True) as record:
        ...     warnings.simplefilter("always")
        ...     caution("the disk is full")
        >>> str(record[0].message)
        'the disk is full'
    """
    try:
        warnings.warn(message, stacklevel=stacklevel + 1)
    except UserWarning:
        logging.getLogger(__name__).warning(message)


def contained(hook: Callable[Arguments, Result], on_error: OnError | None) -> Callable[Arguments, Result | None]:
    """A hook whose errors go to a handler instead of the training that called it.

    Args:
        hook: what is registered somewhere.
        on_error: takes the error, and raises what may end the training; ``None`` lets all errors through.

    Example:
        >>> contained(lambda: 1 / 0, print)()
        division by zero
    """
    if on_error is None:
        return hook

    @functools.wraps(hook)
    def contained_hook(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result | None:
        try:
            return hook(*args, **kwargs)
        except Exception as error:  # whatever went wrong, a training must not end with it
            on_error(error)
            return None

    return contained_hook
