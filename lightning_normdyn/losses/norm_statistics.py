"""Mean and standard deviation of the norms of training batches, which a loss holds the norms of a batch against."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_normdyn.core.number_checks import check_not_negative
from lightning_normdyn.losses.learnt import OwnNumbers, wide_dtype

_SMALLEST_DEVIATION = 1e-3


class NormStatistics(OwnNumbers):
    """Mean and standard deviation of norms, as exponential averages over training batches, kept in checkpoints.

    The first batch of two norms or more sets them, and an evaluation before it goes by its own batch.

    Args:
        momentum: what an average keeps of itself at each batch.

    Example:
        >>> statistics = NormStatistics(0.5)
        >>> statistics.update(torch.tensor([1.0, 3.0])), statistics.update(torch.tensor([4.0, 4.0]))
        (None, None)
        >>> statistics.mean, statistics.std
        (tensor(3.), tensor(0.7071))
    """

    mean: Tensor
    std: Tensor
    batches: Tensor

    def __init__(self, momentum: float) -> None:
        super().__init__()
        check_not_negative(momentum=momentum, hint="0.99 is common")
        if momentum >= 1:
            raise ValueError(f"momentum: expected a number from 0 to below 1, got {momentum!r}; 0.99 is common")
        self.momentum = float(momentum)
        self.register_buffer("mean", torch.zeros((), dtype=wide_dtype()))
        self.register_buffer("std", torch.zeros((), dtype=wide_dtype()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def reset_parameters(self) -> None:
        """Forgets all batches."""
        for number in (self.mean, self.std, self.batches):
            number.zero_()

    def update(self, norms: Tensor) -> None:
        """Takes a training batch in, unless some of it is NaN or infinite, or it is one embedding, without deviation.

        Args:
            norms: of the embeddings of all ranks, ``[total]``.
        """
        momentum = torch.where(self.batches > 0, self.momentum, 0.0)
        counts = norms.isfinite().all() & (len(norms) > 1)
        for average, value in zip((self.mean, self.std), moments(norms), strict=True):
            average.copy_(torch.where(counts, momentum * average + (1 - momentum) * value, average))
        self.batches += counts

    def standardise(self, norms: Tensor, batch_norms: Tensor) -> Tensor:
        """How many standard deviations norms ``[n]`` are above the mean.

        Args:
            norms: of this rank.
            batch_norms: of all ranks, which count where no training batch has.
        """
        mean, std = (
            torch.where(self.batches > 0, average, value)
            for average, value in zip((self.mean, self.std), moments(batch_norms), strict=True)
        )
        return (norms - mean) / (std + _SMALLEST_DEVIATION)


def moments(norms: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of norms ``[n]``; a single one has a deviation of 0.

    Example:
        >>> moments(torch.tensor([1.0, 3.0]))
        (tensor(2.), tensor(1.4142))
    """
    return norms.mean(), norms.std(correction=min(1, len(norms) - 1))
