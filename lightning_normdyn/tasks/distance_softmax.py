"""Softmax over negative Euclidean distances to a whole table, beside the grid of normalisations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lightning_normdyn.core.geometry import at_least_float32
from lightning_normdyn.losses import InfoNCE

_SCORES_AT_ONCE = 2**23


def distance_softmax_loss(contrast: InfoNCE, queries: Tensor, documents: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of ``-|q - d| / tau`` over all documents.

    Distances are made for a strip of queries at a time, and made again on the way back.

    Args:
        contrast: whose temperature is used, and under whose names the callbacks see the embeddings.
        queries: ``[n, d]``.
        documents: ``[m, d]``.
        targets: the row of each query's document, int64 ``[n]``.

    Returns:
        A scalar, the mean over this rank's queries.

    Example:
        >>> contrast = InfoNCE(temperature=1.0)
        >>> distance_softmax_loss(contrast, torch.zeros(1, 1), torch.tensor([[0.0], [3.0]]), torch.tensor([0]))
        tensor(0.0486)
    """
    queries, documents = contrast.queries(queries), contrast.documents(documents)
    factor = contrast.scaling.factor

    def strip(rows: Tensor, wanted: Tensor, table: Tensor) -> Tensor:
        return F.cross_entropy(-_distances(rows, table) * factor, wanted, reduction="sum")

    with torch.autocast(queries.device.type, enabled=False):
        queries, documents = at_least_float32(queries), at_least_float32(documents)
        height = max(1, _SCORES_AT_ONCE // len(documents))
        parts = zip(queries.split(height), targets.split(height), strict=True)
        losses: list[Any] = [checkpoint(strip, *part, documents, use_reentrant=False) for part in parts]
        total: Tensor = torch.stack(losses).sum()
        return total / len(queries)


def _distances(queries: Tensor, documents: Tensor) -> Tensor:
    squares = queries.square().sum(1)[:, None] + documents.square().sum(1) - 2 * queries @ documents.T
    # A distance of nothing has no direction; what rounding makes of it shall not be negative.
    return squares.clamp(min=1e-12).sqrt()
