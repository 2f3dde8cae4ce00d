"""Rows of a table that are too short to be trained, and when those that nothing trains will be."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_normdyn.capture.table import TableStep
from lightning_normdyn.core.dynamics.geometry import most_precise, safe_norm
from lightning_normdyn.core.dynamics.rule import EquilibriumRule
from lightning_normdyn.core.dynamics.trainable_norm import decay_steps, smallest_trainable_norm
from lightning_normdyn.instruments.base import CadencedInstrument, Need
from lightning_normdyn.instruments.decay_alone import decays_apart
from lightning_normdyn.instruments.met_rows import MetRows


class DeadRows(CadencedInstrument):
    """Counts the rows below :func:`smallest_trainable_norm`, and foresees the first of those that were never met.

    Args:
        every_n_steps: cadence, in optimizer steps.
        met_rows: knows which rows were met; observes before this does.
        rule: gives the law of the table's parameter group at its present hyper-parameters.
    """

    def __init__(self, every_n_steps: int, met_rows: MetRows, rule: Callable[[], EquilibriumRule]) -> None:
        super().__init__(every_n_steps)
        self._met_rows, self._rule = met_rows, rule

    def need(self, step: int) -> Need:
        """Norms, and what the step did to the rows that it touched, on the cadence."""
        return Need.NORMS | Need.TOUCHED if self.is_due(step) else Need.NOTHING

    def observe(self, step: int, table_step: TableStep) -> None:
        """Counts after the step."""
        rule = self._rule()
        rate = table_step.lr * rule.lr_gain * rule.radial_decay if decays_apart(rule) else 0.0
        dtype = table_step.target.dtype
        update, norm = _typical_update(table_step, rate)
        limit = smallest_trainable_norm(dtype, table_step.target.dim, update=update, norm=norm, power=rule.power)
        norms = most_precise(table_step.norms)
        is_short = norms < limit
        are_dead = is_short if self._met_rows.covers_all else is_short & self._met_rows.fadeable
        self._readings = {"dead_rows": are_dead.sum(), "dead_at_step": math.inf}
        if self._met_rows.has_met_all:
            return
        waiting = self._met_rows.untouched & (norms >= limit)
        shortest = norms.where(waiting, torch.nan).nan_to_num(torch.inf).amin()
        self._readings["dead_at_step"] = step + decay_steps(limit / shortest, rate, dtype).where(
            waiting.any(), torch.inf
        )


def _typical_update(table_step: TableStep, decay_rate: float) -> tuple[Tensor, Tensor]:
    """Length of what a step adds to a row with a gradient beyond decay, and the row's norm, medians over such rows."""
    before, after = table_step.embedding, table_step.touched_after
    has_gradient = table_step.has_nonzero_gradient
    lengths = safe_norm(after - (1 - decay_rate) * before).where(has_gradient, torch.nan)
    norms = table_step.reading.norms.where(has_gradient, torch.nan)
    return table_step.once_a_row(lengths).nanmedian(), table_step.once_a_row(norms).nanmedian()
