"""Norms and gradient split of a submodule's output vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_normdyn.capture.output import OutputStep
from lightning_normdyn.instruments.base import Readings
from lightning_normdyn.instruments.trajectory import summarise_norms

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
