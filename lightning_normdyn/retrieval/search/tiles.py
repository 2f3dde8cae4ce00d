"""Score tiles: inner products of all queries with a block of documents, and those above a threshold."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.exact_products import exact_products

GROUP = 64


class Survivors(NamedTuple):
    """Scores above their row's threshold: row, column and score of each, ``[s]``, by row and then by column."""

    rows: Tensor
    columns: Tensor
    scores: Tensor


class Tile:
    """Scores ``[n, width]`` of all queries and ``width`` documents, made again and again.

    The product always has the same shape, so that a document's score has the same bits wherever a chunk begins.

    Args:
        queries: ``[n, d]``, float32 or float64.
        width: documents a tile, a multiple of ``GROUP``.
    """

    def __init__(self, queries: Tensor, width: int) -> None:
        self.queries, self.width = queries, width
        # MKL multiplies with half of the width of AMD's processors: oneDNN takes half of the time there.
        self._packed_queries = queries.to_mkldnn() if _has_wide_products(queries) else None
        self.scores = queries.new_empty(len(queries), 0 if self._packed_queries is not None else width)
        self._reach, self._largest = queries.shape[1] * _largest(queries), torch.finfo(queries.dtype).max / 2
        self._is_infinite = False

    def fill(self, documents: Tensor) -> None:
        """Scores documents ``[at most width, d]``; missing ones score minus infinity."""
        # Another layout takes another kernel, which may round otherwise.
        documents, count = documents.contiguous(), len(documents)
        missing = self.width - count
        if missing:
            documents = torch.nn.functional.pad(documents, (0, 0, 0, missing))
        with exact_products(documents.device):
            if self._packed_queries is None:
                torch.mm(self.queries, documents.T, out=self.scores)
            else:
                self.scores = torch.nn.functional.linear(self._packed_queries, documents).to_dense()
        # Later a score of minus infinity is a pair left out; a bound on all of them spares the look at each.
        is_bounded = self._reach * _largest(documents) < self._largest
        self._is_infinite = not is_bounded and bool(self.scores[:, :count].isinf().any())
        if missing:
            self.scores[:, count:] = -torch.inf

    def above(self, thresholds: Tensor, k: int | None = None) -> Survivors:
        """Scores above the thresholds.

        A maximum of each group is far cheaper than a comparison of every score, which would have to be written down.

        Args:
            thresholds: finite; one a query, ``[n]``, or one for each of several equal parts of the documents,
                ``[n, parts]``.
            k: where many would survive, only those as good as the tile's own ``k``-th of their row do; for one
                threshold a query.

        Raises:
            FloatingPointError: if a score is NaN or was infinite when the tile was filled.
        """
        group_count = self.width // GROUP
        grouped_scores = self.scores.view(-1, GROUP)
        peaks = grouped_scores.amax(1).view(len(self.scores), group_count)
        if self._is_infinite or not bool((peaks.amax(1) < torch.inf).all()):  # of NaN too
            raise FloatingPointError("scores: expected finite ones")
        has_parts = thresholds.ndim == 2 and thresholds.shape[1] > 1
        if has_parts:
            thresholds = thresholds.repeat_interleave(group_count // thresholds.shape[1], dim=1).contiguous()
        high = peaks > (thresholds if thresholds.ndim == 2 else thresholds.unsqueeze(1))
        rows, groups = high.nonzero().unbind(1)
        if k is not None and 2 * len(rows) > high.numel() and k < self.width:
            row_thresholds = self.scores.topk(k, dim=1, sorted=False).values.amin(1)
            lowest = torch.finfo(row_thresholds.dtype).min
            row_thresholds = row_thresholds.nextafter(row_thresholds.new_tensor(-torch.inf)).clamp(min=lowest)
            thresholds = thresholds.maximum(row_thresholds)
            rows, groups = (peaks > thresholds.unsqueeze(1)).nonzero().unbind(1)
        places = rows * group_count + groups
        scores = grouped_scores.index_select(0, places)
        least = thresholds.reshape(-1).index_select(0, places if has_parts else rows)
        group_rows, column = (scores > least.unsqueeze(1)).nonzero().unbind(1)
        return Survivors(rows[group_rows], groups[group_rows] * GROUP + column, scores[group_rows, column])


def _has_wide_products(queries: Tensor) -> bool:
    """Whether oneDNN multiplies such queries, in 512 bits at a time."""
    if queries.device.type != "cpu" or queries.dtype != torch.float32 or not queries.numel():
        return False
    has_onednn = bool(torch.backends.mkldnn.enabled) and torch.backends.mkldnn.is_available()
    return has_onednn and torch.backends.cpu.get_cpu_capability() == "AVX512"


def _largest(x: Tensor) -> float:
    """The largest number without its sign; NaN if one is."""
    if not x.numel():
        return 0.0
    low, high = x.aminmax()
    return float(torch.maximum(-low, high))


def tile_width(n: int, device: torch.device) -> int:
    """Documents a tile: what keeps its scores in a processor's cache, or an accelerator busy."""
    capacity = 2**24 if device.type == "cuda" else 2**20
    power = (capacity // max(1, n)).bit_length() - 1
    return int(2 ** min(16 if device.type == "cuda" else 14, max(10, power)))
