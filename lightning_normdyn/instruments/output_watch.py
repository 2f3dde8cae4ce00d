"""Watches the output of a submodule: norms of its vectors and the split of the gradients that reach them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.capture.output import OutputStep, OutputTarget
from lightning_normdyn.history.run_writer import TargetWriter
from lightning_normdyn.instruments.base import Measurement, Readings, is_due
from lightning_normdyn.instruments.instrument import InstrumentAdapter
from lightning_normdyn.instruments.state_check import Check
from lightning_normdyn.instruments.state_forms import output_forms
from lightning_normdyn.instruments.trajectory import summarise_norms
from lightning_normdyn.instruments.watch import Watch


class OutputCadence(NamedTuple):
    """Every how many steps an output's norms and gradients are measured; ``None`` for never."""

    norms: int | None
    gradient: int | None

    def due(self, step: int) -> bool:
        """Whether anything is measured at this step."""
        return any(every_n_steps is not None and is_due(step, every_n_steps) for every_n_steps in self)


class OutputSummary(Measurement):
    """Norms of the vectors of a step, and the split of the gradients that came back to them.

    Args:
        cadence: every how many steps to measure.
        loss_scale: gives the factor by which the loss is scaled up now.
        ranks: over how many ranks the loss is averaged.
    """

    def __init__(self, cadence: OutputCadence, *, loss_scale: Callable[[], float], ranks: int) -> None:
        super().__init__()
        self.cadence = cadence
        self._loss_scale, self._ranks = loss_scale, ranks

    def read(self, step: int, output_step: OutputStep) -> None:
        """Reads a step that was heard."""
        norm_cadence, gradient_cadence = self.cadence
        self._readings = summarise_output(
            output_step,
            norms=norm_cadence is not None and is_due(step, norm_cadence),
            gradient=gradient_cadence is not None and is_due(step, gradient_cadence),
            loss_scale=self._loss_scale(),
            ranks=self._ranks,
        )


class OutputWatch(Watch):
    """Measures the output of one submodule on the steps of its optimizer.

    Args:
        target: the submodule.
        optimizer: the optimizer whose steps count.
        cadence: every how many steps to measure.
        loss_scale: gives the factor by which the loss is scaled up now.
        merge_ranks: makes one step of the steps of all ranks; called on every rank.
        merge_vectors: puts the vectors ``[n, d]`` of all ranks below each other; called on every rank.
        ranks: over how many ranks the loss is averaged.
        adapters: instruments of the user's own, by name.
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
        merge_ranks: Callable[[OutputStep | None], OutputStep | None] = lambda output_step: output_step,
        merge_vectors: Callable[[Tensor | None], Tensor | None] = lambda vectors: vectors,
        ranks: int = 1,
        adapters: Mapping[str, InstrumentAdapter] | None = None,
        history: TargetWriter | None = None,
    ) -> None:
        self._summary = OutputSummary(cadence, loss_scale=loss_scale, ranks=ranks)
        self._adapters = list((adapters or {}).values())
        super().__init__(target, optimizer, {"summary": self._summary, **(adapters or {})}, history)
        self._merge_ranks, self._merge_vectors = merge_ranks, merge_vectors

    @property
    def needs_all_ranks(self) -> bool:
        """Always: each rank hears the vectors of its own batches."""
        return True

    @property
    def _hears_calls(self) -> bool:
        return True

    def has_changed(self) -> bool:
        """Whether the submodule is another now, in steps that are measured."""
        return self._looks_at(self.steps + 1) and not self.target.is_current()

    def _state_forms(self) -> dict[str, Check]:
        return output_forms()

    def _looks_at(self, step: int) -> bool:
        return self._listens(step) or bool(self._adapters_due(step))

    def _computes_together(self) -> bool:
        """Whether something of the step just made is computed by all ranks together."""
        return self._listens(self.steps) or (self._shows_outputs() and bool(self._adapters_due(self.steps)))

    def _look_after(self) -> None:
        # What this rank has heard comes first: an error in it must not leave the others waiting for its share.
        due = self._adapters_due(self.steps) if self._shows_outputs() else []
        listens = self._listens(self.steps)
        vectors = self.target.vectors() if due else None
        output_step = self.target.step() if listens else None
        if self._computes_together():
            self._meet(f"step {self.steps}")
        if due:
            self._show(due, self._merge_vectors(vectors))
        if listens:
            output_step = self._merge_ranks(output_step)
        if output_step is not None:
            self._hear(output_step)

    def _show(self, adapters: Sequence[InstrumentAdapter], vectors: Tensor | None) -> None:
        """Shows vectors ``[n, d]`` to the user's instruments."""
        for adapter in adapters if vectors is not None else []:
            assert vectors is not None
            adapter.show(self.steps, vectors, "output")

    def _hear(self, output_step: OutputStep) -> None:
        """Reads a step that was heard."""
        self._summary.read(self.steps, output_step)

    def _listens(self, step: int) -> bool:
        """Whether the submodule's calls are measured in this step."""
        return self._summary.cadence.due(step)

    def _adapters_due(self, step: int) -> list[InstrumentAdapter]:
        return [adapter for adapter in self._adapters if adapter.is_due(step)]

    def _shows_outputs(self) -> bool:
        """Whether the user's instruments are shown what the submodule returns in training."""
        return True

    def _prepare(self) -> None:
        step = self.steps + 1
        keeps_vectors = self._shows_outputs() and bool(self._adapters_due(step))
        self.target.arm(keeps_vectors or self._listens(step), keeps_vectors=keeps_vectors)


