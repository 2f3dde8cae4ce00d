"""Runs copies of schedulers ahead, to know the learning rates and the decays of the steps to come."""

from __future__ import annotations

import copy
import math
import warnings
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch

from lightning_normdyn.core.dynamics.rates import EffectiveTrace
from lightning_normdyn.core.dynamics.step_rates import StepRates

LearningRates = Callable[[int], float]
"""From the number of an optimizer step, from 0, to its nominal learning rate."""


class LRSchedule(NamedTuple):
    """A scheduler, what says whether it is stepped after an optimizer step, and how many times then."""

    scheduler: Any
    is_due: Callable[[Any], bool]
    times: int = 1

    @classmethod
    def of(cls, scheduler: Any, is_due: Callable[[Any], bool], ranks: int) -> LRSchedule:
        """The schedule of a scheduler, out of what ``accelerator.prepare`` wraps around it.

        Args:
            scheduler: of torch, or accelerate's.
            is_due: what says whether the loop steps it after an optimizer step.
            ranks: the processes that take part: accelerate's steps the one inside once for each, unless batches are
                split among them, and never without its optimizer.
        """
        if type(scheduler).__name__ != "AcceleratedScheduler":
            return cls(scheduler, is_due)
        if not scheduler.step_with_optimizer:
            return cls(scheduler.scheduler, is_due)
        return cls(scheduler.scheduler, is_due, 1 if scheduler.split_batches else ranks)


class Course(NamedTuple):
    """What is foreseen of the steps to come.

    Attributes:
        lrs: effective learning rate of each.
        decays: ``lambda_rad`` of each.
        is_run: whether every schedule could be copied and stepped at all.
    """

    lrs: array[float]
    decays: array[float]
    is_run: bool

    def trace(self, remaining: int) -> EffectiveTrace:
        """The last so many steps."""
        start, trace = len(self.lrs) - remaining, EffectiveTrace()
        trace.extend(self.lrs[start:], self.decays[start:])
        return trace


