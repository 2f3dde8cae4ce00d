"""The time that an observer's own hooks take around an optimizer's step, step by step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import fmean, median
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from lightning_normdyn.instruments import NormObserver

LATE, PLANNED = 9_600, 12_000
READING, MEASURED = 4, 50
"""Cadences late in a run: gradients of touched rows, and everything."""


class StepClock:
    """Surrounds the observer's hooks, before the update and after it.

    Torch calls hooks in the order in which they were registered, those of all optimizers before an optimizer's own
    ahead of a step, and after them behind it.

    Args:
        optimizer: the one that steps.

    Attributes:
        seconds: of each step, by ``"wall"`` and, of the thread's processor time, ``"processor"``.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.seconds: dict[str, list[float]] = {"wall": [], "processor": []}
        self._optimizer = optimizer
        self._spent, self._entered = {"wall": 0.0, "processor": 0.0}, {"wall": 0.0, "processor": 0.0}
        self._handles: list[Any] = []

    def surround_from_before(self) -> None:
        """Registers what comes ahead of the observer's hooks."""
        self._handles.append(register_optimizer_step_pre_hook(self._enter))
        self._handles.append(self._optimizer.register_step_post_hook(self._enter))

    def surround_from_behind(self) -> None:
        """Registers what comes behind them."""
        self._handles.append(self._optimizer.register_step_pre_hook(self._leave))
        self._handles.append(register_optimizer_step_post_hook(self._leave))

    def remove(self) -> None:
        """Removes all hooks."""
        for handle in self._handles:
            handle.remove()

    def end_step(self) -> None:
        """Notes what the step took."""
        for name, seconds in self._spent.items():
            self.seconds[name].append(seconds)
            self._spent[name] = 0.0

    def summary(self, first: int, time_of: str) -> dict[str, float]:
        """Medians over kinds of steps, and the mean over all but the first, in microseconds.

        Args:
            first: steps that were made before the first that was timed.
            time_of: ``"wall"`` or ``"processor"``.
        """
        taken = self.seconds[time_of]
        times = {kind: [] for kind in ("ordinary", "reading", "measured")}
        for number, seconds in enumerate(taken[1:], first + 2):
            times[kind_of(number)].append(seconds * 1e6)
        means = {kind: median(values) for kind, values in times.items()}
        return means | {"mean": fmean(taken[1:]) * 1e6}

    def _enter(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if optimizer is self._optimizer:
            self._entered = _now()

    def _leave(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if optimizer is self._optimizer:
            for name, now in _now().items():
                self._spent[name] += now - self._entered[name]


def _now() -> dict[str, float]:
    return {"wall": time.perf_counter(), "processor": time.thread_time()}


def kind_of(step: int) -> str:
    """What falls due on a step late in a run."""
    if step % MEASURED == 0:
        return "measured"
    return "reading" if step % READING == 0 else "ordinary"


@contextmanager
def clocked(clock: StepClock, observer: NormObserver, steps_made: int) -> Iterator[None]:
    """An observer at work, whose hooks are timed."""
    clock.surround_from_before()
    observer.begin(steps_made)
    clock.surround_from_behind()
    try:
        yield
    finally:
        clock.remove()
        observer.close()
