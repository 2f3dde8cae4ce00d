"""Nearness of queries and documents as a similarity: minus their squared distance."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.factored import Factored
from lightning_normdyn.core.dynamics.geometry import at_least_float32
from lightning_normdyn.losses.similarity import NormalizedSimilarity


class SquaredEuclidean(NormalizedSimilarity):
    """``2 <q, d> - |d|^2``, which is ``-|q - d|^2`` up to what all documents of a query share.

    A softmax over documents, and so :class:`InfoNCE`, sees no difference: these are the Prototypical Networks of Snell
    et al. (arXiv 1703.05175, eq. 2 and section 2.7). The score is the inner product of ``(q, 1)`` and ``(2d, -|d|^2)``,
    which is why it takes the place of a :class:`NormalizedSimilarity`. It keeps both norms, as ``dot`` does, and
    reports the exponents of that cell; but a long document pays for its length.

    Example:
        >>> SquaredEuclidean()(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([[ 1., -4.]])
    """

    has_directions = False

    def __init__(self) -> None:
        super().__init__("dot")

    def forward(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Scores ``[n, m]`` of queries ``[n, d]`` against documents ``[m, d]``, before temperature."""
        with torch.autocast(queries.device.type, enabled=False):
            return self.rescale_queries(queries) @ self.rescale_documents(documents).T

    def rescale_queries(self, queries: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """``scale · (q, 1)``, ``[n, d + 1]``."""
        wide = at_least_float32(queries)
        return torch.cat((wide, torch.ones_like(wide[:, :1])), 1) * scale

    def rescale_documents(self, documents: Tensor) -> Tensor:
        """``(2d, -|d|^2)``, ``[m, d + 1]``."""
        wide = at_least_float32(documents)
        return torch.cat((2 * wide, -wide.square().sum(1, keepdim=True)), 1)

    def factor_queries(self, queries: Tensor, scale: Tensor | float = 1.0) -> Factored:
        """Refused: fused kernels know inner products of the embeddings themselves alone."""
        raise ValueError("fused: the squared Euclidean distance has no kernel; leave fused=False")

    def factor_documents(self, documents: Tensor) -> Factored:
        """Refused likewise."""
        return self.factor_queries(documents)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return ""