def run_ahead(
    optimizer: torch.optim.Optimizer,
    group: int,
    schedules: Sequence[LRSchedule],
    steps: Iterable[Any],
    *,
    keep: Iterable[Any] = (),
    lrs: Iterable[float] | None = None,
) -> Course:
    """Runs copies of an optimizer's schedulers ahead, of whatever they set: learning rate, momentum, weight decay.

    The copies step a stand-in with the same parameter groups and no parameters, so that neither the real schedulers nor
    the real optimizer move. What cannot be copied or run ahead is taken to stay as it is.

    Args:
        optimizer: whose rates.
        group: which parameter group.
        schedules: that set the rate of this optimizer.
        steps: the optimizer steps, in whatever form the schedules know them: the one being made and those to come.
        keep: what schedules may hold and must never be copied, such as the model.
        lrs: nominal rates after each of the steps, which replace those of the schedules.

    Returns:
        Rate and decay after each of the steps, which are those of the next.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> halving = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        >>> course = run_ahead(optimizer, 0, [LRSchedule(halving, lambda step: step % 2 == 0)], range(1, 4))
        >>> list(course.lrs), optimizer.param_groups[0]["lr"]
        ([1.0, 0.5, 0.5], 1.0)
    """
    stand_in = _stand_in(optimizer)
    settings, step_rates = stand_in.param_groups[group], StepRates(optimizer)
    optimizers = [optimizer, *(getattr(schedule.scheduler, "optimizer", optimizer) for schedule in schedules)]
    memo = {id(item): stand_in for item in optimizers} | {id(item): item for item in keep}
    try:
        copies = [schedule._replace(scheduler=copy.deepcopy(schedule.scheduler, memo)) for schedule in schedules]
    except Exception:  # a schedule may hold anything, and observing must never end a run
        copies = []
    rates, decays, steps_run = array("d"), array("d"), 0
    is_run, given_lrs = len(copies) == len(schedules), None if lrs is None else iter(lrs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of stepping past a schedule's end, or ahead of an optimizer that stands still
        for step in steps:
            try:
                for schedule in copies:
                    for _ in range(schedule.times if schedule.is_due(step) else 0):
                        schedule.scheduler.step()
                        steps_run += 1
            except Exception:  # asked to go past its end, it keeps its last rate
                copies, is_run = [], steps_run > 0
            if given_lrs is not None:
                settings["lr"] = next(given_lrs)
            rate, decay = step_rates.read(settings)
            rates.append(rate)
            decays.append(decay)
    return Course(rates, decays, is_run)


MOST_STEPS_AHEAD = 2_000_000
"""A scheduler takes one to six microseconds a step, so that a plan of this length is run ahead in a few seconds."""


class _Plan(NamedTuple):
    """The course to the end of a run, and the rate and decay of the step during which it was foreseen."""

    present: tuple[float, float]
    course: Course
    schedulers: tuple[int, ...]

    def before(self, remaining: int) -> tuple[float, float]:
        """Rate and decay of the step after which so many remain."""
        passed = len(self.course.lrs) - remaining
        return (self.course.lrs[passed - 1], self.course.decays[passed - 1]) if passed else self.present

    def stays(self) -> bool:
        """Whether no step to come was to differ from the present one."""
        lr, decay = self.present
        return set(self.course.lrs) <= {lr} and set(self.course.decays) <= {decay}


class PlannedRates:
    """The rates of the steps to come, run ahead once for each parameter group and read for as long as they come true.

    Where a group's rate or decay is not what was foreseen for it, or its schedulers are others, they are run ahead
    anew. A group without a scheduler keeps both however long the plan is; a scheduler is run ahead at most
    ``MOST_STEPS_AHEAD`` steps.

    Args:
        warn: says once that a plan is too long, and once that a schedule cannot be run ahead.
        lrs: gives the nominal rate of a step, for schedules that cannot.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> halving = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        >>> rates = PlannedRates(print)
        >>> rates.trace(optimizer, 0, [LRSchedule(halving, lambda step: True)], range(3), 3).mean
        0.2916...
        >>> rates.trace(optimizer, 0, [], range(10**9), 10**9).mean
        1.0
    """

    def __init__(self, warn: Callable[[str], object], lrs: LearningRates | None = None) -> None:
        self._warn, self._lrs = warn, lrs
        self._sentences: set[str] = set()
        self._plans: dict[tuple[int, int], _Plan] = {}
        self._constants: dict[tuple[int, int], tuple[float, float]] = {}

    def trace(
        self,
        optimizer: torch.optim.Optimizer,
        group: int,
        schedules: Sequence[LRSchedule],
        steps: Iterable[Any],
        remaining: int,
        *,
        first: int = 0,
        past: EffectiveTrace | None = None,
        keep: Iterable[Any] = (),
    ) -> EffectiveTrace | None:
        """Rates and decays of the steps that remain; ``None`` if they are too many to run a schedule through.

        Args:
            optimizer: whose rates.
            group: which parameter group.
            schedules: that set the rate of this optimizer.
            steps: the steps that remain, the one being made first; read only where they are run ahead.
            remaining: how many there are.
            first: the number, from 0, of the first step to come.
            past: steps up to now: if they were not all alike, and no schedule is known, that is said.
            keep: what schedules may hold and must never be copied.
        """
        present, key = StepRates(optimizer).read(optimizer.param_groups[group]), (id(optimizer), group)
        if not schedules and self._lrs is None:
            if (past is not None and not past.is_constant) or self._constants.get(key, present) != present:
                self.say_unforeseeable(optimizer)
            self._constants[key] = present
            return EffectiveTrace.constant(*present, remaining)
        if remaining > MOST_STEPS_AHEAD:
            self._say_once(_TOO_LONG.format(most=MOST_STEPS_AHEAD, planned=remaining))
            return None
        schedulers = tuple(id(schedule.scheduler) for schedule in schedules)
        plan = self._plans.get(key)
        if (
            plan is None
            or plan.schedulers != schedulers
            or remaining > len(plan.course.lrs)
            or not _alike(plan.before(remaining), present)
        ):
            if plan is not None and plan.schedulers == schedulers and plan.stays():
                self.say_unforeseeable(optimizer)
            lrs = self._given_lrs(optimizer, first, remaining)
            course = run_ahead(optimizer, group, schedules, steps, keep=keep, lrs=lrs)
            if not (course.is_run or self._lrs or plan):
                self.say_unforeseeable(optimizer)
            plan = self._plans[key] = _Plan(present, course, schedulers)
        return plan.course.trace(remaining)

    def say_unforeseeable(self, optimizer: torch.optim.Optimizer) -> None:
        """Says once that forecasts go by the present settings, and how to pass rates."""
        self._say_once(_UNFORESEEABLE.format(optimizer=type(optimizer).__name__))

    def _given_lrs(self, optimizer: torch.optim.Optimizer, first: int, count: int) -> list[float] | None:
        """The rates that the user's function gives; ``None`` without one, or if it does not give rates.

        It may set them too, as open_clip's does: the optimizer is left as it was.
        """
        if self._lrs is None:
            return None
        settings = [{**group} for group in optimizer.param_groups]
        try:
            lrs = [float(self._lrs(step)) for step in range(first, first + count)]
        except Exception as error:  # observing must never end a run
            self._say_once(f"lrs: it failed ({error}), so forecasts take the learning rate to stay as it is now")
            return None
        finally:
            for group, setting in zip(optimizer.param_groups, settings, strict=True):
                group.update(setting)
        if not all(math.isfinite(lr) and lr >= 0 for lr in lrs):
            self._say_once("lrs: expected learning rates from 0 up, so forecasts take the rate to stay as it is now")
            return None
        return lrs

    def _say_once(self, sentence: str) -> None:
        kind = sentence[:10]
        if kind not in self._sentences:
            self._sentences.add(kind)
            self._warn(sentence)


_TOO_LONG = (
    "a schedule is run ahead {most:,} steps at most and {planned:,} are planned, so norms at the end are not forecast; "
    "pass the number that you mean to make (max_steps or max_epochs of the Trainer, total_steps of NormObserver)"
)
_UNFORESEEABLE = (
    "learning rate, momentum or weight decay of {optimizer} are set by something that cannot be run ahead, so norms at "
    "the end are forecast as if they stayed as they are now; pass lrs=, a function from the number of a step (from 0) "
    "to its learning rate"
)


def _alike(settings: tuple[float, float], others: tuple[float, float]) -> bool:
    return all(
        value == other or (value != value and other != other) for value, other in zip(settings, others, strict=True)
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
