"""A Lightning trainer's run, in the terms that the instruments know: its steps, schedulers, scaler and ranks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.callbacks.lightning import LightningModule, Trainer, overrides, rank_zero_info, rank_zero_only
from lightning_normdyn.callbacks.step_pace import StepPace
from lightning_normdyn.caution import caution
from lightning_normdyn.core.dynamics.rates import EffectiveTrace
from lightning_normdyn.instruments.planned_rates import LearningRates, LRSchedule, PlannedRates
from lightning_normdyn.instruments.ranks import Ranks, process_group_store
from lightning_normdyn.instruments.training_run import Run


def run_of(
    trainer: Trainer, pl_module: LightningModule, lrs: LearningRates | None = None, pace: StepPace | None = None
) -> Run:
    """The run of a trainer, in words that hold for any training loop.

    Args:
        trainer: the trainer.
        pl_module: what it trains.
        lrs: gives the nominal rate of a step, for schedules that cannot be run ahead.
        pace: tells how often each optimizer steps, where the user's own loop decides that.
    """
    rates = PlannedRates(_caution, lrs)
    return Run(
        optimizers=lambda: trainer.optimizers,
        total_steps=lambda optimizer=None: _total_steps(trainer, pl_module, optimizer, pace),
        future_rates=lambda optimizer, group, steps, past: future_rates(
            trainer, pl_module, optimizer, group, steps, rates, past, pace
        ),
        loss_scale=lambda: _loss_scale(trainer),
        ranks=_ranks(trainer),
        hears_backward=False,  # Lightning announces a step before it clips
        warn=_caution,
        inform=rank_zero_info,
        clip_value=lambda: _clip_value(trainer),
    )


@rank_zero_only
def _caution(message: str) -> None:
    """Says to the user, on the first rank alone, that something is wrong."""
    caution(message, stacklevel=3)


def has_scaler(trainer: Trainer) -> bool:
    """Whether a loss scaler decides which steps are made."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def shares_batches(trainer: Trainer) -> bool:
    """Whether some ranks are given the same batch, as under tensor parallelism."""
    sampling = getattr(trainer.strategy, "distributed_sampler_kwargs", None) or {}
    return bool(sampling.get("num_replicas", trainer.world_size) != trainer.world_size)


def _total_steps(
    trainer: Trainer,
    pl_module: LightningModule,
    optimizer: torch.optim.Optimizer | None = None,
    pace: StepPace | None = None,
) -> int | None:
    """Steps that an optimizer will make in this run, or each, as many as the others; ``None`` if it has no set end."""
    total = trainer.estimated_stepping_batches
    if not 0 < total < float("inf"):  # -1 for a stream of no known length
        return None
    if not pl_module.automatic_optimization and optimizer is not None and pace is not None:
        most_steps = trainer.max_steps if trainer.max_steps > 0 else None
        batches = trainer.num_training_batches * (trainer.max_epochs or -1)
        at_pace = pace.total(
            optimizer, trainer.optimizers, batches=batches if batches > 0 else math.inf, most_steps=most_steps
        )
        if at_pace is not None:
            return at_pace
    if not pl_module.automatic_optimization and trainer.max_steps > 0:
        total = min(total, trainer.max_steps // len(trainer.optimizers))  # which counts the steps of all of them
    return max(1, int(total))


def _clip_value(trainer: Trainer) -> float | None:
    """The norm to which the trainer clips all gradients; ``None`` if it does not, or clips each number."""
    by_norm = str(trainer.gradient_clip_algorithm or "norm") in ("norm", "GradClipAlgorithmType.NORM")
    return float(trainer.gradient_clip_val) if trainer.gradient_clip_val and by_norm else None


def _loss_scale(trainer: Trainer) -> float:
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return float(scaler.get_scale()) if scaler is not None else 1.0


def _ranks(trainer: Trainer) -> Ranks:
    def all_gather(tensor: Tensor) -> Tensor:
        tensors = trainer.strategy.all_gather(tensor)
        assert isinstance(tensors, Tensor)
        return tensors

    def broadcast(item: Any, rank: int) -> Any:
        return trainer.strategy.broadcast(item, src=rank)

    device: torch.device = trainer.strategy.root_device
    shares, store = shares_batches(trainer), process_group_store()
    return Ranks(trainer.global_rank, trainer.world_size, device, all_gather, broadcast, shares, store)


def future_rates(
    trainer: Any,
    pl_module: Any,
    optimizer: torch.optim.Optimizer,
    group: int,
    steps: int,
    rates: PlannedRates,
    past: EffectiveTrace | None = None,
    pace: StepPace | None = None,
) -> EffectiveTrace | None:
    """Runs copies of an optimizer's schedulers ahead.

    A schedule that depends on a metric, on manual optimisation or on the user's own code is taken to stay at the
    present rate, which is said once.

    Args:
        trainer: the trainer, in the middle of an optimizer step, with its scheduler configurations.
        pl_module: the LightningModule; schedules may hold it or parts of it, which are never copied.
        optimizer: whose rates.
        group: which parameter group.
        steps: how many steps ahead, to the end of the run.
        rates: what was run ahead before.
        past: rates and decays of the steps before.
        pace: tells how often each optimizer steps, where the user's own loop decides that.

    Returns:
        Effective rates and decays of the next ``steps`` optimizer steps; ``None`` if they are too many.
    """
    schedules = [
        LRSchedule(config.scheduler, partial(_is_due, config)) for config in _configs(trainer, pl_module, optimizer)
    ]
    batches = itertools.islice(_stepping_batches(trainer), steps)
    surroundings = [trainer, getattr(trainer, "datamodule", None), *pl_module.modules(), *pl_module.parameters()]
    first = (_total_steps(trainer, pl_module, optimizer, pace) or steps) - steps
    return rates.trace(optimizer, group, schedules, batches, steps, first=first, past=past, keep=surroundings)


class _Batch(NamedTuple):
    """A batch that ends with an optimizer step: its number in the epoch and the epoch's, both from 1."""

    number: int
    epoch: int
    ends_epoch: bool


def _stepping_batches(trainer: Any) -> Iterator[_Batch]:
    """The batch whose optimizer step is being made, and those of all steps to come."""
    accumulation, last = trainer.accumulate_grad_batches, trainer.num_training_batches
    number, epoch = int(trainer.fit_loop.epoch_loop.batch_progress.current.ready), trainer.current_epoch + 1
    while True:
        yield _Batch(number, epoch, number >= last)
        if number >= last:
            number, epoch = 0, epoch + 1
        number = min((number // accumulation + 1) * accumulation, last)


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
