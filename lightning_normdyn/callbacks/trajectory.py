"""The monitor of norm trajectories."""

from __future__ import annotations

from lightning_normdyn.callbacks.monitor import NormMonitor
from lightning_normdyn.capture.targets import Targets
from lightning_normdyn.instruments.base import check_every
from lightning_normdyn.instruments.selection import Selection
from lightning_normdyn.instruments.suite import Suite


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
