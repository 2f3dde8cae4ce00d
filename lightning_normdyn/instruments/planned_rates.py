"""Runs copies of learning-rate schedulers ahead, to know the rates of the steps to come."""

from __future__ import annotations

import copy
import warnings
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch

from lightning_normdyn.core.dynamics.rates import RateTrace


class LRSchedule(NamedTuple):
    """A scheduler, and what says whether it is stepped after an optimizer step."""

    scheduler: Any
    is_due: Callable[[Any], bool]


def run_ahead(
    optimizer: torch.optim.Optimizer,
    group: int,
    schedules: Sequence[LRSchedule],
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
        schedules: that set the rate of this optimizer.
        steps: the optimizer steps, in whatever form the schedules know them: the one being made and those to come.
        keep: what schedules may hold and must never be copied, such as the model.

    Returns:
        The nominal learning rate after each of the steps, which is that of the next.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> halving = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        >>> trace = run_ahead(optimizer, 0, [LRSchedule(halving, lambda step: step % 2 == 0)], range(1, 4))
        >>> [segment.mean for segment in trace.segments], optimizer.param_groups[0]["lr"]
        ([1.0, 0.5, 0.5], 1.0)
    """
    return RateTrace.of(rates_ahead(optimizer, group, schedules, steps, keep=keep))


def rates_ahead(
    optimizer: torch.optim.Optimizer,
    group: int,
    schedules: Sequence[LRSchedule],
    steps: Iterable[Any],
    *,
    keep: Iterable[Any] = (),
) -> array[float]:
    """The rates themselves, see :func:`run_ahead`."""
    stand_in = _stand_in(optimizer)
    optimizers = [optimizer, *(getattr(schedule.scheduler, "optimizer", optimizer) for schedule in schedules)]
    memo = {id(item): stand_in for item in optimizers} | {id(item): item for item in keep}
    try:
        copies = [schedule._replace(scheduler=copy.deepcopy(schedule.scheduler, memo)) for schedule in schedules]
    except Exception:  # a schedule may hold anything, and observing must never end a run
        copies = []
    lrs = array("d")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of stepping past a schedule's end, or ahead of an optimizer that stands still
        for step in steps:
            try:
                for schedule in copies:
                    if schedule.is_due(step):
                        schedule.scheduler.step()
            except Exception:  # asked to go past its end, it keeps its last rate
                copies = []
            lrs.append(float(stand_in.param_groups[group]["lr"]))
    return lrs


MOST_STEPS_AHEAD = 2_000_000
"""A scheduler takes one to six microseconds a step, so that a plan of this length is run ahead in a few seconds."""


class _RatePlan(NamedTuple):
    """Rates to the end of a run, and that of the step during which they were run ahead."""

    present_lr: float
    lrs: array[float]
    schedulers: tuple[int, ...]

    def before(self, remaining: int) -> float:
        """The rate of the step after which so many remain."""
        passed = len(self.lrs) - remaining
        return self.lrs[passed - 1] if passed else self.present_lr


class PlannedRates:
    """The rates of the steps to come, run ahead once for each parameter group and read for as long as they come true.

    Where a group's rate is not the one that was foreseen for it, or its schedulers are others, they are run ahead anew.
    A group without a scheduler keeps its rate however long the plan is; a scheduler is run ahead at most
    ``MOST_STEPS_AHEAD`` steps.

    Args:
        warn: says once that a plan is too long.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> halving = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        >>> rates = PlannedRates(print)
        >>> rates.trace(optimizer, 0, [LRSchedule(halving, lambda step: True)], range(3), 3).mean
        0.2916...
        >>> rates.trace(optimizer, 0, [], range(10**9), 10**9).mean
        1.0
    """

    def __init__(self, warn: Callable[[str], object]) -> None:
        self._warn = warn
        self._has_warned = False
        self._plans: dict[tuple[int, int], _RatePlan] = {}

    def trace(
        self,
        optimizer: torch.optim.Optimizer,
        group: int,
        schedules: Sequence[LRSchedule],
        steps: Iterable[Any],
        remaining: int,
        *,
        keep: Iterable[Any] = (),
    ) -> RateTrace | None:
        """The nominal rates of the steps that remain; ``None`` if they are too many to run a schedule through.

        Args:
            optimizer: whose rates.
            group: which parameter group.
            schedules: that set the rate of this optimizer.
            steps: the steps that remain, the one being made first; read only where they are run ahead.
            remaining: how many there are.
            keep: what schedules may hold and must never be copied.
        """
        present_lr = float(optimizer.param_groups[group]["lr"])
        if not schedules:
            return RateTrace.constant(present_lr, remaining)
        if remaining > MOST_STEPS_AHEAD:
            self._say_too_long(remaining)
            return None
        schedulers = tuple(id(schedule.scheduler) for schedule in schedules)
        key = (id(optimizer), group)
        plan = self._plans.get(key)
        if (
            plan is None
            or plan.schedulers != schedulers
            or remaining > len(plan.lrs)
            or plan.before(remaining) != present_lr
        ):
            lrs = rates_ahead(optimizer, group, schedules, steps, keep=keep)
            plan = self._plans[key] = _RatePlan(present_lr, lrs, schedulers)
        return RateTrace.of(plan.lrs[len(plan.lrs) - remaining :])

    def _say_too_long(self, remaining: int) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._warn(
                f"a schedule is run ahead {MOST_STEPS_AHEAD:,} steps at most and {remaining:,} are planned, so norms "
                "at the end are not forecast; pass the number that you mean to make (max_steps or max_epochs of the "
                "Trainer, total_steps of NormObserver)"
            )


def _stand_in(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """An optimizer without parameters whose groups carry the same settings."""
    stand_in = torch.optim.SGD([torch.zeros(1)], lr=0.0)
    stand_in.param_groups = [
        {key: copy.deepcopy(value) for key, value in group.items() if key != "params"} | {"params": []}
        for group in optimizer.param_groups
    ]
    stand_in.defaults = dict(optimizer.defaults)
    return stand_in
