"""Moments of samples as one tensor, which is what torchmetrics can gather."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from lightning_normdyn.core.statistics.effect_size import SampleMoments, sample_moments


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
