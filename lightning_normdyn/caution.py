"""Warnings in the midst of a training, which they must not end."""

from __future__ import annotations

import logging
import warnings


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
