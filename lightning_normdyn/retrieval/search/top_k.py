"""Exact top-k search by inner product over any number of documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike
from lightning_normdyn.core.embedding_codes import as_embeddings
from lightning_normdyn.core.number_checks import check_count, shown
from lightning_normdyn.retrieval.search.document_chunks import Documents, as_documents, document_chunks, row_count
from lightning_normdyn.retrieval.search.excluded_pairs import ExcludedPairs
from lightning_normdyn.retrieval.search.running_top_k import NO_DOCUMENT, RunningTopK
from lightning_normdyn.retrieval.search.struck_scores import Strike
from lightning_normdyn.retrieval.search.tiles import Survivors, Tile, tile_width

Backend = Literal["auto", "torch", "faiss"]
_QUERIES = 4096
_CHUNK_NUMBERS = 2**24


class TopK(NamedTuple):
    """The best documents of each query, best first.

    Attributes:
        scores: ``[n, k]``; minus infinity where fewer than ``k`` documents were allowed.
        indices: their positions, int64 ``[n, k]``; -1 where there is none.
    """

    scores: Tensor
    indices: Tensor


@torch.no_grad()
def exact_top_k(
    queries: ArrayLike,
    documents: Documents,
    k: int,
    *,
    chunk_size: int | None = None,
    excluded_pairs: tuple[ArrayLike, ArrayLike] | None = None,
    backend: Backend = "auto",
) -> TopK:
    """Finds the ``k`` documents of largest inner product with each query.

    All documents are scored, a tile that fits into the cache at a time; only scores above a query's ``k``-th best so
    far are looked at. Of equal scores the smaller index comes first. Half precision is widened to float32 before it is
    multiplied. The result is the same to the bit for any ``chunk_size``.

    Args:
        queries: ``[n, d]``, a tensor or an array; the search runs on their device.
        documents: ``[m, d]``: a tensor on any device, an array or memmap of any library (what gives ``__array__`` or
            ``__dlpack__``: numpy, pandas, JAX, CuPy), or an iterable of chunks of these.
        k: documents a query; all of them if there are fewer.
        chunk_size: documents that are converted and moved together, rounded up to whole tiles (1,024 for 1,000
            queries); memory grows with it and not with ``m``. About 64 MiB if left out.
        excluded_pairs: positions of query and document of each pair that must not be found, as in filtered evaluation.
        backend: ``faiss`` searches each chunk with faiss-cpu, whose order among equal scores is its own. ``auto`` is
            ``torch``, which is as fast (``benchmarks/results/search.md``).

    Returns:
        Scores in float32, or in float64 if an input is, and positions.

    Raises:
        ValueError: if shapes do not fit, a vector is not finite or a score too large for its type.
        ModuleNotFoundError: if ``faiss`` is asked for and not installed.

    Example:
        >>> documents = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [1.0, 0.0]])
        >>> exact_top_k(torch.tensor([[1.0, 0.0]]), documents, 3).indices
        tensor([[2, 0, 3]])
        >>> pairs = torch.tensor([0]), torch.tensor([1])
        >>> exact_top_k(torch.tensor([[-1.0, 0.0]]), documents, 2, excluded_pairs=pairs)
        TopK(scores=tensor([[-1., -1.]]), indices=tensor([[0, 3]]))
    """
    documents = as_documents(documents)
    queries = checked_queries(queries, documents, chunk_size)
    check_count(k=k)
    if backend not in ("auto", "torch", "faiss"):
        raise ValueError(f"backend: expected 'auto', 'torch' or 'faiss', got {shown(backend)}")
    n = len(queries)
    m = row_count(documents)
    k = k if m is None else max(1, min(k, m))
    exclusions = None if excluded_pairs is None else ExcludedPairs(excluded_pairs, n, queries.device)
    if backend == "faiss":
        return _by_faiss(queries, documents, k, chunk_size, exclusions)
    return tiled_top_k(queries, documents, k, chunk_size=chunk_size, strikes=[] if exclusions is None else [exclusions])


def tiled_top_k(
    queries: Tensor, documents: Documents, k: int, *, chunk_size: int | None = None, strikes: Sequence[Strike] = ()
) -> TopK:
    """The search of :func:`exact_top_k` with anything that strikes scores before they are ranked.

    Args:
        queries: ``[n, d]``, float32 or float64, as :func:`checked_queries` gives them.
        documents: ``[m, d]``.
        k: documents a query.
        chunk_size: as in :func:`exact_top_k`.
        strikes: each changes every tile, in this order.

    Raises:
        ValueError: if shapes do not fit, a document is not finite or a score too large for its type.
    """
    d = queries.shape[1]
    query_blocks = queries.split(_QUERIES)
    width = tile_width(len(query_blocks[0]), queries.device)
    tiles = [Tile(query_block, width) for query_block in query_blocks]
    running_top_k = [RunningTopK(len(query_block), k, query_block) for query_block in query_blocks]
    offset = 0
    with torch.autocast(queries.device.type, enabled=False):
        for chunk in document_chunks(documents, rounded_chunk_size(chunk_size, d, width), d):
            for start in range(0, len(chunk), width):
                block = chunk[start : start + width].to(queries)
                positions = torch.arange(offset + start, offset + start + len(block), device=queries.device)
                for block_number, (tile, best) in enumerate(zip(tiles, running_top_k, strict=True)):
                    tile.fill(block)
                    for strike in strikes:
                        strike.strike(tile.scores, block_number * _QUERIES, offset + start)
                    rows, columns, scores = survivors(tile, best.thresholds, block, positions, k)
                    best.offer(rows, positions[columns], scores)
            offset += len(chunk)
    for best in running_top_k:
        best.settle()
    result = TopK(
        torch.cat([best.scores for best in running_top_k]), torch.cat([best.indices for best in running_top_k])
    )
    return TopK(result.scores[:, :offset], result.indices[:, :offset])


def merged_top_k(part_bests: Iterable[TopK], first_rows: Iterable[int], k: int) -> TopK:
    """The best of several parts of the documents, as one search over all of them finds them, to the bit.

    Args:
        part_bests: the best of each part, positions counted from its first document.
        first_rows: the position of that document among all.
        k: documents a query; all of them if there are fewer.

    Raises:
        ValueError: if there is no part.

    Example:
        >>> first = TopK(torch.tensor([[2.0, 1.0]]), torch.tensor([[1, 0]]))
        >>> second = TopK(torch.tensor([[2.0]]), torch.tensor([[0]]))
        >>> merged_top_k([first, second], [0, 7], 2).indices
        tensor([[1, 7]])
    """
    best: RunningTopK | None = None
    width = 0
    for part, first_row in zip(part_bests, first_rows, strict=True):
        best = RunningTopK(len(part.scores), k, part.scores, ascending=False) if best is None else best
        rows, columns = (part.indices != NO_DOCUMENT).nonzero().unbind(1)
        best.offer(rows, part.indices[rows, columns] + first_row, part.scores[rows, columns])
        width += part.scores.shape[1]
    if best is None:
        raise ValueError("part_bests: expected one or more, got none; were there documents?")
    best.settle()
    return TopK(best.scores[:, :width], best.indices[:, :width])


def rounded_chunk_size(chunk_size: int | None, d: int, width: int) -> int:
    """Documents a chunk: whole tiles, about 64 MiB unless it is said otherwise."""
    rows = _CHUNK_NUMBERS // max(1, d) if chunk_size is None else chunk_size
    return -(-rows // width) * width


def survivors(tile: Tile, thresholds: Tensor, block: Tensor, positions: Tensor, k: int | None = None) -> Survivors:
    """:meth:`Tile.above`, with an error that names the document: ``block`` is the tile's, at these positions."""
    try:
        return tile.above(thresholds, k)
    except FloatingPointError:
        bad = positions[~block.isfinite().all(1)]
        if len(bad):
            raise ValueError(
                f"documents: expected finite numbers, got NaN or infinite ones in row {int(bad.min())}; leave such "
                "rows out or encode them again"
            ) from None
        raise _too_large(block.dtype, int(positions.min())) from None


