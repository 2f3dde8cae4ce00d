"""The learning rates that a trainer's own schedulers will set."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch

from lightning_normdyn.callbacks.lightning import overrides
from lightning_normdyn.core.rates import RateTrace
from lightning_normdyn.instruments.schedule import Drive, run_ahead


def future_lrs(trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer, group: int, steps: int) -> RateTrace:
    """Runs copies of an optimizer's schedulers ahead.

    A schedule that depends on a metric, on manual optimisation or on the user's own code is taken to stay at the
    present rate.

    Args:
        trainer: the trainer, in the middle of an optimizer step, with its scheduler configurations.
        pl_module: the LightningModule; schedules may hold it or parts of it, which are never copied.
        optimizer: whose rates.
        group: which parameter group.
        steps: how many steps ahead.

    Returns:
        Nominal learning rates of the next ``steps`` optimizer steps.
    """
    drives = [Drive(config.scheduler, partial(_is_due, config)) for config in _configs(trainer, pl_module, optimizer)]
    batches = itertools.islice(_stepping_batches(trainer), steps)
    shared = [trainer, getattr(trainer, "datamodule", None), *pl_module.modules(), *pl_module.parameters()]
    return run_ahead(optimizer, group, drives, batches, keep=shared)


class _Batch(NamedTuple):
    """A batch that ends with an optimizer step: its number in the epoch and the epoch's, both from 1."""

    number: int
    epoch: int
    ends_epoch: bool


def _stepping_batches(trainer: Any) -> Iterator[_Batch]:
    """The batch whose optimizer step is being made, and those of all steps to come."""
    accumulated, last = trainer.accumulate_grad_batches, trainer.num_training_batches
    number, epoch = int(trainer.fit_loop.epoch_loop.batch_progress.current.ready), trainer.current_epoch + 1
    while True:
        yield _Batch(number, epoch, number >= last)
        if number >= last:
            number, epoch = 0, epoch + 1
        number = min((number // accumulated + 1) * accumulated, last)


def _is_due(config: Any, batch: _Batch) -> bool:
    """Whether Lightning steps a scheduler after this batch: it counts batches within the epoch, or epochs."""
    if config.interval == "step":
        return bool(batch.number % config.frequency == 0)
    return bool(batch.ends_epoch and batch.epoch % config.frequency == 0)


def _configs(trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer) -> list[Any]:
    """The schedulers that drive an optimizer and that nothing but time drives."""
    if not pl_module.automatic_optimization or overrides(pl_module, "lr_scheduler_step"):
        return []
    of_optimizer = (config for config in trainer.lr_scheduler_configs if config.scheduler.optimizer is optimizer)
    return [config for config in of_optimizer if not config.reduce_on_plateau]
