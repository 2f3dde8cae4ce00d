"""Number, mean and spread of a sample that arrives in parts."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from lightning_normdyn.core.geometry import most_precise


class SampleMoments(NamedTuple):
    """What mean and variance need to know of a sample. Every field has no dimension and is in float64.

    Attributes:
        n: values seen.
        mean: their mean; zero if there are none.
        squares: sum of squared distances from the mean, which does not cancel as a sum of raw squares would.
    """

    n: Tensor
    mean: Tensor
    squares: Tensor

    def merge(self, other: SampleMoments) -> SampleMoments:
        """The moments of both samples together (Chan, Golub, LeVeque 1979, Eq. 2.1)."""
        n = self.n + other.n
        share = other.n / n.clamp(min=1)
        gap = other.mean - self.mean
        return SampleMoments(n, self.mean + gap * share, self.squares + other.squares + gap.square() * self.n * share)


def sample_moments(values: Tensor) -> SampleMoments:
    """Moments of a sample of any shape.

    Example:
        >>> import torch
        >>> both = sample_moments(torch.tensor([1.0, 3.0])).merge(sample_moments(torch.tensor([5.0])))
        >>> both.n.item(), both.mean.item(), both.squares.item()
        (3.0, 3.0, 8.0)
    """
    values = most_precise(values.detach()).flatten()
    mean = values.sum() / max(values.numel(), 1)
    return SampleMoments(values.new_tensor(values.numel()), mean, (values - mean).square().sum())