def _too_large(dtype: torch.dtype, row: int) -> ValueError:
    return ValueError(
        f"documents: expected scores within {dtype}, got larger ones from row {row} on; scale the embeddings down or "
        "pass them in float64"
    )


def checked_queries(queries: ArrayLike, documents: Documents, chunk_size: int | None) -> Tensor:
    """The queries in the precision that is searched in.

    Raises:
        ValueError: if they are no ``[n, d]`` or not finite, or there is no such chunk.
    """
    (queries,) = as_embeddings(queries=queries)
    if queries.ndim != 2:
        raise ValueError(f"queries: expected [n, d], got {tuple(queries.shape)}; a single one is queries[None]")
    bad = (~queries.isfinite().all(1)).nonzero()
    if len(bad):
        raise ValueError(
            f"queries: expected finite numbers, got NaN or infinite ones in row {int(bad[0])}; leave such rows out"
        )
    if chunk_size is not None:
        check_count(chunk_size=chunk_size)
    wide = str(getattr(documents, "dtype", "")).endswith("float64") or queries.dtype == torch.float64
    return queries.detach().to(torch.float64 if wide else torch.float32)


def _by_faiss(
    queries: Tensor, documents: Documents, k: int, chunk_size: int | None, exclusions: ExcludedPairs | None
) -> TopK:
    try:
        faiss: Any = import_module("faiss")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "backend='faiss' needs FAISS: pip install 'lightning-normdyn[faiss]', or leave it at 'auto'"
        ) from None
    n, d = queries.shape
    if queries.device.type != "cpu" or queries.dtype != torch.float32:
        raise ValueError(f"queries: expected float32 on the CPU for faiss, got {queries.dtype} on {queries.device}")
    depth = k + (exclusions.max_per_query if exclusions is not None else 0)
    best, offset = RunningTopK(n, k, queries, ascending=False), 0
    for piece in document_chunks(documents, rounded_chunk_size(chunk_size, d, 1), d):
        chunk = piece.to(queries).contiguous()
        if not chunk.isfinite().all():
            row = offset + int((~chunk.isfinite().all(1)).nonzero()[0])
            raise ValueError(f"documents: expected finite numbers, got NaN or infinite ones in row {row}")
        scores, columns = map(
            torch.from_numpy,
            faiss.knn(queries.numpy(), chunk.numpy(), min(depth, len(chunk)), metric=faiss.METRIC_INNER_PRODUCT),
        )
        # FAISS finds no document whose score is minus infinity.
        if bool((columns == NO_DOCUMENT).any()) or not scores.isfinite().all():
            raise _too_large(chunk.dtype, offset)
        if exclusions is not None:
            penalties = scores.new_zeros(n, len(chunk))
            exclusions.strike(penalties, 0, offset)
            scores = scores + penalties.gather(1, columns)
        rows = torch.arange(n).unsqueeze(1).expand_as(columns)
        is_finite = (columns != NO_DOCUMENT) & (scores > -torch.inf)
        best.offer(rows[is_finite], columns[is_finite] + offset, scores[is_finite])
        offset += len(chunk)
    best.settle()
    return TopK(best.scores[:, :offset], best.indices[:, :offset])