def summarise_output(
    output_step: OutputStep, *, norms: bool, gradient: bool, loss_scale: Tensor | float, ranks: int
) -> Readings:
    """What one step says about a submodule's vectors.

    Args:
        output_step: the step on this rank.
        norms: whether the norms are wanted.
        gradient: whether the split of the gradient is wanted.
        loss_scale: by how much the loss was scaled up before it was differentiated.
        ranks: over how many ranks the loss is averaged.

    Returns:
        Norm quantities and ``common_direction``, and ``gradient_norm`` (square root of the summed squares over all
        vectors of the step) with ``radial_fraction``.
    """
    readings = summarise_norms(output_step.norms) | {"common_direction": output_step.common_direction} if norms else {}
    if gradient:
        length = output_step.gradient_square.sqrt()
        readings["gradient_norm"] = length / loss_scale / ranks
        readings["radial_fraction"] = output_step.radial_square.sqrt() / length
        readings["nonfinite_gradients"] = output_step.nonfinite
    return readings


GRID = 512
"""Norms of a rank that take part in quantiles over all ranks."""


def merge_ranks(gathered_norms: Tensor, gathered_sums: Tensor, gathered_directions: Tensor) -> OutputStep | None:
    """One step from the steps of all ranks; ``None`` if no rank heard anything.

    Args:
        gathered_norms: :func:`quantile_grid` of every rank, ``[ranks, 512]``; NaN of one that heard nothing.
        gathered_sums: squares of the radial gradient and of the whole one, and vectors whose gradient is not finite,
            ``[ranks, 3]``; NaN where a rank heard none.
        gathered_directions: sum of the directions of every rank, and the count of its vectors, ``[ranks, d + 1]``.
    """
    count = int(gathered_directions[:, -1].sum())
    if not count:
        return None
    sums = gathered_sums.nansum(0).where(~gathered_sums.isnan().all(0), torch.nan)
    radial_square, gradient_square, nonfinite = sums.unbind()
    direction_sum = gathered_directions[:, :-1].sum(0)
    return OutputStep(gathered_norms.flatten(), radial_square, gradient_square, nonfinite, direction_sum, count)


def quantile_grid(norms: Tensor) -> Tensor:
    """Up to 512 norms as they are, filled up with NaN, and more at 512 evenly spaced ranks; ``[512]``.

    So ranks of unequal batches can be put side by side.
    """
    if norms.numel() <= GRID:
        return torch.nn.functional.pad(norms, (0, GRID - norms.numel()), value=torch.nan)
    levels = (torch.arange(GRID, dtype=norms.dtype, device=norms.device) + 0.5) / GRID
    return torch.nanquantile(norms, levels)
