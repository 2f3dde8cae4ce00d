"""The coefficient of variation of query norms, as a metric."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics import Metric

from lightning_normdyn.core.dynamics.geometry import safe_norm
from lightning_normdyn.core.statistics.effect_size import relative_spread
from lightning_normdyn.metrics.moments_state import add_values, merge_states, moments, no_moments


class CoefficientOfVariation(Metric):
    """Coefficient of variation of query norms, streamed: their standard deviation over their mean.

    See :func:`~lightning_normdyn.core.coefficient_of_variation`. Keeps three numbers, in float64.

    Args:
        kwargs: of :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = CoefficientOfVariation()
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    plot_lower_bound = 0.0

    moments: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("moments", no_moments(1), dist_reduce_fx=merge_states)

    def update(self, queries: Tensor) -> None:
        """Adds a batch of embeddings before any normalisation, ``[..., d]``."""
        self.moments = add_values(self.moments, safe_norm(queries))

    def compute(self) -> Tensor:
        """The ratio, no dimension."""
        return relative_spread(*moments(self.moments))

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """The value, or a list of values over time, as torchmetrics draws it: figure and axes."""
        return self._plot(val, ax)
