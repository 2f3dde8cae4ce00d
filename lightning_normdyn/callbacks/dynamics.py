"""All three monitors in one callback."""

from __future__ import annotations

from lightning_normdyn.callbacks.monitor import NormMonitor
from lightning_normdyn.capture.table import TableTarget
from lightning_normdyn.capture.targets import Targets
from lightning_normdyn.instruments.base import Instrument, check_every
from lightning_normdyn.instruments.encoder_balance import EncoderBalance, EncoderPlan
from lightning_normdyn.instruments.fit import EquilibriumFit, TrainingPlan
from lightning_normdyn.instruments.forecast import check_forecast_at
from lightning_normdyn.instruments.output_watch import OutputCadence
from lightning_normdyn.instruments.probe_source import ProbeSource
from lightning_normdyn.instruments.split import GradientSplit
from lightning_normdyn.instruments.trajectory import NormTrajectory
from lightning_normdyn.instruments.windows import check_window


class NormDynamics(NormMonitor):
    """Norm trajectories, gradient split and equilibrium fit, sharing one look at each step.

    Args:
        targets: ``"auto"`` for every trainable embedding table, or patterns over parameter and submodule names.
        every_n_steps: cadence of trajectories, splits and budgets, in optimizer steps.
        fit_every_n_steps: cadence of the gradient moments of the touched rows. ``None`` reads every step of a window of
            less than 1,000, then fewer, down to every fifth: enough are left, but very rare rows want every step.
        window: length of a fit window, as a share of the run (below 1) or a number of steps.
        forecast_at: share of the run at which the norms at its end are forecast.
        max_tracked_rows: most rows of a table that are tracked; larger tables are sampled at an even stride.
        save_history: whether to keep a history in ``<log_dir>/normdyn/``.
        probe: what an encoder (a target that is a submodule) encodes again around measured steps. ``None``: what it was
            called with in the first training step; or a batch of its inputs (a mapping is keyword arguments, a list or
            tuple positional ones), a loader of such batches, the path of one that ``torch.save`` wrote, or a mapping of
            target names to any of these; ``False`` for no probe.
        probe_items: most items of a probe, over all ranks.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> trainer = Trainer(callbacks=[NormDynamics()], logger=False, barebones=False)  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        targets: Targets = "auto",
        every_n_steps: int = 50,
        fit_every_n_steps: int | None = None,
        window: float = 0.2,
        forecast_at: float = 0.4,
        max_tracked_rows: int = 16_384,
        save_history: bool = True,
        probe: ProbeSource = None,
        probe_items: int = 64,
    ) -> None:
        super().__init__(
            targets=targets,
            max_tracked_rows=max_tracked_rows,
            save_history=save_history,
            probe=probe,
            probe_items=probe_items,
        )
        self.every_n_steps = check_every("every_n_steps", every_n_steps)
        self.fit_every_n_steps = (
            fit_every_n_steps if fit_every_n_steps is None else check_every("fit_every_n_steps", fit_every_n_steps)
        )
        self.window = check_window(window)
        self.forecast_at = check_forecast_at(forecast_at)

    def _instruments(self, target: TableTarget, plan: TrainingPlan) -> dict[str, Instrument]:
        return {
            "trajectory": NormTrajectory(self.every_n_steps),
            "split": GradientSplit(self.every_n_steps, plan.rule),
            "fit": EquilibriumFit(
                target,
                plan,
                every_n_steps=self.fit_every_n_steps,
                sample_every_n_steps=self.every_n_steps,
                window=self.window,
                forecast_at=self.forecast_at,
            ),
        }

    def _balance(self, plan: EncoderPlan) -> EncoderBalance | None:
        return EncoderBalance(plan, every_n_steps=self.every_n_steps, window=self.window, forecast_at=self.forecast_at)

    def _output_cadence(self) -> OutputCadence:
        return OutputCadence(norms=self.every_n_steps, gradient=self.every_n_steps)
