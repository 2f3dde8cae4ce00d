"""The demo's training run: a real Trainer, quiet where it would only repeat itself, stopped in order by signals."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.cli.signals import ending_signal
from lightning_normdyn.tasks.quiet import one_thread, quiet_lightning

_CADENCE = 50


class _ProgressBar(TQDMProgressBar):
    """The stock bar without the logger's version, which a run in its own folder does not have."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}


class _KeepsHandler(Callback):
    """Takes SIGTERM back from Lightning, whose handler would end a training before it has concluded anything."""

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning has registered its own by now, and restores them at the end."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler)


class Training(NamedTuple):
    """A training that has ended.

    Attributes:
        trainer: whose ``global_step`` is smaller than the steps planned after a signal.
        signal: that ended it early, if one did.
    """

    trainer: Trainer
    signal: int | None


def train(module: LightningModule, data: LightningDataModule, *, steps: int, folder: Path) -> Training:
    """Trains on the CPU with ``NormDynamics``, CSV and TensorBoard logs in the run's folder.

    Args:
        module: the model.
        data: its data; one epoch is the whole run.
        steps: optimizer steps.
        folder: the run's folder.

    """
    with ExitStack() as stack:
        stack.enter_context(quiet_lightning())
        stack.enter_context(one_thread())
        stack.enter_context(hushed_writer_threads())
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=1,
            max_steps=steps,
            log_every_n_steps=min(_CADENCE, steps),
            callbacks=[
                NormDynamics(targets=["table.weight"], every_n_steps=_CADENCE, fit_every_n_steps=1),
                _ProgressBar(_refresh_rate(steps)),
            ],
            logger=[
                SteadfastCSVLogger(folder, name="", version=""),
                SteadfastTensorBoardLogger(folder, name="", version=""),
            ],
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        signals = stack.enter_context(_stop_on_signals(trainer))
        trainer.callbacks.append(_KeepsHandler())  # type: ignore[attr-defined]
        try:
            trainer.fit(module, data)
        except SystemExit as stop:  # how Lightning ends on SIGTERM and on a second Ctrl-C
            # What is measured is still worth showing.
            signals.append(ending_signal(stop) or signal.SIGINT)
            signal.signal(signal.SIGINT, signal.default_int_handler)
    return Training(trainer, signals[0] if signals else None)


def _refresh_rate(steps: int) -> int:
    """A terminal shows the bar moving; a file or a pipe keeps every state of it, so gets ten."""
    return _CADENCE if sys.stdout.isatty() else max(1, steps // 10)


@contextmanager
def _stop_on_signals(trainer: Trainer) -> Iterator[list[int]]:
    """The first Ctrl-C or SIGTERM ends training after its step, with every hook run; the second one at once.

    Yields:
        The signals that came in.
    """
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop_after_step(number: int, _frame: FrameType | None) -> None:
        signals.append(number)
        trainer.should_stop = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in handlers:
        signal.signal(number, stop_after_step)
    try:
        yield signals
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _KeepsGoing:
    """Mixin over a logger: the first failed write is reported, later ones are not tried."""

    _has_failed = False

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
        if self._has_failed:
            return
        try:
            getattr(super(), action)(*args, **kwargs)
        except (OSError, ValueError) as error:
            if not isinstance(error.__cause__ or error, OSError):  # the TensorBoard logger wraps what it meets
                raise
            self._has_failed = True
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
