"""One target under observation, through the steps of its optimizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.capture.table import Clipping, TableTarget
from lightning_normdyn.history.run import TargetHistory
from lightning_normdyn.instruments.base import Readings


class Watch(ABC):
    """Counts the steps that an optimizer really made, and looks at those that are measured.

    A step is announced once gradients are there, and counted when the optimizer has made it: one that a loss scaler
    skipped is announced and never made.

    Args:
        target: what is watched.
        optimizer: the optimizer whose steps count.
        history: where findings are recorded; ``None`` to keep nothing.
    """

    def __init__(
        self, target: TableTarget | OutputTarget, optimizer: torch.optim.Optimizer, history: TargetHistory | None
    ) -> None:
        self.target = target
        self.optimizer = optimizer
        self.history = history
        self.steps = 0
        self.skipped = 0
        self._restored = False
        self._announced = False

    def begin(self, steps_made: int) -> None:
        """Starts to listen, after weights and state were restored.

        Args:
            steps_made: steps that were made before, in case no state tells.
        """
        if not self._restored:
            self.steps = steps_made
        self.target.attach()
        self._start()
        self._prepare()

    def before_step(self, *, clipping: Clipping, scaled: bool) -> None:
        """Announces a step: gradients are there and unscaled, weights are old.

        Args:
            clipping: whether the gradient may still be clipped, or may have been.
            scaled: whether a loss scaler decides if the step is made.
        """
        if self._announced:
            if not scaled:
                return  # it evaluates several times a step; the first look shows the weights that the step started from
            self.skipped += 1
        self._announced = self._takes_part()
        if self._announced:
            self._look_before(clipping)

    def after_step(self) -> None:
        """Completes the step that was announced: the optimizer has moved the weights."""
        if not self._announced:
            return
        if self._was_skipped_inside():
            self._skip()
            return
        self._announced = False
        self.steps += 1
        self._look_after()
        self._prepare()

    def end_batch(self) -> None:
        """Notes that a step which was announced has not been made: a loss scaler skipped it."""
        if self._announced:
            self._skip()

    def finish(self) -> None:
        """Concludes, after the last step."""

    def detach(self) -> None:
        """Removes every hook."""
        self.target.detach()

    def drain(self) -> Readings:
        """Scalars read since the last call; rows go to the history."""
        readings = self._drain()
        if readings:
            readings["skipped_steps"] = float(self.skipped)
        return readings

    def state_dict(self) -> dict[str, Any]:
        """The counts, for a checkpoint."""
        return {"steps": self.steps, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        self.steps, self.skipped, self._restored = state["steps"], state["skipped"], True

    def _record(self, numbers: Tensor, rows: dict[str, Tensor]) -> None:
        """Puts columns ``[n]`` of the rows with these numbers ``[n]`` into the history."""
        if self.history is not None:
            columns = {name: column.detach().float().cpu().numpy() for name, column in rows.items()}
            steps = torch.full_like(numbers, self.steps)
            self.history.trajectory_log.append({"step": steps.numpy(), "row": numbers.numpy(), **columns})

    def _skip(self) -> None:
        self.skipped += 1
        self._announced = False
        self._prepare()

    def _was_skipped_inside(self) -> bool:
        """Whether a fused optimizer, which gets the scaler's verdict with the step, left the weights alone."""
        found_inf = getattr(self.optimizer, "found_inf", None)
        return found_inf is not None and bool(found_inf)

    def _start(self) -> None:
        """Gets ready for the first step."""

    def _takes_part(self) -> bool:
        """Whether the step that is announced concerns the target."""
        return True

    def _look_before(self, clipping: Clipping) -> None:
        """Looks at a step before it is made."""

    @abstractmethod
    def _look_after(self) -> None:
        """Looks at a step that was made; it is counted already."""

    @abstractmethod
    def _prepare(self) -> None:
        """Forgets the step before, and works out what the next must show."""

    @abstractmethod
    def _drain(self) -> Readings:
        """Scalars read since the last call."""
