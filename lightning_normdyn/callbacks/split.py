"""The monitor of radial and tangential gradients."""

from __future__ import annotations

from lightning_normdyn.callbacks.monitor import NormMonitor
from lightning_normdyn.capture.targets import Targets
from lightning_normdyn.instruments.base import check_every
from lightning_normdyn.instruments.selection import Selection
from lightning_normdyn.instruments.suite import Suite


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
