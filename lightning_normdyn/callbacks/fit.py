"""The monitor that fits the equilibrium law online."""

from __future__ import annotations

from lightning_normdyn.callbacks.monitor import NormMonitor
from lightning_normdyn.capture.targets import Targets
from lightning_normdyn.instruments.probe_source import ProbeSource
from lightning_normdyn.instruments.selection import Selection
from lightning_normdyn.instruments.suite import FitCadence, Suite


class EquilibriumFitMonitor(NormMonitor):
    """Predicts the norms of embedding tables from gradients and hyper-parameters, and says how well that went.

    Args:
        targets: ``"auto"`` for every trainable embedding table, or a list of patterns over parameter names.
        every_n_steps: cadence of the gradient moments of the touched rows. ``None`` reads every step of a window of
            less than 1,000, then fewer, down to every fifth: enough are left, but very rare rows want every step.
        sample_every_n_steps: cadence of the quiet terms, for which all tracked rows are read.
        window: length of a fit window, as a share of the run (below 1) or a number of steps.
        forecast_at: share of the run at which the norms at its end are forecast.
        max_tracked_rows: most rows of a table that are fitted; larger tables are sampled at an even stride.
        save_history: whether to keep moments and predictions on disk.
        probe: what an encoder encodes again around measured steps, see :class:`NormDynamics`.
        probe_items: most items that are kept of each call.

    Example:
        >>> monitor = EquilibriumFitMonitor(window=1000)
    """

    def __init__(
        self,
        *,
        targets: Targets = "auto",
        every_n_steps: int | None = None,
        sample_every_n_steps: int = 50,
        window: float = 0.2,
        forecast_at: float = 0.4,
        max_tracked_rows: int = 16_384,
        save_history: bool = True,
        probe: ProbeSource = None,
        probe_items: int = 64,
    ) -> None:
        super().__init__(
            Suite(fit=FitCadence(every_n_steps, sample_every_n_steps, window, forecast_at)),
            Selection(targets, max_tracked_rows, probe, probe_items),
            save_history=save_history,
        )
        self.every_n_steps, self.sample_every_n_steps = every_n_steps, sample_every_n_steps
        self.window, self.forecast_at = window, forecast_at
