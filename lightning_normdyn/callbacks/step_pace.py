"""How often each optimizer of a manual loop steps, so that it can be told how many steps it will make."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence

import torch

_TINY = 1e-9


class StepPace:
    """Steps a batch of each optimizer, as in a GAN whose discriminator steps three times as often.

    Counted from the first batch in which an optimizer stepped up to the last, which is left out since more steps may
    come in it: exact as soon as an even rhythm came round once.

    Example:
        >>> pace = StepPace()
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> for batch in (2, 5):
        ...     pace.note(optimizer, batch)
        >>> pace.total(optimizer, [optimizer], batches=100, most_steps=None)
        33
    """

    def __init__(self) -> None:
        self._courses: weakref.WeakKeyDictionary[torch.optim.Optimizer, _Course] = weakref.WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[StepPace], tuple[()]]:
        """A copy, or what another process gets, counts from the start: optimizers are not copied along."""
        return StepPace, ()

    def note(self, optimizer: torch.optim.Optimizer, batch: int) -> None:
        """An optimizer is about to step in a batch, numbered from 0 over the whole run."""
        self._courses.setdefault(optimizer, _Course(batch)).note(batch)

    def total(
        self,
        optimizer: torch.optim.Optimizer,
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        batches: float,
        most_steps: int | None,
    ) -> int | None:
        """Steps that an optimizer will make.

        Args:
            optimizer: which one.
            optimizers: all that the loop has.
            batches: of the whole run, as far as they are known.
            most_steps: of all optimizers together, at which the run ends; ``None`` for no such end.

        Returns:
            How many; ``None`` while the pace of one is not known, or where nothing ends the run.
        """
        courses = [self._courses.get(optimizer) for optimizer in optimizers]
        paces = [course.pace for course in courses if course is not None and course.pace]
        if len(paces) < len(optimizers):
            return None
        if most_steps is not None:
            batches = min(batches, most_steps / sum(paces))
        if not math.isfinite(batches):
            return None
        return self._courses[optimizer].total(batches)


class _Course:
    """The steps of one optimizer.

    Args:
        first_batch: the first batch in which it stepped.
    """

    def __init__(self, first_batch: int) -> None:
        self._first_batch = self._last_batch = first_batch
        self._batches_before = self._steps_before = self._steps_in_last = 0

    def note(self, batch: int) -> None:
        """Counts a step."""
        if batch != self._last_batch:
            self._batches_before += 1
            self._steps_before += self._steps_in_last
            self._last_batch, self._steps_in_last = batch, 0
        self._steps_in_last += 1

    @property
    def pace(self) -> float:
        """Steps a batch; 0 before it is known."""
        return self._steps_before / max(1, self._last_batch - self._first_batch)

    def total(self, batches: float) -> int:
        """Steps that it will make in a run of so many batches."""
        share = self._batches_before / (self._last_batch - self._first_batch)  # of batches, in which it steps
        stepping_batches = max(1, math.ceil((batches - self._first_batch) * share - _TINY * batches))
        return round(stepping_batches * self._steps_before / self._batches_before)
