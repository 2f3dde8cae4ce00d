"""All three monitors in one callback."""

from __future__ import annotations

from lightning_normdyn.callbacks.monitor import NormMonitor
from lightning_normdyn.capture.targets import Targets
from lightning_normdyn.instruments.base import check_every
from lightning_normdyn.instruments.probe_source import ProbeSource
from lightning_normdyn.instruments.suite import FitCadence, Selection, Suite


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
        probe_items: most items that are kept of each call.

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
            Suite.whole(
                every_n_steps=every_n_steps,
                fit_every_n_steps=fit_every_n_steps,
                window=window,
                forecast_at=forecast_at,
            ),
            Selection(targets, max_tracked_rows, probe, probe_items),
            save_history=save_history,
        )
        self.every_n_steps, self.fit_every_n_steps = every_n_steps, fit_every_n_steps
        self.window, self.forecast_at = window, forecast_at


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


class GradientSplitMonitor(NormMonitor):
    """Splits gradients and applied updates into radial and tangential parts, and keeps the budget of squared norms.

    Args:
        targets: ``"auto"`` for every trainable embedding table, or patterns over parameter and submodule names.
        every_n_steps: cadence, in optimizer steps.
        max_tracked_rows: most rows of a table whose update is measured; larger tables are sampled at an even stride.
        save_history: whether to keep a history on disk.

    Example:
        >>> monitor = GradientSplitMonitor(every_n_steps=100)
    """

    def __init__(
        self,
        *,
        targets: Targets = "auto",
        every_n_steps: int = 50,
        max_tracked_rows: int = 16_384,
        save_history: bool = True,
    ) -> None:
        suite = Suite(split=check_every("every_n_steps", every_n_steps))
        super().__init__(suite, Selection(targets, max_tracked_rows), save_history=save_history)
        self.every_n_steps = every_n_steps


class NormTrajectoryMonitor(NormMonitor):
    """Follows the norms of embedding tables and of submodules' outputs.

    Logs mean, coefficient of variation and quantiles, and keeps the norm of every tracked row in
    ``<log_dir>/normdyn/<target>/trajectory/``.

    Args:
        targets: ``"auto"`` for every trainable embedding table, or patterns over parameter and submodule names.
        every_n_steps: cadence, in optimizer steps.
        max_tracked_rows: most rows of a table that are tracked; larger tables are sampled at an even stride.
        save_history: whether to keep a history on disk.

    Example:
        >>> monitor = NormTrajectoryMonitor(targets=["encoder.*.weight"], every_n_steps=10)
    """

    def __init__(
        self,
        *,
        targets: Targets = "auto",
        every_n_steps: int = 50,
        max_tracked_rows: int = 16_384,
        save_history: bool = True,
    ) -> None:
        suite = Suite(trajectory=check_every("every_n_steps", every_n_steps))
        super().__init__(suite, Selection(targets, max_tracked_rows), save_history=save_history)
        self.every_n_steps = every_n_steps
