"""One more dimension, with which inner product, Euclidean distance and cosine have the same neighbours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def augment_documents(documents: Tensor, *, radius: float) -> Tensor:
    """Adds the coordinate ``sqrt(radius² - |d|²)``: all documents have length ``radius`` then.

    Bachrach et al. 2014, theorem 1; Shrivastava & Li 2014 do it with several. With :func:`augment_queries` inner
    products stay what they were, and ``|q - d|² = |q|² + radius² - 2 <q, d>`` and the cosine ``<q, d> / (|q| radius)``
    have the same order as they.

    Args:
        documents: ``[n, d]``, folded already.
        radius: at least the largest norm of any document.

    Returns:
        ``[n, d + 1]``.

    Raises:
        ValueError: if a document is longer than ``radius``, by more than rounding.

    Example:
        >>> augment_documents(torch.tensor([[3.0, 0.0], [0.0, 5.0]]), radius=5.0)
        tensor([[3., 0., 4.],
                [0., 5., 0.]])
    """
    squares = documents.double().square().sum(1, keepdim=True)
    room = radius**2 - squares
    longest = float(squares.max().sqrt()) if len(documents) else 0.0
    if longest > radius * (1 + 1e-6):
        raise ValueError(f"radius: expected at least the largest norm of all documents, {longest:g}, got {radius:g}")
    return torch.cat([documents, room.clamp(min=0).sqrt().to(documents)], 1)


def augment_queries(queries: Tensor) -> Tensor:
    """Adds a zero: ``[n, d + 1]``.

    Example:
        >>> augment_queries(torch.tensor([[1.0, 2.0]]))
        tensor([[1., 2., 0.]])
    """
    return F.pad(queries, (0, 1))
