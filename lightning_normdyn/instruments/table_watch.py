"""Watches an embedding table: looks at each due step once and shows it to all instruments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.capture.fused_step import FusedScarceStep, FusedStep
from lightning_normdyn.capture.fused_table import FusedTable
from lightning_normdyn.capture.scarce_step import ScarceStep
from lightning_normdyn.capture.spread_step import SpreadScarceStep, SpreadStep
from lightning_normdyn.capture.table import Clipping, TableStep, TableTarget
from lightning_normdyn.core.dynamics.geometry import safe_norm
from lightning_normdyn.core.dynamics.rates import nominal_lr
from lightning_normdyn.core.dynamics.step_rates import StepRates
from lightning_normdyn.history.run_writer import TargetWriter
from lightning_normdyn.instruments.base import Need, Readings, TableInstrument
from lightning_normdyn.instruments.state_check import Check, fields, listed, whole
from lightning_normdyn.instruments.state_forms import table_forms
from lightning_normdyn.instruments.watch import Watch


class TableWatch(Watch):
    """Serves the instruments of one table through the steps of its optimizer.

    Args:
        target: the table.
        optimizer: the optimizer that owns it.
        group: the parameter group it is in.
        instruments: name to instrument; the scarce rows of the first that names any are read, and the numbers of the
            first that has any are shared.
        history: where rows and scalars are recorded; ``None`` to keep nothing.
    """

    target: TableTarget

    def __init__(
        self,
        target: TableTarget,
        optimizer: torch.optim.Optimizer,
        group: int,
        instruments: Mapping[str, TableInstrument],
        history: TargetWriter | None = None,
    ) -> None:
        super().__init__(target, optimizer, instruments, history)
        self._last_group = optimizer.param_groups[group]
        self._rates = StepRates(optimizer)
        self._instruments = list(instruments.values())
        self._due_steps = [0] * len(self._instruments)
        self._lr_followers = [i for i in self._instruments if type(i).note_lr is not TableInstrument.note_lr]
        self._rate_followers = [i for i in self._instruments if type(i).note_rate is not TableInstrument.note_rate]
        self._bystanders = [i for i in self._instruments if type(i).overhear is not TableInstrument.overhear]
        self._scarce_reader = next((i for i in self._instruments if type(i).scarce is not TableInstrument.scarce), None)
        self._sharer = next((i for i in self._instruments if type(i).share is not TableInstrument.share), None)
        self._need = Need.NOTHING
        self._has_need = self._hears = False
        self._due: list[TableInstrument] = []
        self._table_step: TableStep | None = None
        self._scarce: Tensor | None = None
        self._scarce_step: ScarceStep | None = None
        self._next_due = 0

    def state_dict(self) -> dict[str, Any]:
        """Counts, shape and the state of the instruments, for a checkpoint."""
        return super().state_dict() | {"shape": self._shape(), "sample": self.target.sample.digest}

    def check_state(self, state: Any) -> None:
        """Looks whether a state is one that :meth:`state_dict` gave for this table.

        Raises:
            ValueError: with the entry that is not as it must be, or if it is of a table of another shape, or of other
                rows of it.
        """
        place, shape = f"'{self.target.name}'", self._shape()
        fields({"shape": listed(whole(1), whole(1), whole())}, later={"sample": whole()})(state, place)
        if list(state["shape"]) != shape:
            raise ValueError(f"{place} had [rows, dim, stride] = {state['shape']} and has {shape} now")
        if state.get("sample", 0) != self.target.sample.digest:
            raise ValueError(f"{place} tracked other rows; pass the row_counts= and max_tracked_rows= of then")
        super().check_state(state)

    def _state_forms(self) -> dict[str, Check]:
        return table_forms(self.target.tracked_rows, is_lost=self._lost_rows())

    def _lost_rows(self) -> Tensor:
        """Rows whose norm is not finite, a mask ``[tracked_rows]``; any, where only all ranks together could tell."""
        if self.target.is_spread:
            return torch.ones(self.target.tracked_rows, dtype=torch.bool)
        return ~safe_norm(self.target.tracked()).isfinite()

    def finish(self) -> None:
        """Lets every instrument conclude, after the last step."""
        self.may_have_news = True
        if self.steps and self.needs_all_ranks:
            self._meet(f"its end after step {self.steps}")
        super().finish()

    @property
    def needs_all_ranks(self) -> bool:
        """Whether the table is sharded over ranks."""
        return self.target.is_spread

    def drain(self) -> Readings:
        """Scalars read since the last call; there are none until a step is shown to an instrument again."""
        self.may_have_news = False
        return super().drain()

    def _shape(self) -> list[int]:
        return [self.target.rows, self.target.dim, self.target.sample.stride]

    def _row_numbers(self, rows: int) -> Tensor:
        return self.target.row_numbers()

    def _start(self) -> None:
        self._forget_due_steps()
        for instrument in self._instruments:
            instrument.begin(self.steps)

    def has_changed(self) -> bool:
        """Whether the parameter is another now, or another in form, or was frozen or unfrozen."""
        parameter, is_seen = self.target.parameter, self._has_need or self._scarce is not None
        if not is_seen and parameter.grad is not None and not self.is_paused:
            return False  # nothing looks at it in this step
        return parameter.requires_grad is self.is_paused or not self.target.is_current()

    def _takes_part(self) -> bool:
        return self.target.has_gradient

    def _look_before(self, clipping: Clipping) -> None:
        if self._scarce is not None:
            kind = ScarceStep if self.target.layout is None else SpreadScarceStep
            self._scarce_step = (
                FusedScarceStep(self.target, self._scarce)
                if isinstance(self.target, FusedTable)
                else kind(self.target, self._scarce)
            )
        if self._has_need:
            touched, tracked = Need.TOUCHED in self._need, Need.TRACKED in self._need
            if isinstance(self.target, FusedTable):
                self._table_step = FusedStep(self.target, touched=touched, tracked=tracked)
            elif self.target.layout is None:
                self._table_step = TableStep(self.target, touched=touched, tracked=tracked, clipping=clipping)
            else:
                norms = Need.NORMS in self._need
                self._table_step = SpreadStep(
                    self.target, touched=touched, tracked=tracked, norms=norms, clipping=clipping
                )

    def read_gradient(self) -> None:
        """Reads it, and copies what an optimizer that is not torch's may overwrite."""
        if not self._awaits_step or not self.target.has_gradient:
            return
        if self._scarce_step is not None:
            self._scarce_step.read_gradient()
        if self._table_step is not None:
            self._table_step.read_gradient(copy=not type(self.optimizer).__module__.startswith("torch.optim"))

    def _look_after(self) -> None:
        group = self._group()
        lr, (rate, radial_decay) = nominal_lr(group), self._rates.read(group)
        for instrument in self._lr_followers:
            instrument.note_lr(lr)
        for instrument in self._rate_followers:
            instrument.note_rate(rate, radial_decay)
        scarce_step, table_step = self._scarce_step, self._table_step
        if (scarce_step is not None or table_step is not None) and self.needs_all_ranks:
            self._read_share()
        if scarce_step is not None:
            self._show_scarce(scarce_step)
        if table_step is not None:
            self._show(table_step, lr)

    def _read_share(self) -> None:
        """Reads what this rank has of the step: an error in it must not leave the others waiting for its share."""
        if isinstance(self._scarce_step, (SpreadScarceStep, FusedScarceStep)):
            self._scarce_step.read_share()
        if isinstance(self._table_step, FusedStep):
            self._table_step.read_share()
        elif isinstance(self._table_step, SpreadStep):
            assert self.target.layout is not None
            sharer = self._sharer if self._sharer in self._due else None
            self._table_step.read_share(None if sharer is None else sharer.share(self.target.layout))
        self._meet(f"step {self.steps}")

    def _show_scarce(self, scarce_step: ScarceStep) -> None:
        scarce_step.complete()
        for instrument in self._bystanders:
            instrument.overhear(scarce_step.gradient, scarce_step.slots)
        assert self._scarce_reader is not None
        self._scarce_reader.observe_scarce(self.steps, scarce_step)

    def _show(self, table_step: TableStep, lr: float) -> None:
        table_step.complete(lr)
        if table_step.wants_touched:
            for instrument in self._bystanders:
                instrument.overhear(table_step.gradient, table_step.slots)
        for instrument in self._due:
            instrument.observe(self.steps, table_step)
        self.may_have_news = any(instrument.has_news for instrument in self._instruments)

    def _group(self) -> dict[str, Any]:
        """The table's parameter group: a restored optimizer has new ones, and callbacks add and remove some."""
        groups = self.optimizer.param_groups
        for group in groups:
            if group is self._last_group:
                return group
        owners = (group for group in groups if any(p is self.target.parameter for p in group["params"]))
        self._last_group = next(owners, self._last_group)
        return self._last_group

    def _prepare(self) -> None:
        step = self.steps + 1
        was_armed = self._scarce is not None or self._has_need
        self._scarce_step = self._scarce = None
        if step >= self._next_due or self._due:
            self._ask(step)
        if self._scarce_reader is not None:
            self._scarce = self._scarce_reader.scarce(step)
        if was_armed or self._scarce is not None or self._has_need:
            self.target.arm(self._scarce is not None or self._hears)

    def _ask(self, step: int) -> None:
        """Asks the instruments whose step it is what they need to see of it."""
        self._table_step, self._need, self._due = None, Need.NOTHING, []
        for place, instrument in enumerate(self._instruments):
            if self._due_steps[place] < step:  # it had its step, after which it may have changed its mind
                self._due_steps[place] = instrument.next_due(step)
            if self._due_steps[place] <= step and (need := instrument.need(step)):
                self._need = self._need | need if self._need else need
                self._due.append(instrument)
        self._has_need, self._hears = bool(self._due), Need.TOUCHED in self._need
        if self.target.backward_norm is not None:
            self.target.backward_norm.arm(Need.TRACKED in self._need)
        self._next_due = min(self._due_steps)

    def _skip(self) -> None:
        self._forget_due_steps()  # the last one comes one earlier
        super()._skip()

    def _forget_due_steps(self) -> None:
        self._due_steps = [0] * len(self._instruments)
        self._next_due = 0
