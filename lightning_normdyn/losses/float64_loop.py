"""InfoNCE as its formula reads, a row at a time in float64, and the ways in which ranks are known to miss it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_normdyn.core.number_checks import check_count, check_flag, check_positive
from lightning_normdyn.losses.similarity import Normalization, check_normalization

PairLoss = Callable[[Tensor, Tensor], Tensor]
"""Of queries and documents ``[n, d]``, those of a row being a pair, to a number."""
_EXPONENTS = {
    "cosine": (1.0, 1.0),
    "dot": (0.0, 0.0),
    "qnorm": (1.0, 0.0),
    "dnorm": (0.0, 1.0),
    "learnable": (0.5, 0.5),
}


class Float64Loop:
    """``mean_i [log sum_j exp(s_ij / tau) - s_ii / tau]`` (arXiv 2602.09229, eq. 1), nothing of it streamed or fused.

    Args:
        normalization: which norms the score ``s`` keeps; ``"learnable"`` as it starts, with exponents of a half.
        temperature: ``tau``.
        symmetric: whether it is the mean of both directions.

    Raises:
        ValueError: naming the argument that makes no sense.

    Example:
        >>> Float64Loop(temperature=1.0)(torch.eye(2), torch.eye(2))  # log(1 + exp(-1))
        tensor(0.3133, dtype=torch.float64)
    """

    def __init__(
        self, *, normalization: Normalization = "cosine", temperature: float = 0.05, symmetric: bool = False
    ) -> None:
        check_normalization(normalization)
        check_positive(temperature=temperature, hint="0.05 is common")
        check_flag(symmetric=symmetric)
        self._exponents, self._temperature, self._symmetric = _EXPONENTS[normalization], temperature, symmetric

    def __call__(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Of all pairs ``[n, d]`` on both sides, in float64."""
        return self._mean(queries, documents, slice(None), slice(None))

    def of_constants(self, queries: Tensor, documents: Tensor, *, ranks: int, keeps_rank: bool) -> Tensor:
        """The same number, where candidates are constants as a plain ``all_gather`` leaves them.

        Args:
            queries: of all ranks, one rank behind the other, ``[n, d]``.
            documents: theirs.
            ranks: how many there are; they divide ``n``.
            keeps_rank: whether each rank puts its own candidates back with their gradient.
        """
        size = len(queries) // ranks
        stretches = [slice(first, first + size) for first in range(0, len(queries), size)]
        means = [self._mean(queries, documents, rows, rows if keeps_rank else slice(0)) for rows in stretches]
        return torch.stack(means).mean()

    def _mean(self, queries: Tensor, documents: Tensor, rows: slice, trainable: slice) -> Tensor:
        """Over some rows, which give gradient to some candidates."""
        anchors, candidates = self._rescaled(queries, documents)
        losses = self._losses(anchors, candidates, rows, trainable)
        if self._symmetric:
            losses += self._losses(candidates, anchors, rows, trainable)
        return torch.stack(losses).mean()

    def _losses(self, anchors: Tensor, candidates: Tensor, rows: slice, trainable: slice) -> list[Tensor]:
        vectors = candidates.detach().clone()
        vectors[trainable] = candidates[trainable]
        losses = []
        for row in range(len(anchors))[rows]:
            logits = vectors @ anchors[row] / self._temperature
            losses.append(torch.logsumexp(logits, 0) - logits[row])
        return losses

    def _rescaled(self, *sides: Tensor) -> list[Tensor]:
        return [
            side.double() / side.double().norm(dim=1, keepdim=True) ** exponent
            for side, exponent in zip(sides, self._exponents, strict=True)
        ]


def mean_of_parts(reference: PairLoss, count: int) -> PairLoss:
    """A loss whose pairs meet only those of the same part of the batch.

    Args:
        reference: the loss of a part.
        count: of parts, which divides the number of pairs.

    Raises:
        ValueError: if it is no positive whole number.

    Example:
        >>> mean_of_parts(Float64Loop(), 2)(torch.eye(2), torch.eye(2)).item()
        0.0
    """
    check_count(count=count)

    def mean(queries: Tensor, documents: Tensor) -> Tensor:
        parts = zip(queries.chunk(count), documents.chunk(count), strict=True)
        return torch.stack([reference(*part) for part in parts]).mean()

    return mean
