"""Cosines of judged pairs, taken while documents are read a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.statistics.directions import alignment_of_cosines, pair_cosines
from lightning_normdyn.core.statistics.interval import Interval
from lightning_normdyn.datasets.judgements import Judgements
from lightning_normdyn.retrieval.exponent.document_parts import DocumentParts

_MOST_NUMBERS = 2**22
_UNREAD = -torch.inf


class JudgedPairs(NamedTuple):
    """Queries and the vectors of the documents that are relevant to them.

    Attributes:
        queries: as encoded, ``[n, d]``.
        query_rows: the query of each pair with a vector, ``[p]``.
        vector_rows: the vector, ascending, ``[p]``.
        numbers: of the judged pair that these are of, ``[p]``; one pair has several where its document has several
            vectors, of which the best counts.
        pair_queries: the query of each judged pair, ``[q]``.
    """

    queries: Tensor
    query_rows: Tensor
    vector_rows: Tensor
    numbers: Tensor
    pair_queries: Tensor

    @classmethod
    def of(cls, queries: Tensor, judgements: Judgements, parts: DocumentParts | None = None) -> JudgedPairs:
        """The pairs with a positive grade.

        Args:
            queries: ``[n, d]``.
            judgements: by position of query and document.
            parts: the document of each vector, where documents have several.

        Example:
            >>> parts = DocumentParts.of(torch.tensor([1, 0, 1]))
            >>> JudgedPairs.of(torch.eye(2), Judgements.of([(0, 1, 1.0)]), parts).vector_rows
            tensor([0, 2])
        """
        relevant = Judgements(*(column.cpu() for column in judgements)).relevant()
        numbers, vectors = torch.arange(len(relevant.queries)), relevant.documents.long()
        if parts is not None:
            numbers, vectors = _expanded(relevant.documents.long(), parts)
        order = vectors.argsort(stable=True)
        pair_queries = relevant.queries.long()
        return cls(queries, pair_queries[numbers[order]], vectors[order], numbers[order], pair_queries)

    def cosines(self, chunks: Iterable[Tensor], rows: range) -> Tensor:
        """Cosine of each judged pair with a vector among these rows, minus infinity of the others, float64 ``[q]``.

        Args:
            chunks: in order, ``[some, d]``.
            rows: that they are.

        Example:
            >>> pairs = JudgedPairs.of(torch.eye(2), Judgements.of([(0, 7, 1.0), (1, 8, 1.0)]))
            >>> pairs.cosines([torch.tensor([[0.0, 1.0], [3.0, 4.0]])], range(7, 9))
            tensor([0.0000, 0.8000], dtype=torch.float64)
        """
        cosines = torch.full((len(self.pair_queries),), _UNREAD, dtype=torch.float64)
        start = rows.start
        for chunk in chunks:
            low, high = torch.searchsorted(self.vector_rows, torch.tensor([start, start + len(chunk)])).tolist()
            step = max(1, _MOST_NUMBERS // max(1, chunk.shape[1]))
            for place in range(low, high, step):
                pairs = slice(place, min(place + step, high))
                values = self._of_chunk(chunk, pairs, start)
                cosines.scatter_reduce_(0, self.numbers[pairs], values, "amax")
            start += len(chunk)
        return cosines

    def alignment(self, part_cosines: Iterable[Tensor]) -> Interval:
        """Mean squared distance of the pairs' unit vectors, with an interval over queries; zero vectors are left out.

        Args:
            part_cosines: of all parts of the documents, as :meth:`cosines` gives them.
        """
        cosines = torch.stack(list(part_cosines)).amax(0)
        is_read = cosines > _UNREAD
        return alignment_of_cosines(cosines[is_read], self.pair_queries[is_read])

    def _of_chunk(self, chunk: Tensor, pairs: slice, start: int) -> Tensor:
        documents = chunk[(self.vector_rows[pairs] - start).to(chunk.device)].cpu()
        queries = self.queries[self.query_rows[pairs].to(self.queries.device)].cpu()
        # Of a zero vector there is no direction to compare.
        return pair_cosines(queries, documents).nan_to_num(nan=_UNREAD)


def _expanded(documents: Tensor, parts: DocumentParts) -> tuple[Tensor, Tensor]:
    """For every vector of every pair's document the number of the pair, and the vector."""
    order = parts.owners.argsort(stable=True)
    sizes = torch.bincount(parts.owners, minlength=int(documents.max()) + 1 if len(documents) else 0)
    firsts = sizes.cumsum(0) - sizes
    repeats = sizes[documents]
    numbers = torch.arange(len(documents)).repeat_interleave(repeats)
    within = torch.arange(len(numbers)) - (repeats.cumsum(0) - repeats).repeat_interleave(repeats)
    return numbers, order[firsts[documents][numbers] + within]
