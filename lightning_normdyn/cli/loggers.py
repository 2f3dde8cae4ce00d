"""Loggers that give up rather than end a run."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger


class _KeepsGoing:
    """Mixin over a logger: the first failed write is reported, later ones are not tried."""

    _failed = False

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Passes on to the logger."""
        self._attempt("log_metrics", *args, **kwargs)

    def save(self) -> None:
        """Passes on to the logger."""
        self._attempt("save")

    def finalize(self, *args: Any, **kwargs: Any) -> None:
        """Passes on to the logger."""
        self._attempt("finalize", *args, **kwargs)

    def _attempt(self, action: str, *args: Any, **kwargs: Any) -> None:
        if self._failed:
            return
        try:
            getattr(super(), action)(*args, **kwargs)
        except (OSError, ValueError) as error:
            if not isinstance(error.__cause__ or error, OSError):  # the TensorBoard logger wraps what it meets
                raise
            self._failed = True
            name = next(base.__name__ for base in type(self).__mro__ if "Steadfast" not in base.__name__)
            warnings.warn(
                f"{name}: cannot write ({error.__cause__ or error}); training goes on without it", stacklevel=2
            )


class SteadfastCSVLogger(_KeepsGoing, CSVLogger):
    """A CSVLogger that a full or vanished disk cannot stop."""


class SteadfastTensorBoardLogger(_KeepsGoing, TensorBoardLogger):
    """A TensorBoardLogger that a full or vanished disk cannot stop."""


@contextmanager
def hushed_writer_threads() -> Iterator[None]:
    """Keeps TensorBoard's writer thread from printing a traceback of what its logger reports in a sentence."""
    previous = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not (issubclass(args.exc_type, OSError) and type(args.thread).__module__.startswith("tensorboard")):
            previous(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = previous
