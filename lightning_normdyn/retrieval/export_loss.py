"""What an index loses against an exact search in float32."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.retrieval.indexes import Found
from lightning_normdyn.retrieval.top_k import exact_top_k


class ExportLoss(NamedTuple):
    """Measured on a sample of queries.

    Attributes:
        recall: share of the exact ``k`` best that the index finds among its ``k``, averaged over queries.
        k: as many.
        queries: as many.
        score_error: the largest change of a score by rounding to the stored precision, in units of the query's best
            score in the sample; ``None`` if nothing was rounded.
    """

    recall: float
    k: int
    queries: int
    score_error: float | None


def recall_of(found: Found, queries: Tensor, folded: Iterable[Tensor], ids: Sequence[str], k: int) -> float:
    """Share of the exact ``k`` best that were found.

    Args:
        found: by the index.
        queries: ``[n, d]``.
        folded: the documents as they should be ranked, float32, chunk by chunk.
        ids: theirs.
        k: as many as the index was asked for.
    """
    best = exact_top_k(queries, folded, k).indices.tolist()
    hits = sum(len({ids[row] for row in rows} & set(names)) for rows, names in zip(best, found.ids, strict=True))
    return hits / max(1, sum(map(len, best)))


def score_error(queries: Tensor, folded: Tensor, dtype: torch.dtype) -> float:
    """The largest change of a score by rounding documents, relative to each query's best score.

    Args:
        queries: ``[n, d]``.
        folded: documents ``[m, d]`` in float32.
        dtype: what they are rounded to.

    Example:
        >>> score_error(torch.eye(1), torch.tensor([[2049.0]]), torch.float16)  # float16 knows 2048 and 2050
        0.00048...
    """
    exact = queries.double() @ folded.double().T
    change = (queries.double() @ (folded.to(dtype).double() - folded.double()).T).abs()
    best = exact.abs().amax(1, keepdim=True)
    return float((change / best.where(best > 0, 1)).max())
