"""The learning rates that a trainer's own schedulers will set."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import torch

from lightning_normdyn.core.rates import RateTrace


def future_lrs(trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer, group: int, steps: int) -> RateTrace:
    """Runs a copy of an optimizer's scheduler ahead.

    The copy steps a stand-in with the same parameter groups and no parameters, so that neither the real scheduler nor
    the real optimizer moves. A schedule that depends on a metric, on manual optimisation or on the user's own code is
    taken to stay at the present rate.

    Args:
        trainer: the trainer, with its scheduler configurations.
        pl_module: the LightningModule; schedules may close over it, so it is never copied.
        optimizer: whose rates.
        group: which parameter group.
        steps: how many steps ahead.

    Returns:
        Nominal learning rates of the next ``steps`` optimizer steps.
    """
    now = float(optimizer.param_groups[group]["lr"])
    config = next((c for c in trainer.lr_scheduler_configs if c.scheduler.optimizer is optimizer), None)
    if config is None or config.reduce_on_plateau or not pl_module.automatic_optimization:
        return RateTrace.of([now] * steps)
    stand_in = _stand_in(optimizer)
    memo = {id(optimizer): stand_in, id(pl_module): pl_module, id(trainer): trainer}
    try:
        scheduler = copy.deepcopy(config.scheduler, memo)
    except Exception:  # a schedule may hold anything, and observing must never end a run
        return RateTrace.of([now] * steps)
    every, done = _period(trainer, config)
    return _run_ahead(scheduler, stand_in, group, steps, every=every, done=done)


def _run_ahead(
    scheduler: Any, stand_in: torch.optim.Optimizer, group: int, steps: int, *, every: int, done: int
) -> RateTrace:
    trace = RateTrace()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of stepping past a schedule's end, or ahead of an optimizer that stands still
        for step in range(done, done + steps):
            if step % every == 0:
                scheduler.step()
            trace.append(float(stand_in.param_groups[group]["lr"]))
    return trace


def _stand_in(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """An optimizer without parameters whose groups carry the same settings."""
    stand_in = torch.optim.SGD([torch.zeros(1)], lr=0.0)
    stand_in.param_groups = [
        {key: copy.deepcopy(value) for key, value in group.items() if key != "params"} | {"params": []}
        for group in optimizer.param_groups
    ]
    stand_in.defaults = dict(optimizer.defaults)
    return stand_in


def _period(trainer: Any, config: Any) -> tuple[int, int]:
    """Optimizer steps from one scheduler step to the next, and how many were made, this one included."""
    accumulated = trainer.accumulate_grad_batches
    made_this_epoch = max(1, int(trainer.fit_loop.epoch_loop.batch_progress.current.ready) // accumulated)
    if config.interval == "step":  # Lightning counts its frequency in batches
        return config.frequency // math.gcd(config.frequency, accumulated), made_this_epoch
    batches = trainer.num_training_batches
    if not isinstance(batches, int):
        return 1 << 62, 1  # an endless epoch never ends
    per_epoch = max(1, -(-batches // accumulated))
    return config.frequency * per_epoch, trainer.current_epoch % config.frequency * per_epoch + made_this_epoch
