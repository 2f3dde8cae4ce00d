"""Mines hard negatives: the closest documents that are no positives and that keep a margin from them, streamed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike, as_tensor
from lightning_normdyn.core.contrast.similarity import rescale
from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.core.embedding_codes import as_embeddings
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.retrieval.exponent.scoring import NormAwareScore
from lightning_normdyn.retrieval.mining.hard_negatives import HardNegatives
from lightning_normdyn.retrieval.mining.options import MiningOptions, SamplingStrategy
from lightning_normdyn.retrieval.mining.positives import Ids, PositivePairs, Positives, first_of_equals
from lightning_normdyn.retrieval.search.document_chunks import Array, as_documents, check_rows, document_chunks
from lightning_normdyn.retrieval.search.excluded_pairs import ExcludedPairs, as_pairs
from lightning_normdyn.retrieval.search.running_top_k import NO_DOCUMENT
from lightning_normdyn.retrieval.search.struck_scores import LeftOutDocuments, ScoreCeilings, Strike
from lightning_normdyn.retrieval.search.tiles import tile_width
from lightning_normdyn.retrieval.search.top_k import (
    TopK,
    checked_queries,
    merged_top_k,
    rounded_chunk_size,
    tiled_top_k,
)

Gather = Callable[[Tensor], Tensor]
"""Gives the tensors of all ranks, ``[ranks, ...]``, each of the shape that this rank hands over."""
_PAIRS = 2**16


@dataclass(frozen=True)
class DocumentShare:
    """Which of all documents are at hand here, and how to reach the ranks that have the others.

    Attributes:
        first: position of the first among all.
        total: how many there are in all.
        gather: of every rank; ``None`` where all documents are here.
    """

    first: int
    total: int
    gather: Gather | None = None

    def of_all(self, tensor: Tensor) -> Tensor:
        """A tensor of every rank, ``[ranks, ...]``."""
        return tensor.unsqueeze(0) if self.gather is None else self.gather(tensor)


@torch.no_grad()
def mine_hard_negatives(
    queries: ArrayLike,
    documents: ArrayLike | Array,
    positives: Positives,
    *,
    num_negatives: int = 3,
    range_min: int = 0,
    range_max: int | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    sampling_strategy: SamplingStrategy = "top",
    seed: int = 0,
    normalization: Normalization = "cosine",
    alpha: float = 0.0,
    gamma_query: float | None = None,
    gamma_document: float | None = None,
    document_ids: Ids | None = None,
    excluded_pairs: tuple[ArrayLike, ArrayLike] | None = None,
    chunk_size: int | None = None,
) -> HardNegatives:
    """Finds the documents closest to each query that are no positives of it and no false negatives by a margin.

    Options have the names and the meaning of sentence-transformers' ``mine_hard_negatives``; limits that are measured
    from the positive are those of NV-Retriever (arXiv 2407.15831). Documents are read once, a tile of scores that fits
    into the cache at a time, and a limit holds while they pass: without ``range_max`` a query goes without negatives
    only if no document meets its limits. A query of several positives measures margins from the one that scores
    lowest, as there; positives of a query are never negatives of it, however many it has.

    Args:
        queries: ``[n, d]``; the search runs on their device.
        documents: ``[m, d]``: a tensor on any device, or an array or memmap of any library.
        positives: :class:`~lightning_normdyn.datasets.Judgements`, of which grades above 0 count; positions ``[n]`` or
            ``[n, p]`` with -1 for none; or a list with one position or several of each query.
        num_negatives: of a query.
        range_min: how many of the closest documents that meet all limits are passed over.
        range_max: how many of the closest documents that are no positives are looked at; all if left out.
        max_score: the highest score of a negative.
        min_score: the lowest.
        absolute_margin: negatives score at most the positive's score minus this.
        relative_margin: negatives score at most the positive's score minus this share of its size; 0.05 is usual.
        sampling_strategy: ``top`` takes the closest, ``random`` draws from those that ``range_max`` leaves, or from the
            ``10 · num_negatives`` closest if it is left out.
        seed: of the draw.
        normalization: which norms scores keep, what the embeddings were trained with.
        alpha: further exponent of the document's norm, see :class:`NormAwareScore`.
        gamma_query: the learnt exponent of queries, for ``learnable`` alone.
        gamma_document: the learnt exponent of documents, for ``learnable`` alone.
        document_ids: equal ids mean equal documents, of which the first stands for all: copies of a positive are no
            negatives, and no query gets two copies. The texts themselves will do.
        excluded_pairs: positions of query and document of further pairs that must not be found, ``[p]`` each.
        chunk_size: documents that are converted and moved together, as in :func:`exact_top_k`.

    Returns:
        Positions and scores; too few are -1, counted and said in one warning.

    Raises:
        ValueError: if shapes do not fit, an option is out of its range, an embedding is not finite, or a margin is
            asked for and a query has no positive.

    Example:
        >>> queries = torch.tensor([[1.0, 0.0]])
        >>> documents = torch.tensor([[0.9, 0.1], [1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> mine_hard_negatives(queries, documents, [0], num_negatives=2).indices
        tensor([[1, 2]])
        >>> mine_hard_negatives(queries, documents, [0], num_negatives=2, relative_margin=0.05).indices
        tensor([[2, 3]])
    """
    options = MiningOptions(
        num_negatives=num_negatives,
        range_min=range_min,
        range_max=range_max,
        max_score=max_score,
        min_score=min_score,
        absolute_margin=absolute_margin,
        relative_margin=relative_margin,
        sampling_strategy=sampling_strategy,
        seed=seed,
    )
    score = NormAwareScore(normalization, 0.0, alpha, gamma_query, gamma_document)
    query_tensor = as_embeddings(queries=queries)[0].detach()
    if query_tensor.ndim != 2:
        raise ValueError(f"queries: expected [n, d], got {tuple(query_tensor.shape)}; a single one is queries[None]")
    documents = cast("Tensor | Array", as_documents(documents))
    if len(getattr(documents, "shape", ())) != 2:
        raise ValueError(
            f"documents: expected a tensor, an array or a memmap [m, d], got "
            f"{list(documents.shape) if hasattr(documents, 'shape') else type(documents).__name__}; positives are "
            "looked up before the documents pass, so a stream will not do"
        )
    m = int(documents.shape[0])
    if not m and len(query_tensor):
        raise ValueError("documents: expected at least one, got none; look at where they come from")
    pairs = PositivePairs.of(positives, len(query_tensor), m)
    hard_negatives = mine(
        query_tensor,
        documents,
        pairs,
        first_of_equals(document_ids, m),
        options,
        score,
        DocumentShare(0, m),
        excluded_pairs=None if excluded_pairs is None else as_pairs(excluded_pairs),
        chunk_size=chunk_size,
    )
    if len(hard_negatives.lacking):
        warnings.warn(hard_negatives.shortage(), stacklevel=3)  # one more for the decorator
    return hard_negatives


def mine(
    queries: Tensor,
    documents: Tensor | Array,
    positives: PositivePairs,
    firsts: Tensor,
    options: MiningOptions,
    score: NormAwareScore,
    share: DocumentShare,
    *,
    excluded_pairs: tuple[Tensor, Tensor] | None = None,
    chunk_size: int | None = None,
) -> HardNegatives:
    """Mines on one rank or several, each of which holds some of the documents; all ranks get the same.

    Args:
        queries: ``[n, d]``, all of them on every rank.
        documents: those of this rank.
        positives: pairs among all documents.
        firsts: of all documents, see :func:`~lightning_normdyn.retrieval.mining.positives.first_of_equals`.
        options: which documents count.
        score: what they are ranked by.
        share: which of them are here.
        excluded_pairs: further pairs that must not be found, among all documents.
        chunk_size: documents that are converted and moved together.

    Raises:
        ValueError: see :func:`mine_hard_negatives`.
    """
    checked = checked_queries(queries, documents, chunk_size)
    n, d = checked.shape
    check_rows(documents, d)
    scaled = rescale(checked, 1 - score.query_power)
    positive_scores = _positive_scores(scaled, documents, positives, score, share)
    lowest = positives.lowest(positive_scores, n)
    if options.has_margin and bool(lowest.isinf().any()):
        query = int(lowest.isinf().nonzero()[0])
        raise ValueError(
            f"positives: expected one or more for each query where a margin is measured from them, got none for query "
            f"{query}; leave such queries out, or limit negatives by max_score"
        )
    ceilings = options.ceilings(lowest)
    is_limited = options.has_margin or options.max_score is not None
    limits = ScoreCeilings(ceilings) if is_limited and options.range_max is None else None
    strikes = [*_exclusions(positives, firsts, excluded_pairs, n, scaled.device, share), *([limits] if limits else [])]
    depth = max(1, min(options.depth, share.total))
    best = _of_all_documents(_top_k(scaled, documents, depth, score, share, strikes, chunk_size), depth, share)
    scores, indices = best.scores.cpu(), best.indices.cpu()
    is_above = scores > ceilings.cpu().unsqueeze(1)  # what range_max let in; struck before otherwise
    above_limits = is_above.sum(1) if limits is None else share.of_all(limits.counts).sum(0).cpu()
    is_allowed = (indices != NO_DOCUMENT) & ~is_above
    if options.min_score is not None:
        is_allowed &= scores >= options.min_score
    columns = options.columns(is_allowed)
    is_absent = columns < 0
    return HardNegatives(
        indices.gather(1, columns.clamp(min=0)).masked_fill(is_absent, NO_DOCUMENT),
        scores.gather(1, columns.clamp(min=0)).masked_fill(is_absent, -torch.inf),
        positives,
        positive_scores.cpu(),
        above_limits,
        options,
    )


def _exclusions(
    positives: PositivePairs,
    firsts: Tensor,
    excluded_pairs: tuple[Tensor, Tensor] | None,
    n: int,
    device: torch.device,
    share: DocumentShare,
) -> Iterator[Strike]:
    """Positives and other pairs, and all copies of a document but the first, as numbered among this rank's."""
    for pairs in (positives, excluded_pairs):
        if pairs is None:
            continue
        if pairs is not positives:
            ExcludedPairs(pairs, n, torch.device("cpu"))  # checks them
            is_strange = (pairs[1] < 0) | (pairs[1] >= share.total)
            if bool(is_strange.any()):
                raise ValueError(
                    f"excluded_pairs: expected documents by position, 0 to {share.total - 1}, got "
                    f"{int(pairs[1][is_strange][0])}; number them as the rows of documents"
                )
        queries, documents = pairs[0].cpu(), firsts[pairs[1].cpu()] - share.first
        is_here = documents >= 0
        yield ExcludedPairs((queries[is_here], documents[is_here]), n, device)
    copies = (firsts != torch.arange(len(firsts))).nonzero().flatten() - share.first
    if len(copies):
        yield LeftOutDocuments(copies.to(device))


def _positive_scores(
    scaled: Tensor, documents: Tensor | Array, positives: PositivePairs, score: NormAwareScore, share: DocumentShare
) -> Tensor:
    """Of each pair, ``[p]``; a rank computes those whose documents it has."""
    scores = scaled.new_full((len(positives.documents),), -torch.inf)
    places = positives.documents - share.first
    is_here = (places >= 0) & (places < documents.shape[0])
    for pairs in is_here.nonzero().flatten().split(_PAIRS):
        rows = score.fold_documents(rows_at(documents, places[pairs]).to(scaled))
        queries = scaled[positives.queries[pairs].to(scaled.device)]
        scores[pairs.to(scores.device)] = (most_precise(queries) * most_precise(rows)).sum(1).to(scores.dtype)
    scores = share.of_all(scores).amax(0)
    bad = (~scores.isfinite()).nonzero().flatten()
    if len(bad):
        document = int(positives.documents[int(bad[0])])
        raise ValueError(
            f"documents: expected finite numbers and scores within {scores.dtype}, got another in row {document}; "
            "leave such rows out or encode them again"
        )
    return scores


def _top_k(
    scaled: Tensor,
    documents: Tensor | Array,
    depth: int,
    score: NormAwareScore,
    share: DocumentShare,
    strikes: list[Strike],
    chunk_size: int | None,
) -> TopK:
    """The best of this rank's documents, by position among all."""
    n, d = scaled.shape

    def folded_chunks() -> Iterator[Tensor]:
        for chunk in document_chunks(documents, rounded_chunk_size(chunk_size, d, tile_width(n, scaled.device)), d):
            yield score.fold_documents(chunk.to(scaled))

    best = tiled_top_k(scaled, folded_chunks(), depth, chunk_size=chunk_size, strikes=strikes)
    return TopK(best.scores, best.indices.where(best.indices == NO_DOCUMENT, best.indices + share.first))


def _of_all_documents(best: TopK, depth: int, share: DocumentShare) -> TopK:
    """The best of all ranks; a rank with few documents hands over as many columns as the others."""
    missing = depth - best.scores.shape[1]
    scores = torch.nn.functional.pad(best.scores, (0, missing), value=-torch.inf)
    indices = torch.nn.functional.pad(best.indices, (0, missing), value=NO_DOCUMENT)
    parts = [TopK(*part) for part in zip(share.of_all(scores), share.of_all(indices), strict=True)]
    return parts[0] if len(parts) == 1 else merged_top_k(parts, [0] * len(parts), depth)


def rows_at(documents: Tensor | Array, places: Tensor) -> Tensor:
    """Rows of documents at some positions, ``[p, d]``; of what lies on disk each is read once, in order.

    Example:
        >>> rows_at(torch.tensor([[1.0], [2.0]]), torch.tensor([1, 0, 1])).flatten()
        tensor([2., 1., 2.])
    """
    if isinstance(documents, Tensor):
        return documents.detach()[places.to(documents.device)]
    distinct, order = places.unique(return_inverse=True)
    array: Any = documents
    return as_tensor("documents", array[distinct.numpy()])[order]
