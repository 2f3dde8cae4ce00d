"""Callback that says how long a step takes and when training will end."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from lightning_normdyn.callbacks.lightning import Callback, LightningModule, Trainer
from lightning_normdyn.core.number_checks import check_count


class StepTime(Callback):
    """Prints once, after the first steps, how long one takes and how long all will, and logs ``step_seconds``.

    Mean wall time from one step to the next, data included and evaluations not; the accelerator is waited for at both
    ends of the stretch. Where optimization is manual a batch is a step, however many optimizers step in it.

    Args:
        warmup_steps: at the start, that are not counted.
        steps: that the mean is over.

    Raises:
        ValueError: if a number is out of its range.

    Attributes:
        seconds: a step; NaN until it is known.

    Example:
        >>> StepTime(steps=50).seconds
        nan
    """

    def __init__(self, *, warmup_steps: int = 3, steps: int = 20) -> None:
        check_count(0, warmup_steps=warmup_steps)
        check_count(steps=steps, hint="20 is usual")
        self.warmup_steps, self.steps = warmup_steps, steps
        self.seconds = math.nan
        self._first_step = 0
        self._start_step: int | None = None
        self._start = self._pause_start = self._paused = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins anew."""
        self.seconds, self._first_step, self._start_step = math.nan, _steps(trainer, pl_module), None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes the time where the stretch begins and where it ends."""
        if not math.isnan(self.seconds):
            return
        step = _steps(trainer, pl_module)
        if self._start_step is None and step >= self._first_step + self.warmup_steps:
            _wait_for(pl_module.device)
            self._start_step, self._start, self._paused = step, time.perf_counter(), 0.0
        elif self._start_step is not None and step >= self._start_step + self.steps:
            self._finish(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        _wait_for(pl_module.device)
        self._pause_start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets it go on."""
        self._paused += time.perf_counter() - self._pause_start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says it of a run that was too short."""
        start = self._start_step
        if math.isnan(self.seconds) and start is not None and _steps(trainer, pl_module) > start:
            self._finish(trainer, pl_module)

    def _finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._start_step is not None
        _wait_for(pl_module.device)
        steps = _steps(trainer, pl_module) - self._start_step
        self.seconds = (time.perf_counter() - self._start - self._paused) / steps
        for logger in trainer.loggers:
            logger.log_metrics({"step_seconds": self.seconds}, step=trainer.global_step)
        total = trainer.estimated_stepping_batches
        if not pl_module.automatic_optimization and trainer.max_steps != -1:
            total = math.inf  # steps of all optimizers are counted then, and nobody knows how many a batch has
        rest = f"; {int(total):,} steps take {_words(total * self.seconds)}" if math.isfinite(total) else ""
        pl_module.print(f"A step takes {self.seconds:.3g} s (mean of {steps}){rest}, evaluations not counted.")


def _steps(trainer: Trainer, pl_module: LightningModule) -> int:
    """Steps made, as ``estimated_stepping_batches`` counts them; ``global_step`` counts those of all optimizers."""
    if pl_module.automatic_optimization:
        return trainer.global_step
    return trainer.fit_loop.epoch_loop.batch_progress.total.ready


def _wait_for(device: torch.device) -> None:
    """Until the accelerator has done what it was asked."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def _words(seconds: float) -> str:
    """How long, in the two units that matter.

    Example:
        >>> _words(0.413), _words(95), _words(7_500)
        ('0.41 s', '1 min 35 s', '2 h 5 min')
    """
    if seconds < 9.5:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
