"""Cohen's d between the norms of relevant and irrelevant documents, as a metric."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics import Metric

from lightning_normdyn.core.dynamics.geometry import safe_norm
from lightning_normdyn.core.statistics.effect_size import standardised_difference
from lightning_normdyn.metrics.moments_state import add_values, merge_states, moments, no_moments


class CohensD(Metric):
    """Cohen's d between the norms of relevant and irrelevant documents, streamed.

    See :func:`~lightning_normdyn.core.cohens_d`. Keeps six numbers, in float64.

    Args:
        kwargs: of :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = CohensD()
        >>> metric.update(documents=torch.tensor([[2.0, 0.0], [0.0, 4.0]]), irrelevant=torch.tensor([[1.0], [3.0]]))
        >>> metric.compute()
        tensor(0.7071, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    moments: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("moments", no_moments(2), dist_reduce_fx=merge_states)

    def update(self, documents: Tensor, irrelevant: Tensor) -> None:
        """Adds a batch.

        Args:
            documents: embeddings of relevant documents before any normalisation, ``[..., d]``.
            irrelevant: those of irrelevant ones, such as hard negatives, ``[..., d]``.
        """
        self.moments = add_values(self.moments, safe_norm(documents), safe_norm(irrelevant))

    def compute(self) -> Tensor:
        """d, no dimension."""
        return standardised_difference(*moments(self.moments))

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """The value, or a list of values over time, as torchmetrics draws it: figure and axes."""
        return self._plot(val, ax)
