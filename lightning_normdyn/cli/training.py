"""The demo's training run: a real Trainer, quiet where it would only repeat itself, stopped in order by Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.cli.loggers import SteadfastCSVLogger, SteadfastTensorBoardLogger, hushed_writer_threads
from lightning_normdyn.tasks.quiet import one_thread, quiet_lightning

_CADENCE = 50


class _ProgressBar(TQDMProgressBar):
    """The stock bar without the logger's version, which a run in its own folder does not have."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}


def train(module: LightningModule, data: LightningDataModule, *, steps: int, folder: Path) -> Trainer:
    """Trains on the CPU with ``NormDynamics``, CSV and TensorBoard logs in the run's folder.

    Args:
        module: the model.
        data: its data; one epoch is the whole run.
        steps: optimizer steps.
        folder: the run's folder.

    Returns:
        The trainer, whose ``global_step`` is smaller than ``steps`` after Ctrl-C.
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
        stack.enter_context(_stop_on_interrupt(trainer))
        try:
            trainer.fit(module, data)
        except SystemExit:  # how Lightning ends on a second Ctrl-C; what is known is still worth showing
            signal.signal(signal.SIGINT, signal.default_int_handler)
    return trainer


def _refresh_rate(steps: int) -> int:
    """A terminal shows the bar moving; a file or a pipe keeps every state of it, so gets ten."""
    return _CADENCE if sys.stdout.isatty() else max(1, steps // 10)


@contextmanager
def _stop_on_interrupt(trainer: Trainer) -> Iterator[None]:
    """The first Ctrl-C ends training after its step, with every hook run; the second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        trainer.should_stop = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = signal.signal(signal.SIGINT, ask_to_stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
