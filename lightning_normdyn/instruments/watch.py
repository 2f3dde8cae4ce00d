"""One target under observation: its steps counted, its instruments served, its findings drained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.capture.output import OutputStep, OutputTarget
from lightning_normdyn.capture.table import TableStep, TableTarget
from lightning_normdyn.history.run import TargetHistory
from lightning_normdyn.instruments.base import Instrument, Need, Readings, is_due
from lightning_normdyn.instruments.output import summarise_output


class OutputCadence(NamedTuple):
    """Every how many steps an output's norms and gradients are measured; ``None`` for never."""

    norms: int | None
    gradient: int | None

    def due(self, step: int) -> bool:
        """Whether anything is measured at this step."""
        return any(every is not None and is_due(step, every) for every in self)


class TableWatch:
    """Serves the instruments of one table through the steps of its optimizer.

    A step is counted when the optimizer has really made it: one that a loss scaler skipped is announced and never
    completed.

    Args:
        target: the table.
        optimizer: the optimizer that owns it; ``None`` if none does, and then only its norms can be read.
        group: the parameter group it is in.
        instruments: name to instrument.
        history: where rows and scalars are recorded; ``None`` to keep nothing.
    """

    def __init__(
        self,
        target: TableTarget,
        optimizer: torch.optim.Optimizer,
        group: int,
        instruments: dict[str, Instrument],
        history: TargetHistory | None = None,
    ) -> None:
        self.target = target
        self.optimizer = optimizer
        self.history = history
        self.steps = 0
        self.skipped = 0
        self._restored = False
        self._group = group
        self._instruments = instruments
        self._announced = False
        self._seen: TableStep | None = None

    def begin(self, steps_made: int) -> None:
        """Starts to listen, after weights and state were restored.

        Args:
            steps_made: steps that were made before, in case no state tells.
        """
        if not self._restored:
            self.steps = steps_made
        self.target.attach()
        for instrument in self._instruments.values():
            instrument.begin(self.steps)
        self._prepare()

    def before_step(self, *, unclipped: bool) -> None:
        """Announces a step: gradients are there and unscaled, weights are old.

        Args:
            unclipped: whether the gradient may still be clipped.
        """
        if self._announced:
            if isinstance(self.optimizer, torch.optim.LBFGS):
                return  # it evaluates several times a step, and the first shows the weights that the step started from
            self.skipped += 1
        self._announced = self.target.parameter.grad is not None
        self._seen = None
        if self._announced and self._need:
            self._seen = TableStep(
                self.target,
                touched=Need.TOUCHED in self._need,
                tracked=Need.TRACKED in self._need,
                unclipped=unclipped,
            )

    def after_step(self) -> None:
        """Completes the step that was announced: the optimizer has moved the weights."""
        if not self._announced:
            return
        self._announced = False
        if _was_skipped_inside(self.optimizer):
            self._skip()
            return
        self.steps += 1
        lr = float(self.optimizer.param_groups[self._group]["lr"])  # a restored optimizer has new group dicts
        for instrument in self._instruments.values():
            instrument.passed(lr)
        if self._seen is not None:
            self._seen.complete(lr)
            for instrument in self._instruments.values():
                if instrument.need(self.steps):
                    instrument.observe(self.steps, self._seen)
            self._seen = None
        self._prepare()

    def end_batch(self) -> None:
        """Notes that a step which was announced has not been made: a loss scaler skipped it."""
        if self._announced:
            self._skip()

    def finish(self) -> None:
        """Lets the instruments conclude."""
        if self.steps:
            for instrument in self._instruments.values():
                instrument.finish(self.steps)

    def drain(self) -> Readings:
        """Scalars read since the last call; rows go to the history."""
        readings: Readings = {}
        rows: dict[str, Tensor] = {}
        for instrument in self._instruments.values():
            readings |= instrument.readings()
            rows |= instrument.rows()
        if readings:
            readings["skipped_steps"] = float(self.skipped)
        if rows and self.history is not None:
            columns = {name: column.detach().float().cpu().numpy() for name, column in rows.items()}
            numbers = self.target.row_numbers()
            steps = torch.full_like(numbers, self.steps)
            self.history.trajectory_log.append({"step": steps.numpy(), "row": numbers.numpy(), **columns})
        return readings

    def state_dict(self) -> dict[str, Any]:
        """Counts and the state of the instruments, for a checkpoint."""
        return {
            "shape": [self.target.rows, self.target.dim, self.target.stride],
            "steps": self.steps,
            "skipped": self.skipped,
            "instruments": {name: instrument.state_dict() for name, instrument in self._instruments.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave.

        Raises:
            ValueError: if it is of a table of another shape, or sampled at another stride.
        """
        shape = [self.target.rows, self.target.dim, self.target.stride]
        if state["shape"] != shape:
            raise ValueError(f"'{self.target.name}' had [rows, dim, stride] = {state['shape']} and has {shape} now")
        self.steps, self.skipped, self._restored = state["steps"], state["skipped"], True
        for name, instrument in self._instruments.items():
            if name in state["instruments"]:
                instrument.load_state_dict(state["instruments"][name])

    def _skip(self) -> None:
        self.skipped += 1
        self._announced, self._seen = False, None
        self._prepare()

    def _prepare(self) -> None:
        """Works out what the next step must show, so that nothing is kept for a step that nobody measures."""
        self._need = Need.NOTHING
        for instrument in self._instruments.values():
            self._need |= instrument.need(self.steps + 1)
        self.target.arm(Need.TOUCHED in self._need)


class OutputWatch:
    """Measures the output of one submodule on the steps of its optimizer.

    Args:
        target: the submodule.
        optimizer: the optimizer whose steps count.
        cadence: every how many steps to measure.
        loss_scale: gives the factor by which the loss is scaled up now.
        merge_ranks: makes one step of the steps of all ranks; called on every rank.
        ranks: over how many ranks the loss is averaged.
        history: where scalars are recorded; ``None`` to keep nothing.
    """

    def __init__(
        self,
        target: OutputTarget,
        optimizer: torch.optim.Optimizer,
        cadence: OutputCadence,
        *,
        loss_scale: Callable[[], float] = lambda: 1.0,
        merge_ranks: Callable[[OutputStep | None], OutputStep | None] = lambda seen: seen,
        ranks: int = 1,
        history: TargetHistory | None = None,
    ) -> None:
        self.target = target
        self.optimizer = optimizer
        self.history = history
        self.steps = 0
        self.skipped = 0
        self._restored = False
        self._cadence = cadence
        self._loss_scale, self._merge_ranks, self._ranks = loss_scale, merge_ranks, ranks
        self._announced = False
        self._readings: Readings = {}

    def begin(self, steps_made: int) -> None:
        """Starts to listen; ``steps_made`` came before, in case no state tells."""
        if not self._restored:
            self.steps = steps_made
        self.target.attach()
        self._prepare()

    def before_step(self, *, unclipped: bool) -> None:
        """Announces a step."""
        del unclipped
        self.skipped += self._announced and not isinstance(self.optimizer, torch.optim.LBFGS)
        self._announced = True

    def after_step(self) -> None:
        """Completes the step that was announced."""
        if not self._announced:
            return
        if _was_skipped_inside(self.optimizer):
            self._skip()
            return
        self._announced = False
        self.steps += 1
        if self._cadence.due(self.steps):
            self._measure()
        self._prepare()

    def end_batch(self) -> None:
        """Notes that a step which was announced has not been made: a loss scaler skipped it."""
        if self._announced:
            self._skip()

    def finish(self) -> None:
        """Nothing is pending."""

    def drain(self) -> Readings:
        """Scalars read since the last call."""
        readings, self._readings = self._readings, {}
        if readings:
            readings["skipped_steps"] = float(self.skipped)
        return readings

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"steps": self.steps, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        self.steps, self.skipped, self._restored = state["steps"], state["skipped"], True

    def _skip(self) -> None:
        self.skipped += 1
        self._announced = False
        self._prepare()

    def _prepare(self) -> None:
        """Forgets what was heard, and listens again if the next step is measured."""
        self.target.arm(self._cadence.due(self.steps + 1))

    def _measure(self) -> None:
        seen = self._merge_ranks(self.target.step())
        if seen is not None:
            every_norm, every_gradient = self._cadence
            self._readings = summarise_output(
                seen,
                norms=every_norm is not None and is_due(self.steps, every_norm),
                gradient=every_gradient is not None and is_due(self.steps, every_gradient),
                loss_scale=self._loss_scale(),
                ranks=self._ranks,
            )


Watch = TableWatch | OutputWatch


def _was_skipped_inside(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a fused optimizer, which gets the scaler's verdict with the step, left the weights alone."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)
