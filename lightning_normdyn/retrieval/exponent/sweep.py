"""Sweeps the exponent of the document norm: the measure of every query at every exponent, in one pass, or in parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike, as_tensor, as_tensors, is_array
from lightning_normdyn.core.contrast.similarity import rescale
from lightning_normdyn.core.number_checks import shown
from lightning_normdyn.core.statistics.ranking import grade_ranking, measure_named
from lightning_normdyn.datasets.judgements import Judgements
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.retrieval.exponent.document_parts import DocumentParts
from lightning_normdyn.retrieval.exponent.running_alpha_top_k import RunningAlphaTopK, norm_bands
from lightning_normdyn.retrieval.exponent.scoring import NormAwareScore
from lightning_normdyn.retrieval.search.document_chunks import Documents, as_documents, document_chunks, row_count
from lightning_normdyn.retrieval.search.excluded_pairs import ExcludedPairs
from lightning_normdyn.retrieval.search.tiles import Tile, tile_width
from lightning_normdyn.retrieval.search.top_k import TopK, checked_queries, merged_top_k, rounded_chunk_size

_QUERIES = 4096
ALPHAS = tuple(step / 5 for step in range(-10, 11))
"""From -2 to 2 in 21 steps."""


class AlphaSweep(NamedTuple):
    """A measure of every query's ranking at every exponent.

    Attributes:
        alphas: exponents of the document norm in the score, ascending, ``[a]``; 0 is among them.
        values: the measure of each query at each of them, float64 ``[a, n]``; NaN for a query without judgements.
        measure: its name, such as ``ndcg@10``.
    """

    alphas: Tensor
    values: Tensor
    measure: str

    def as_tensors(self) -> AlphaSweep:
        """The same with tensors where arrays came."""
        alphas, values = as_tensors(alphas=self.alphas, values=self.values)
        return AlphaSweep(alphas, values, self.measure)


@torch.no_grad()
def sweep_alpha(
    queries: ArrayLike,
    documents: Documents,
    judgements: Judgements,
    *,
    alphas: Sequence[float] | ArrayLike = ALPHAS,
    measure: str = "ndcg@10",
    normalization: Normalization = "cosine",
    gamma_query: float | None = None,
    gamma_document: float | None = None,
    chunk_size: int | None = None,
    excluded_pairs: tuple[ArrayLike, ArrayLike] | None = None,
    owners: ArrayLike | None = None,
) -> AlphaSweep:
    """Measures the ranking of every query at every exponent of the document norm.

    Scores are ``<q, d> · |d|^(alpha - gamma_document)`` (docs/theory.md, "Scores with an exponent of the norm"). Every
    inner product is computed once and compared once: documents go by norm, and a document enters no ranking if its
    product is below the lowest that would do at any exponent for the shortest or longest norm of those beside it. The
    rest is scored at each exponent.

    Args:
        queries: ``[n, d]``; those that nothing is relevant to are not searched for.
        documents: ``[m, d]``, as :func:`~lightning_normdyn.retrieval.exact_top_k` takes them.
        judgements: by position in both.
        alphas: exponents, in any order and with 0 among them.
        measure: ``ndcg``, ``mrr``, ``recall``, ``map`` or ``hits`` with a rank, as in ``ndcg@10``; memory grows with
            queries x exponents x rank.
        normalization: what the embeddings were trained with; an exponent is further to it.
        gamma_query: the learnt exponent of queries, for ``learnable`` alone; no ranking depends on it.
        gamma_document: the learnt exponent of documents, for ``learnable`` alone.
        chunk_size: documents that are converted and sorted together; memory grows with it and not with ``m``.
        excluded_pairs: positions of query and document of each pair that must not be found.
        owners: number of the document of each vector ``[m]``, where documents have several (chunks): a document's
            score is that of its best vector, and judgements go by these numbers.

    Returns:
        The measure by exponent, ascending, and query.

    Raises:
        ValueError: if something does not fit, is not finite, or a norm is too extreme for its powers.

    Example:
        >>> documents, relevant = torch.tensor([[9.0, 12.0], [0.8, 0.6]]), Judgements.of([(0, 0, 1.0)])
        >>> sweep = sweep_alpha(torch.tensor([[1.0, 0.0]]), documents, relevant, alphas=(-1, 0, 1), measure="mrr@2")
        >>> sweep.values.squeeze(1).tolist()
        [0.5, 0.5, 1.0]
    """
    exponents = alpha_exponents(alphas, normalization, gamma_query=gamma_query, gamma_document=gamma_document)
    parts = None if owners is None else DocumentParts.of(owners)
    documents = as_documents(documents)
    checked = checked_queries(queries, documents, chunk_size)
    search = AlphaSearch(checked, Judgements.require(judgements), exponents, measure, chunk_size, parts)
    search.check(row_count(documents))
    return search.sweep([search.best(documents, excluded_pairs)])


class AlphaExponents(NamedTuple):
    """Exponents to try.

    Attributes:
        alphas: ascending, ``[a]``; 0 is among them.
        powers: of the norm beside the inner product of each, ``[a]``.
    """

    alphas: Tensor
    powers: Tensor


def alpha_exponents(
    alphas: Sequence[float] | ArrayLike = ALPHAS,
    normalization: Normalization = "cosine",
    *,
    gamma_query: float | None = None,
    gamma_document: float | None = None,
) -> AlphaExponents:
    """Exponents in order, with the powers that embeddings trained like this take by them.

    Args:
        alphas: as :func:`sweep_alpha` takes them; so are the others.
        normalization: what the embeddings were trained with.
        gamma_query: the learnt exponent of queries.
        gamma_document: the learnt exponent of documents.

    Raises:
        ValueError: if 0 is not among them, or something is not finite or does not fit.

    Example:
        >>> alpha_exponents((1, 0)).powers
        tensor([-1.,  0.], dtype=torch.float64)
    """
    score = NormAwareScore(normalization, gamma_query=gamma_query, gamma_document=gamma_document)
    steps = _checked(alphas)
    return AlphaExponents(steps, steps - score.exponents[1])


class PartBest(NamedTuple):
    """The best of some of the documents.

    Attributes:
        top_k: scores in float64 and positions, ``[judged queries · a, k]``.
        documents: how many there were.
    """

    top_k: TopK
    documents: int


class AlphaSearch(NamedTuple):
    """The search of a sweep, which may go over parts of the documents in different places.

    Attributes:
        queries: ``[n, d]``, as :func:`~lightning_normdyn.retrieval.search.top_k.checked_queries` gives them.
        judgements: by position in queries and in all documents.
        exponents: to try.
        measure: its name.
        chunk_size: documents that are converted and sorted together.
        parts: which document each vector is a part of, where documents have several; judgements go by documents then.
    """

    queries: Tensor
    judgements: Judgements
    exponents: AlphaExponents
    measure: str = "ndcg@10"
    chunk_size: int | None = None
    parts: DocumentParts | None = None

    def check(self, document_count: int | None = None) -> None:
        """Refuses what does not fit together.

        Raises:
            ValueError: if there is no such measure, or a judgement is of no query or document.
        """
        self._depth()
        if self.parts is not None and document_count is not None:
            if len(self.parts.owners) != document_count:
                raise ValueError(
                    f"owners: expected a document for each of {document_count} vectors, got {len(self.parts.owners)}"
                )
            document_count = self.parts.documents
        Judgements.require(self.judgements).check(len(self.queries), document_count)

    def _depth(self) -> int:
        """How many vectors a ranking must hold for the measure."""
        depth = measure_named(self.measure).depth
        return depth if self.parts is None else self.parts.depth(depth)

    @torch.no_grad()
    def best(self, documents: Documents, excluded_pairs: tuple[ArrayLike, ArrayLike] | None = None) -> PartBest:
        """The best of these documents for every query with a relevant one at every exponent.

        Args:
            documents: of one part, ``[m, d]``.
            excluded_pairs: positions of query and document of each pair that must not be found.

        Raises:
            ValueError: if something does not fit, is not finite, or a norm is too extreme for its powers.
        """
        queries, d = self.queries, self.queries.shape[1]
        exclusions = None if excluded_pairs is None else ExcludedPairs(excluded_pairs, len(queries), queries.device)
        judged_queries, depth = self._judged_queries(), self._depth()
        if not len(judged_queries):
            return PartBest(TopK(torch.empty(0, depth), torch.empty(0, depth, dtype=torch.int64)), 0)
        # A query's norm changes no ranking, and its direction alone keeps products within float32.
        query_blocks = rescale(queries[judged_queries], 1.0).split(_QUERIES)
        width = tile_width(len(query_blocks[0]), queries.device)
        tiles = [Tile(query_block, width) for query_block in query_blocks]
        running_top_k = [
            RunningAlphaTopK(query_block, self.exponents.powers, depth, exclusions, query_numbers)
            for query_block, query_numbers in zip(query_blocks, judged_queries.split(_QUERIES), strict=True)
        ]
        offset = 0
        with torch.autocast(queries.device.type, enabled=False):
            for piece in document_chunks(documents, rounded_chunk_size(self.chunk_size, d, width), d):
                chunk = piece.to(queries)
                for number, band in enumerate(norm_bands(chunk, width, sample=offset == 0)):
                    for tile, running in zip(tiles, running_top_k, strict=True):
                        tile.fill(band.documents)
                        running.take(tile, band, offset, begin=offset == 0 and number == 0)
                offset += len(chunk)
        blocks = [running.best() for running in running_top_k]
        top_k = TopK(torch.cat([block.scores for block in blocks]), torch.cat([block.indices for block in blocks]))
        return PartBest(top_k, offset)

    def sweep(self, part_bests: Sequence[PartBest]) -> AlphaSweep:
        """Measures the rankings of all parts together.

        Args:
            part_bests: what :meth:`best` found in each, in the order of the documents.

        Raises:
            ValueError: if a judgement is of no document.
        """
        return self.measured(self.rankings(part_bests))

    def rankings(self, part_bests: Sequence[PartBest]) -> list[Tensor]:
        """Documents of every judged query's ranking, to the measure's depth, at each exponent, ``[judged, k]`` each.

        Args:
            part_bests: as :meth:`sweep` takes them.

        Raises:
            ValueError: if a judgement is of no document.
        """
        judged_count, depth = len(self._judged_queries()), measure_named(self.measure).depth
        if not judged_count:
            return []
        first_rows = [0, *accumulate(part.documents for part in part_bests)]
        self.check(first_rows[-1])
        best = merged_top_k((part.top_k for part in part_bests), first_rows[:-1], self._depth())
        of_vectors = best.indices.view(judged_count, len(self.exponents.alphas), -1).unbind(1)
        return [rows if self.parts is None else self.parts.ranked(rows, depth) for rows in of_vectors]

    def measured(self, rankings: Sequence[Tensor]) -> AlphaSweep:
        """The measure of rankings.

        Args:
            rankings: as :meth:`rankings` gives them.
        """
        steps, ranking_measure = self.exponents.alphas, measure_named(self.measure)
        judged_queries, judgements = self._judged_queries(), self._relevant()
        local_judgements = Judgements(torch.searchsorted(judged_queries, judgements.queries), *judgements[1:])
        values = torch.full((len(steps), len(self.queries)), torch.nan, dtype=torch.float64)
        for number, ranking in enumerate(rankings):
            grades = grade_ranking(ranking, local_judgements, depth=ranking_measure.depth)
            values[number, judged_queries.cpu()] = ranking_measure.of(grades).cpu()
        return AlphaSweep(steps, values, self.measure)

    def _relevant(self) -> Judgements:
        return Judgements(*(column.to(self.queries.device) for column in self.judgements)).relevant()

    def _judged_queries(self) -> Tensor:
        unique: Tensor = self._relevant().queries.unique()
        return unique


def _checked(alphas: Sequence[float] | ArrayLike) -> Tensor:
    try:
        numbers = as_tensor("alphas", alphas) if is_array(alphas) else alphas
        steps = torch.as_tensor(numbers, dtype=torch.float64).cpu().to_dense()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"alphas: expected exponents, 0 among them, got {shown(alphas)}; pass a list of numbers"
        ) from error
    if steps.ndim != 1:
        raise ValueError(f"alphas: expected exponents [a], got {shown(alphas)}; pass a list of numbers")
    if not steps.isfinite().all() or not (steps == 0).any() or len(steps.unique()) < len(steps):
        raise ValueError(
            f"alphas: expected different finite exponents with 0 among them, got {shown(steps.tolist())}; 0 is what "
            "the others are held against"
        )
    return steps.sort().values
