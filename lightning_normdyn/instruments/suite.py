"""Which instruments measure a target, and how often."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_normdyn.capture.table import TableTarget, check_rows
from lightning_normdyn.capture.targets import Targets, check_targets
from lightning_normdyn.instruments.base import Instrument, check_every
from lightning_normdyn.instruments.encoder_balance import EncoderBalance, EncoderPlan
from lightning_normdyn.instruments.fit import EquilibriumFit, TrainingPlan
from lightning_normdyn.instruments.forecast import check_forecast_at, check_window
from lightning_normdyn.instruments.output_watch import OutputCadence
from lightning_normdyn.instruments.probe_source import ProbeSource, check_probe, check_probe_items
from lightning_normdyn.instruments.split import GradientSplit
from lightning_normdyn.instruments.trajectory import NormTrajectory


@dataclass(frozen=True)
class FitCadence:
    """When the fit looks and what it concludes from.

    Attributes:
        every_n_steps: cadence of the gradient moments of the touched rows; ``None`` to thin them out in long windows.
        sample_every_n_steps: cadence of the quiet terms, for which all tracked rows or the probe are read.
        window: length of a fit window, as a share of the run (below 1) or a number of steps.
        forecast_at: share of the run at which the norms at its end are forecast.
    """

    every_n_steps: int | None = None
    sample_every_n_steps: int = 50
    window: float = 0.2
    forecast_at: float = 0.4

    def __post_init__(self) -> None:
        if self.every_n_steps is not None:
            check_every("every_n_steps", self.every_n_steps)
        check_every("sample_every_n_steps", self.sample_every_n_steps)
        check_window(self.window)
        check_forecast_at(self.forecast_at)


@dataclass(frozen=True)
class Suite:
    """The instruments of one monitor; ``None`` leaves a part out.

    Attributes:
        trajectory: cadence of norms.
        split: cadence of gradients and budgets.
        fit: cadence of the equilibrium fit.

    Example:
        >>> Suite(trajectory=10).output_cadence()
        OutputCadence(norms=10, gradient=None)
    """

    trajectory: int | None = None
    split: int | None = None
    fit: FitCadence | None = None

    def __post_init__(self) -> None:
        for every in (self.trajectory, self.split):
            if every is not None:
                check_every("every_n_steps", every)

    @classmethod
    def whole(cls, *, every_n_steps: int, fit_every_n_steps: int | None, window: float, forecast_at: float) -> Suite:
        """All three, the quiet ones at one cadence."""
        check_every("every_n_steps", every_n_steps)
        if fit_every_n_steps is not None:
            check_every("fit_every_n_steps", fit_every_n_steps)
        fit = FitCadence(fit_every_n_steps, every_n_steps, window, forecast_at)
        return cls(trajectory=every_n_steps, split=every_n_steps, fit=fit)

    def instruments(self, target: TableTarget, plan: TrainingPlan) -> dict[str, Instrument]:
        """What measures a table."""
        found: dict[str, Instrument] = {}
        if self.trajectory is not None:
            found["trajectory"] = NormTrajectory(self.trajectory)
        if self.split is not None:
            found["split"] = GradientSplit(self.split, plan.rule)
        if self.fit is not None:
            found["fit"] = EquilibriumFit(
                target,
                plan,
                every_n_steps=self.fit.every_n_steps,
                sample_every_n_steps=self.fit.sample_every_n_steps,
                window=self.fit.window,
                forecast_at=self.fit.forecast_at,
            )
        return found

    def output_cadence(self) -> OutputCadence:
        """How often an output is measured."""
        return OutputCadence(norms=self.trajectory, gradient=self.split)

    def balance(self, plan: EncoderPlan) -> EncoderBalance | None:
        """What follows the norms of a probe through an encoder; ``None`` without a fit."""
        if self.fit is None:
            return None
        return EncoderBalance(
            plan,
            every_n_steps=self.fit.sample_every_n_steps,
            window=self.fit.window,
            forecast_at=self.fit.forecast_at,
        )


@dataclass(frozen=True)
class Selection:
    """Targets, and how much of them.

    Attributes:
        targets: ``"auto"`` or patterns, see :func:`lightning_normdyn.capture.targets.find_targets`.
        max_tracked_rows: most rows of a table that keep statistics of their own.
        probe: see :data:`lightning_normdyn.instruments.probe_source.ProbeSource`.
        probe_items: most items of a probe.

    Example:
        >>> Selection(targets="encoder")
        Traceback (most recent call last):
            ...
        ValueError: targets: expected 'auto' or a list of patterns, got 'encoder'; write targets=['encoder']
    """

    targets: Targets = "auto"
    max_tracked_rows: int = 16_384
    probe: ProbeSource = None
    probe_items: int = 64

    def __post_init__(self) -> None:
        check_targets(self.targets)
        check_rows(self.max_tracked_rows)
        check_probe(self.probe)
        check_probe_items(self.probe_items)
