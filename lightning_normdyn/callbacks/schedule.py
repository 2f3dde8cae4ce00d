"""The learning rates that a trainer's own schedulers will set."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from lightning_normdyn.callbacks.lightning import overrides
from lightning_normdyn.core.rates import RateTrace


def future_lrs(trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer, group: int, steps: int) -> RateTrace:
    """Runs copies of an optimizer's schedulers ahead.

    The copies step a stand-in with the same parameter groups and no parameters, so that neither the real schedulers nor
    the real optimizer move. A schedule that depends on a metric, on manual optimisation or on the user's own code is
    taken to stay at the present rate.

    Args:
        trainer: the trainer, in the middle of an optimizer step, with its scheduler configurations.
        pl_module: the LightningModule; schedules may hold it or parts of it, which are never copied.
        optimizer: whose rates.
        group: which parameter group.
        steps: how many steps ahead.

    Returns:
        Nominal learning rates of the next ``steps`` optimizer steps.
    """
    configs = _configs(trainer, pl_module, optimizer)
    stand_in = _stand_in(optimizer)
    shared = [trainer, getattr(trainer, "datamodule", None), *pl_module.modules(), *pl_module.parameters()]
    memo = {id(optimizer): stand_in} | {id(item): item for item in shared}
    try:
        schedulers = [(config, copy.deepcopy(config.scheduler, memo)) for config in configs]
    except Exception:  # a schedule may hold anything, and observing must never end a run
        schedulers = []
    trace = RateTrace()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of stepping past a schedule's end, or ahead of an optimizer that stands still
        for batch in itertools.islice(_stepping_batches(trainer), steps):
            try:
                for config, scheduler in schedulers:
                    if _is_due(config, batch):
                        scheduler.step()
            except Exception:  # asked to go past its end, it keeps its last rate
                schedulers = []
            trace.append(float(stand_in.param_groups[group]["lr"]))
    return trace


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


def _stand_in(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """An optimizer without parameters whose groups carry the same settings."""
    stand_in = torch.optim.SGD([torch.zeros(1)], lr=0.0)
    stand_in.param_groups = [
        {key: copy.deepcopy(value) for key, value in group.items() if key != "params"} | {"params": []}
        for group in optimizer.param_groups
    ]
    stand_in.defaults = dict(optimizer.defaults)
    return stand_in
