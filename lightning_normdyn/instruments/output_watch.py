"""A submodule's output under observation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.capture.output import OutputStep, OutputTarget
from lightning_normdyn.history.run import TargetHistory
from lightning_normdyn.instruments.base import Readings, is_due
from lightning_normdyn.instruments.trajectory import summarise_norms
from lightning_normdyn.instruments.watch import Watch


class OutputCadence(NamedTuple):
    """Every how many steps an output's norms and gradients are measured; ``None`` for never."""

    norms: int | None
    gradient: int | None

    def due(self, step: int) -> bool:
        """Whether anything is measured at this step."""
        return any(every is not None and is_due(step, every) for every in self)


class OutputWatch(Watch):
    """Measures the output of one submodule on the steps of its optimizer.

    Args:
        target: the submodule.
        optimizer: the optimizer whose steps count.
        cadence: every how many steps to measure.
        loss_scale: gives the factor by which the loss is scaled up now.
        merge_ranks: makes one step of the steps of all ranks; called on every rank.
        ranks: over how many ranks the loss is averaged.
        history: where scalars are recorded; ``None`` to keep nothing.
    """

    target: OutputTarget

    def __init__(
        self,
        target: OutputTarget,
        optimizer: torch.optim.Optimizer,
        cadence: OutputCadence,
        *,
        loss_scale: Callable[[], float] = lambda: 1.0,
        merge_ranks: Callable[[OutputStep | None], OutputStep | None] = lambda seen: seen,
        ranks: int = 1,
        history: TargetHistory | None = None,
    ) -> None:
        super().__init__(target, optimizer, history)
        self._cadence = cadence
        self._loss_scale, self._merge_ranks, self._ranks = loss_scale, merge_ranks, ranks
        self._readings: Readings = {}

    def _look_after(self) -> None:
        if not self._listens(self.steps):
            return
        seen = self._merge_ranks(self.target.step())
        if seen is not None:
            self._hear(seen)

    def _hear(self, seen: OutputStep) -> None:
        """Reads a step that was heard."""
        every_norm, every_gradient = self._cadence
        self._readings = summarise_output(
            seen,
            norms=every_norm is not None and is_due(self.steps, every_norm),
            gradient=every_gradient is not None and is_due(self.steps, every_gradient),
            loss_scale=self._loss_scale(),
            ranks=self._ranks,
        )

    def _listens(self, step: int) -> bool:
        """Whether the submodule's calls are measured in this step."""
        return self._cadence.due(step)

    def _prepare(self) -> None:
        self.target.arm(self._listens(self.steps + 1))

    def _drain(self) -> Readings:
        readings, self._readings = self._readings, {}
        return readings


_GRID = 512


def summarise_output(
    seen: OutputStep, *, norms: bool, gradient: bool, loss_scale: Tensor | float, ranks: int
) -> Readings:
    """What one step says about a submodule's vectors.

    Args:
        seen: the step on this rank.
        norms: whether the norms are wanted.
        gradient: whether the split of the gradient is wanted.
        loss_scale: by how much the loss was scaled up before it was differentiated.
        ranks: over how many ranks the loss is averaged.

    Returns:
        Norm quantities, and ``gradient_norm`` (square root of the summed squares over all vectors of the step) with
        ``radial_fraction``.
    """
    readings = summarise_norms(seen.norms) if norms else {}
    if gradient:
        whole = seen.gradient_square.sqrt()
        readings["gradient_norm"] = whole / loss_scale / ranks
        readings["radial_fraction"] = seen.radial_square.sqrt() / whole
        readings["nonfinite_gradients"] = seen.nonfinite
    return readings


def merge_ranks(gathered_norms: Tensor, gathered_sums: Tensor) -> OutputStep | None:
    """One step from the steps of all ranks; ``None`` if no rank heard anything.

    Args:
        gathered_norms: :func:`quantile_grid` of every rank, ``[ranks, 512]``.
        gathered_sums: the three sums of every rank, ``[ranks, 3]``.
    """
    norms = gathered_norms.flatten()
    return None if bool(norms.isnan().all()) else OutputStep(norms, *gathered_sums.sum(0).unbind())


def quantile_grid(norms: Tensor) -> Tensor:
    """Up to 512 norms as they are, filled up with NaN, and more at 512 evenly spaced ranks; ``[512]``.

    So ranks of unequal batches can be put side by side.
    """
    if norms.numel() <= _GRID:
        return torch.nn.functional.pad(norms, (0, _GRID - norms.numel()), value=torch.nan)
    levels = (torch.arange(_GRID, dtype=norms.dtype, device=norms.device) + 0.5) / _GRID
    return torch.nanquantile(norms, levels)
