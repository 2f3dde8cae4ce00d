"""Runs copies of learning-rate schedulers ahead, to know the rates of the steps to come."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch

from lightning_normdyn.core.dynamics.rates import RateTrace


class Drive(NamedTuple):
    """A scheduler, and what says whether it is stepped after an optimizer step."""

    scheduler: Any
    is_due: Callable[[Any], bool]


def run_ahead(
    optimizer: torch.optim.Optimizer,
    group: int,
    drives: Sequence[Drive],
    steps: Iterable[Any],
    *,
    keep: Iterable[Any] = (),
) -> RateTrace:
    """Runs copies of an optimizer's schedulers ahead.

    The copies step a stand-in with the same parameter groups and no parameters, so that neither the real schedulers nor
    the real optimizer move. A schedule that cannot be copied or run ahead is taken to stay at its rate.

    Args:
        optimizer: whose rates.
        group: which parameter group.
        drives: its schedulers.
        steps: the optimizer steps, in whatever form the drives know them: the one being made and those to come.
        keep: what schedules may hold and must never be copied, such as the model.

    Returns:
        The nominal learning rate after each of the steps, which is that of the next.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> halving = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        >>> trace = run_ahead(optimizer, 0, [Drive(halving, lambda step: step % 2 == 0)], range(1, 4))
        >>> [segment.mean for segment in trace.segments], optimizer.param_groups[0]["lr"]
        ([1.0, 0.5, 0.5], 1.0)
    """
    stand_in = _stand_in(optimizer)
    optimizers = [optimizer, *(getattr(drive.scheduler, "optimizer", optimizer) for drive in drives)]
    memo = {id(item): stand_in for item in optimizers} | {id(item): item for item in keep}
    try:
        copies = [drive._replace(scheduler=copy.deepcopy(drive.scheduler, memo)) for drive in drives]
    except Exception:  # a schedule may hold anything, and observing must never end a run
        copies = []
    trace = RateTrace()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of stepping past a schedule's end, or ahead of an optimizer that stands still
        for step in steps:
            try:
                for drive in copies:
                    if drive.is_due(step):
                        drive.scheduler.step()
            except Exception:  # asked to go past its end, it keeps its last rate
                copies = []
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
