"""Correlations of norms with length and other covariates over a whole validation set, as a metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch
from einops import rearrange
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_normdyn.core import Correlation, norm_correlations
from lightning_normdyn.core.dynamics.geometry import safe_norm
from lightning_normdyn.core.number_checks import check_count, check_share
from lightning_normdyn.core.statistics.correlation import LENGTH, Kind
from lightning_normdyn.core.tensor_checks import check_real_tensors


class NormCorrelations(Metric):
    """Correlation of norms with length and with any covariates, length held fixed, with bootstrap intervals.

    See :func:`~lightning_normdyn.core.norm_correlations`. Keeps a number an item for the norm, its length and every
    covariate, in float64.

    Args:
        covariates: names, by which ``update`` gets them.
        kind: ``spearman`` or ``pearson``.
        resamples: of the bootstrap; 1,000 take about three seconds a covariate at 20,000 items;
            0 leaves the intervals NaN.
        level: share of resamples inside an interval.
        kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: if a covariate has the name of something else that ``update`` takes, or a number is out of range.

    Example:
        >>> metric = NormCorrelations("frequency", kind="pearson")
        >>> documents, frequency = torch.diag(torch.arange(1.0, 5)), torch.arange(4)
        >>> metric.update(documents, length=torch.tensor([3, 1, 2, 2]), frequency=frequency)
        >>> correlations = metric.compute()
        >>> [round(float(correlations[f"correlation_{name}"]), 4) for name in ("frequency", "length")]
        [1.0, -0.3162]
        >>> metric.correlations()["frequency"].n
        4
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    plot_lower_bound = -1.0
    plot_upper_bound = 1.0

    rows: list[Tensor]

    def __init__(
        self,
        *covariates: str,
        kind: Kind = "spearman",
        resamples: int = 1_000,
        level: float = 0.95,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        reserved = {"documents", LENGTH} & set(covariates)
        if reserved:
            raise ValueError(f"covariates: expected names other than {sorted(reserved)}; length is always there")
        if kind not in get_args(Kind):
            raise ValueError(f"kind: expected one of {list(get_args(Kind))}, got {kind!r}")
        check_count(0, resamples=resamples)
        check_share(level=level, hint="0.95 is usual")
        self.covariates, self.kind, self.resamples, self.level = covariates, kind, resamples, level
        # Flat, because a rank that saw nothing gathers a flat empty list, and of the type that is asked for here.
        self.add_state("rows", [], dist_reduce_fx="cat")
        self.set_dtype(torch.float64)

    def update(self, documents: Tensor, length: Tensor, **covariates: Tensor) -> None:
        """Adds a batch.

        Args:
            documents: embeddings before any normalisation, ``[n, d]``.
            length: of the items themselves, ``[n]``.
            covariates: one number an item for each name, ``[n]``; others are passed over.

        Raises:
            ValueError: if something is missing or has not one number an item.
        """
        check_real_tensors(documents=documents)
        norms = safe_norm(documents.detach())
        values = {LENGTH: length, **covariates}
        columns = [norms, *(_column(name, values.get(name), norms) for name in (LENGTH, *self.covariates))]
        self.rows.append(rearrange([column.to(self.dtype) for column in columns], "column n -> (n column)"))

    def correlations(self) -> dict[str, Correlation]:
        """The records by name, ``length`` last; of this rank's items unless within ``sync_context``."""
        rows = dim_zero_cat(self.rows) if len(self.rows) else torch.empty(0, dtype=self.dtype)
        norms, length, *covariates = rearrange(rows, "(n column) -> column n", column=2 + len(self.covariates))
        return norm_correlations(
            norms,
            length,
            dict(zip(self.covariates, covariates, strict=True)),
            kind=self.kind,
            resamples=self.resamples,
            level=self.level,
        )

    def compute(self) -> dict[str, Tensor]:
        """For every covariate and length: ``correlation_<name>``, ``partial_<name>``, both with ``_low``, ``_high``."""
        numbers: dict[str, float] = {}
        for name, correlation in self.correlations().items():
            intervals = {"correlation": correlation.interval, "partial": correlation.partial_interval}
            for kind, (value, low, high) in intervals.items():
                key = f"{kind}_{name}"
                numbers |= {key: value, f"{key}_low": low, f"{key}_high": high}
        return {name: torch.tensor(value, dtype=self.dtype, device=self.device) for name, value in numbers.items()}

    def plot(self, val: dict[str, Tensor] | Sequence[dict[str, Tensor]] | None = None, ax: Any = None) -> Any:
        """Correlations with their intervals, or a list of them over time, as torchmetrics draws it: figure and axes."""
        val = self.compute() if val is None else val
        if not isinstance(val, dict):
            return self._plot([_without_ends(values) for values in val], ax)
        middle = _without_ends(val)
        plot: Any = self._plot(middle, ax)
        axes = plot[1]
        for place, (name, line) in enumerate(zip(middle, axes.get_lines(), strict=False)):
            ends = [float(val[f"{name}_low"]), float(val[f"{name}_high"])]
            axes.plot([place, place], ends, color=line.get_color(), linewidth=2)
        return plot


def _without_ends(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if f"{name}_low" in values}


def _column(name: str, values: Tensor | None, norms: Tensor) -> Tensor:
    if values is None or values.shape != norms.shape:
        description = "nothing" if values is None else tuple(values.shape)
        raise ValueError(f"{name}: expected one number for each of {tuple(norms.shape)} documents, got {description}")
    return values.detach().to(norms.device)
