"""``Measures``: builds the built-in instruments of a table, an output or a probe, for a choice of what to measure."""

from __future__ import annotations

from typing import NamedTuple

import torch

from lightning_normdyn.capture.table import TableTarget
from lightning_normdyn.instruments.base import TableInstrument
from lightning_normdyn.instruments.clip_share import ClipShare
from lightning_normdyn.instruments.dead_rows import DeadRows
from lightning_normdyn.instruments.encoder_balance import EncoderBalance, EncoderPlan
from lightning_normdyn.instruments.fit import EquilibriumFit
from lightning_normdyn.instruments.gradient_split import GradientSplit
from lightning_normdyn.instruments.met_rows import MetRows
from lightning_normdyn.instruments.options import NormOptions
from lightning_normdyn.instruments.output_watch import OutputCadence
from lightning_normdyn.instruments.trajectory import NormTrajectory
from lightning_normdyn.instruments.windowed_fit import TrainingPlan


class Measures(NamedTuple):
    """What a monitor measures.

    Attributes:
        trajectory: norms.
        split: gradients, updates and budgets.
        fit: the equilibrium fit of tables, and the balance of encoders.
    """

    trajectory: bool = False
    split: bool = False
    fit: bool = False

    def of_table(
        self, target: TableTarget, optimizer: torch.optim.Optimizer, plan: TrainingPlan, options: NormOptions
    ) -> dict[str, TableInstrument]:
        """What measures a table, by name."""
        instruments: dict[str, TableInstrument] = {}
        every_n_steps = options["every_n_steps"]
        if self.trajectory:
            met_rows = MetRows(target, every_n_steps, plan.rule)
            instruments["met"] = met_rows
            instruments["trajectory"] = NormTrajectory(every_n_steps, met_rows)
            instruments["dead"] = DeadRows(every_n_steps, met_rows, plan.rule)
        if self.split:
            instruments["split"] = GradientSplit(every_n_steps, plan.rule)
            instruments["clip"] = ClipShare(every_n_steps, optimizer)
        if self.fit:
            instruments["fit"] = EquilibriumFit(
                target,
                plan,
                every_n_steps=every_n_steps,
                fit_every_n_steps=options["fit_every_n_steps"],
                window=options["window"],
                forecast_at=options["forecast_at"],
            )
        return instruments

    def of_probe(self, encoder_plan: EncoderPlan, options: NormOptions) -> EncoderBalance | None:
        """What follows the norms of a probe through an encoder; ``None`` without a fit."""
        if not self.fit:
            return None
        return EncoderBalance(
            encoder_plan,
            every_n_steps=options["every_n_steps"],
            window=options["window"],
            forecast_at=options["forecast_at"],
        )

    def output_cadence(self, options: NormOptions) -> OutputCadence:
        """How often an output is measured."""
        every_n_steps = options["every_n_steps"]
        return OutputCadence(
            norms=every_n_steps if self.trajectory else None, gradient=every_n_steps if self.split else None
        )


ALL_MEASURES = Measures(trajectory=True, split=True, fit=True)
