"""Base class of a target's watch: counts the optimizer's real steps and collects what was measured on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.capture.table import Clipping, TableTarget
from lightning_normdyn.caution import OnError
from lightning_normdyn.history.run_writer import TargetWriter
from lightning_normdyn.instruments.base import Columns, Measurement, Readings
from lightning_normdyn.instruments.meeting import Meeting
from lightning_normdyn.instruments.safeguard import TargetEndedError
from lightning_normdyn.instruments.state_check import Check, fields, whole
from lightning_normdyn.instruments.state_forms import steps_of


class Watch(ABC):
    """Counts the steps that an optimizer really made, and looks at those that are measured.

    A step is announced once gradients are there, and counted when the optimizer has made it: one that a loss scaler
    skipped is announced and never made.

    Args:
        target: what is watched.
        optimizer: the optimizer whose steps count.
        measurements: what measures it, by name.
        history: where readings are recorded; ``None`` to keep nothing.

    Attributes:
        steps: steps of the target that were made.
        skipped_steps: steps that a loss scaler skipped.
        is_paused: whether nothing trains the target for now.
        first_step: steps that were made before it began to listen.
        meeting: where the ranks settle that all of them are about to compute something together; ``None`` for one rank,
            or where each computes alone.
        announced_steps: steps of its optimizer that were announced since, those that left the target alone included.
        may_have_news: whether :meth:`drain` may give anything.
    """

    def __init__(
        self,
        target: TableTarget | OutputTarget,
        optimizer: torch.optim.Optimizer,
        measurements: Mapping[str, Measurement],
        history: TargetWriter | None,
    ) -> None:
        self.target = target
        self.optimizer = optimizer
        self.measurements = dict(measurements)
        self.history = history
        self.steps = self.first_step = self.announced_steps = 0
        self._on_error: OnError | None = None
        self.skipped_steps = 0
        self.is_paused = False
        self.meeting: Meeting | None = None
        self._has_state = False
        self._awaits_step = self._sits_out = False
        self.may_have_news = True

    def begin(self, steps_made: int, *, on_error: OnError | None = None, in_mid_step: bool = False) -> None:
        """Starts to listen, after weights and state were restored.

        Args:
            steps_made: steps that were made before, in case no state tells.
            on_error: takes what goes wrong while it listens; ``None`` lets it through to the training.
            in_mid_step: whether the model was called for the next step already.
        """
        if not self._has_state:
            self.steps = steps_made
        self.first_step = self.steps
        self._on_error, self._sits_out = on_error, in_mid_step and self._hears_calls
        self.target.attach(on_error)
        self._start()
        self._prepare()

    def before_step(self, *, clipping: Clipping, has_scaler: bool) -> None:
        """Announces a step: gradients are there and unscaled, weights are old.

        Args:
            clipping: whether the gradient may still be clipped, or may have been.
            has_scaler: whether a loss scaler decides if the step is made.
        """
        self.announced_steps += 1
        if self._sits_out:
            self._sits_out = False
            self.steps += 1
            self._prepare()
            return
        if self._awaits_step:
            if not has_scaler:
                return  # it evaluates several times a step; the first look shows the weights that the step started from
            self.skipped_steps += 1
        self._awaits_step = self._takes_part()
        if self._awaits_step:
            self._look_before(clipping)

    @property
    def needs_all_ranks(self) -> bool:
        """Whether what it measures is computed by all ranks together."""
        return False

    @property
    def _hears_calls(self) -> bool:
        """Whether it measures what the model is called with, so that it cannot join a step that is under way."""
        return False

    def has_changed(self) -> bool:
        """Whether the model holds something else by the target's name, as far as the next step needs to know."""
        return False

    @property
    def is_in_first_step(self) -> bool:
        """Whether nothing was measured yet but, at most, a first step."""
        return self.steps - self.first_step <= 1

    def read_gradient(self) -> None:
        """Looks at the gradient right before the update, where it is final; may be called several times a step."""

    def after_step(self) -> None:
        """Completes the step that was announced: the optimizer has moved the weights."""
        if not self._awaits_step:
            return
        if self._was_skipped_inside():
            self._skip()
            return
        self._awaits_step = False
        self.steps += 1
        self._look_after()
        self._prepare()

    def end_batch(self) -> None:
        """Notes that a step which was announced has not been made: a loss scaler skipped it."""
        if self._awaits_step:
            self._skip()

    def finish(self) -> None:
        """Lets every measurement conclude, after the last step."""
        if self.steps:
            for measurement in self.measurements.values():
                measurement.finish(self.steps)

    def detach(self) -> None:
        """Removes every hook, and tells the other ranks."""
        self.target.detach()
        if self.meeting is not None:
            self.meeting.leave()

    def _meet(self, act: str) -> None:
        """Waits for the other ranks.

        Raises:
            TargetEndedError: if they are not about to do the same.
        """
        problem = "" if self.meeting is None else self.meeting.settle(act)
        if problem:
            raise TargetEndedError(f"what is measured over all ranks ends, since {problem}")

    def drain(self) -> Readings:
        """Scalars read since the last call; columns go to the history."""
        readings: Readings = {}
        columns: Columns = {}
        for measurement in self.measurements.values():
            new_readings, new_columns = measurement.collect()
            readings |= new_readings
            columns |= new_columns
        if columns:
            self._record(columns)
        if readings:
            readings["skipped_steps"] = float(self.skipped_steps)
        return readings

    def state_dict(self) -> dict[str, Any]:
        """The counts and the state of every measurement, for a checkpoint."""
        states = {name: measurement.state_dict() for name, measurement in self.measurements.items()}
        return {"steps": self.steps, "skipped": self.skipped_steps, "instruments": states}

    def check_state(self, state: Any) -> None:
        """Looks whether a state is one that :meth:`state_dict` gave for this target, before any of it is believed.

        Raises:
            ValueError: with the entry that is not as it must be.
        """
        place = f"'{self.target.name}'"
        forms = self._state_forms()
        states = {name: forms[name] for name in self.measurements if name in forms}
        fields({"steps": whole(), "skipped": whole(), "instruments": fields(states)})(state, place)
        for name in states:
            _check_window(state["instruments"][name], state["steps"], f"{place}.instruments.{name}")

    def _state_forms(self) -> dict[str, Check]:
        """The forms of the states of the built-in measurements that keep one, by name."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        self.steps, self.skipped_steps, self._has_state = state["steps"], state["skipped"], True
        for name, measurement in self.measurements.items():
            if name in state["instruments"]:
                measurement.load_state_dict(state["instruments"][name])

    def _record(self, columns: Columns) -> None:
        """Puts columns ``[n]`` into the history."""
        if self.history is not None:
            row_numbers = self._row_numbers(len(next(iter(columns.values()))))
            arrays = {name: column.detach().float().cpu().numpy() for name, column in columns.items()}
            steps = torch.full_like(row_numbers, self.steps)
            self.history.append_rows({"step": steps.numpy(), "row": row_numbers.numpy(), **arrays})

    def _row_numbers(self, rows: int) -> Tensor:
        """The numbers by which the history knows the rows, ``[rows]``."""
        return torch.arange(rows)

    def _skip(self) -> None:
        self.skipped_steps += 1
        self._awaits_step = False
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


def _check_window(state: dict[str, Any], steps: int, place: str) -> None:
    """Whether an open window holds the rates of all steps since it began."""
    window = state.get("window")
    if window is not None and steps_of(window["rates"]) != steps - state["window_start"]:
        raise ValueError(
            f"{place}: expected the rates of the {steps - state['window_start']} steps since step "
            f"{state['window_start']}, got those of {steps_of(window['rates'])}"
        )
