"""An encoder under observation: what it gives in training, and what training does to the norms of a probe."""

from __future__ import annotations

from typing import Any

import torch

from lightning_normdyn.capture.call import FirstCalls
from lightning_normdyn.capture.output import OutputStep
from lightning_normdyn.capture.table import Clipping
from lightning_normdyn.core.dynamics.optimizers import nominal_lr
from lightning_normdyn.instruments.base import Readings
from lightning_normdyn.instruments.encoder_balance import EncoderBalance
from lightning_normdyn.instruments.output_watch import OutputWatch


class EncoderWatch(OutputWatch):
    """An output whose norms are also followed on a probe.

    Args:
        balance: measures the probe.
        probe_items: most items that are kept of a call, for the probe; 0 if it comes from elsewhere.
        options: see :class:`OutputWatch`.
    """

    def __init__(self, *args: Any, balance: EncoderBalance, probe_items: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.balance = balance
        self._first_calls = FirstCalls(self.target.name, self.target.module, probe_items)

    def finish(self) -> None:
        """Lets the balance conclude."""
        self.balance.finish(self.steps)

    def detach(self) -> None:
        """Removes every hook."""
        super().detach()
        self._first_calls.detach()

    def state_dict(self) -> dict[str, Any]:
        """The counts and the balance, for a checkpoint."""
        return super().state_dict() | {"balance": self.balance.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        super().load_state_dict(state)
        self.balance.load_state_dict(state.get("balance", {}))

    def _start(self) -> None:
        if self.balance.probe is None and self._first_calls.most:
            self._first_calls.attach()

    def _look_before(self, clipping: Clipping) -> None:
        del clipping  # a probe has no gradient
        self.balance.look_before(self.steps + 1, self._first_calls.calls)
        if self.balance.probe is not None:
            self._first_calls.detach()

    def _look_after(self) -> None:
        super()._look_after()
        self.balance.look_after(self.steps, nominal_lr(self._group()))

    def _hear(self, seen: OutputStep) -> None:
        super()._hear(seen)
        self.balance.hear(seen.radial_square, seen.gradient_square)

    def _listens(self, step: int) -> bool:
        return super()._listens(step) or self.balance.is_due(step)

    def _drain(self) -> Readings:
        rows = self.balance.rows()
        if rows:
            self._record(torch.arange(len(rows["norm"])), rows)
        return super()._drain() | self.balance.readings()

    def _group(self) -> dict[str, Any]:
        """The parameter group whose learning rate counts."""
        return self.balance.plan.group()
