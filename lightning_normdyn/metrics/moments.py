"""Cohen's d and the coefficient of variation as metrics: moments of norms, in one tensor that can be gathered."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_normdyn.core.dynamics.geometry import safe_norm
from lightning_normdyn.core.statistics.effect_size import (
    SampleMoments,
    relative_spread,
    sample_moments,
    standardised_difference,
)
from lightning_normdyn.core.tensor_checks import check_real_tensors


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

        Raises:
            ValueError: if one of them is no tensor of floating-point numbers.
        """
        check_real_tensors(documents=documents, irrelevant=irrelevant)
        self.moments = add_values(self.moments, safe_norm(documents), safe_norm(irrelevant))

    def compute(self) -> Tensor:
        """d, no dimension."""
        return standardised_difference(*moments(self.moments))

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """The value, or a list of values over time, as torchmetrics draws it: figure and axes."""
        return self._plot(val, ax)


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
        check_real_tensors(queries=queries)
        self.moments = add_values(self.moments, safe_norm(queries))

    def compute(self) -> Tensor:
        """The ratio, no dimension."""
        return relative_spread(*moments(self.moments))

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """The value, or a list of values over time, as torchmetrics draws it: figure and axes."""
        return self._plot(val, ax)


def no_moments(samples: int) -> Tensor:
    """Of so many samples without a value, ``[samples, 3]``."""
    return torch.zeros(samples, len(SampleMoments._fields), dtype=torch.float64)


def add_values(state: Tensor, *values: Tensor) -> Tensor:
    """The state ``[samples, 3]`` with more values of each sample."""
    return merge_states(torch.stack((state, torch.stack([torch.stack(sample_moments(sample)) for sample in values]))))


def merge_states(states: Tensor) -> Tensor:
    """States of several ranks or batches ``[k, samples, 3]`` as one ``[samples, 3]``.

    Example:
        >>> states = [add_values(no_moments(1), torch.tensor(values)) for values in ([1.0, 3.0], [5.0])]
        >>> merge_states(torch.stack(states))  # n, mean, squared distances from it
        tensor([[3., 3., 8.]], dtype=torch.float64)
    """
    total = reduce(SampleMoments.merge, (SampleMoments(*state.unbind(1)) for state in states))
    return torch.stack(total, dim=1)


def moments(state: Tensor) -> list[SampleMoments]:
    """The samples' moments, one record each."""
    return [SampleMoments(*row.unbind()) for row in state]
