"""How far two groups of norms lie apart, and how much norms vary at all."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.core.tensor_checks import check_tensors


def cohens_d(relevant: Tensor, irrelevant: Tensor) -> Tensor:
    """Cohen's d between the norms of relevant and of irrelevant documents.

    ``d = (mean_r - mean_i) / s`` with the pooled ``s² = ((n - 1)·s_r² + (m - 1)·s_i²) / (n + m - 2)``. Near 0 the norm
    says nothing of relevance; from 0.5 in size it carries it, a positive d in favour of long documents (Feng, Watanabe
    2026, arXiv 2602.09229).

    Args:
        relevant: norms of relevant documents, ``[n]``.
        irrelevant: norms of irrelevant ones, ``[m]``.

    Raises:
        ValueError: if they are no norms but whole embeddings.

    Returns:
        d in float64, no dimension. Infinite where groups without spread differ; NaN where they do not, where one is
        empty, and with fewer than three norms in all.

    Example:
        >>> import torch
        >>> cohens_d(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 3.0]))
        tensor(0.7071, dtype=torch.float64)
    """
    for name, norms in (("relevant", relevant), ("irrelevant", irrelevant)):
        check_tensors(**{name: norms})
        if norms.ndim > 1:
            raise ValueError(
                f"{name}: expected norms [n], got shape {tuple(norms.shape)}; take embeddings.norm(dim=-1) first"
            )
    return standardised_difference(sample_moments(relevant), sample_moments(irrelevant))


def standardised_difference(first: SampleMoments, second: SampleMoments) -> Tensor:
    """Cohen's d from the moments of both groups."""
    freedom = (first.n + second.n - 2).clamp(min=0)
    difference = first.mean - second.mean
    d: Tensor = difference / ((first.squares + second.squares) / freedom).sqrt()
    return d.where((first.n > 0) & (second.n > 0), d.new_tensor(float("nan")))


def coefficient_of_variation(norms: Tensor) -> Tensor:
    """Standard deviation of norms over their mean, the standard deviation of the sample itself (divided by n).

    Of queries under Dot or DNorm: near 0 the loss treats all queries alike, from about 0.1 some train at a clearly
    sharper temperature than others (Feng, Watanabe 2026, arXiv 2602.09229).

    Args:
        norms: ``[n]``.

    Returns:
        The ratio in float64, no dimension; NaN for no norms or norms that are all zero.

    Example:
        >>> import torch
        >>> coefficient_of_variation(torch.tensor([1.0, 3.0]))
        tensor(0.5000, dtype=torch.float64)
    """
    check_tensors(norms=norms)
    return relative_spread(sample_moments(norms))


def relative_spread(moments: SampleMoments) -> Tensor:
    """The coefficient of variation from moments."""
    cv: Tensor = (moments.squares / moments.n).sqrt() / moments.mean
    return cv


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
