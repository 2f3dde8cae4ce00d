"""Watches an encoder: its output in training, and the norms of a fixed probe around measured steps."""

from __future__ import annotations

from typing import Any

from lightning_normdyn.capture.call import FirstCalls
from lightning_normdyn.capture.output import OutputStep
from lightning_normdyn.capture.table import Clipping
from lightning_normdyn.core.dynamics.step_rates import StepRates
from lightning_normdyn.instruments.encoder_balance import EncoderBalance
from lightning_normdyn.instruments.output_watch import OutputWatch


class EncoderWatch(OutputWatch):
    """An output whose norms are also followed on a probe, which the user's instruments are shown too.

    Args:
        balance: measures the probe.
        probe_items: most items that are kept of a call, for the probe; 0 if it comes from elsewhere.
        options: see :class:`OutputWatch`.
    """

    def __init__(self, *args: Any, balance: EncoderBalance, probe_items: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.balance = self.measurements["balance"] = balance
        self._rates = StepRates(self.optimizer)
        self._first_calls = FirstCalls(self.target, probe_items)

    def detach(self) -> None:
        """Removes every hook."""
        super().detach()
        self._first_calls.detach()

    def _start(self) -> None:
        if self.balance.probe is None and self._first_calls.most_items:
            self._first_calls.attach(self._on_error)

    def _look_before(self, clipping: Clipping) -> None:
        del clipping  # a probe has no gradient
        if self.balance.is_due(self.steps + 1):
            self._meet(f"before step {self.steps + 1}")
        self.balance.look_before(self.steps + 1, self._first_calls.calls)
        if self.balance.probe is not None:
            self._first_calls.detach()

    def finish(self) -> None:
        """Lets every measurement conclude, after the last step."""
        if self.balance.probe is not None:
            self._meet(f"its end after step {self.steps}")
        super().finish()

    def _computes_together(self) -> bool:
        is_shown = not self.balance.gave_up and bool(self._adapters_due(self.steps))
        return super()._computes_together() or self.balance.encodes_after(self.steps, wants_vectors=is_shown)

    def _look_after(self) -> None:
        super()._look_after()
        due = [] if self.balance.gave_up else self._adapters_due(self.steps)
        rate, group_decay = self._rates.read(self.balance.encoder_plan.group())
        vectors = self.balance.look_after(self.steps, rate, group_decay, wants_vectors=bool(due))
        if vectors is not None:
            for adapter in due:
                adapter.show(self.steps, vectors, "probe")

    def _hear(self, output_step: OutputStep) -> None:
        super()._hear(output_step)
        self.balance.hear(output_step.radial_square, output_step.gradient_square)

    def _listens(self, step: int) -> bool:
        return super()._listens(step) or self.balance.is_due(step)

    def _shows_outputs(self) -> bool:
        return self.balance.gave_up
