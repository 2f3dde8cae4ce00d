"""Late interaction in a stream: sums over a query's tokens of their largest scores with a document's tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from lightning_normdyn.core.contrast.first_derivative import first_derivative_only
from lightning_normdyn.core.dynamics.geometry import most_precise_dtype

_TILE_SIDE = {"cpu": 512}
_ACCELERATOR_TILE_SIDE = 4096


def max_sim_scores(
    queries: Tensor,
    query_weights: Tensor,
    documents: Tensor,
    document_lengths: Tensor,
    *,
    chunk_size: int | None = None,
) -> Tensor:
    """``S_ij = sum_a w_ia max_b <q_ia, d_jb>``, without the scores of all tokens at a time.

    Scores of tokens are made and thrown away a tile at a time. What stays for the gradient is which token of each
    document is the nearest of each query token, a small number for each of ``n·q·m``; the gradient of a maximum goes to
    that one token, the first of those that tie.

    Args:
        queries: rescaled tokens, ``[n, q, d]``; those of weight 0 may be anything finite.
        query_weights: of the tokens in the sum, ``[n, q]``; they carry no gradient.
        documents: rescaled tokens of all documents one after the other, ``[N, d]``.
        document_lengths: how many tokens each document has, ``[m]``, from 1 up, with sum N.
        chunk_size: documents that are looked at together; ``None`` picks what suits the device.

    Returns:
        ``[n, m]`` in float64 where the device has it; the scores of tokens are in the precision of the embeddings.

    Source: arXiv 2004.12832, eq. 3.

    Example:
        >>> queries = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> documents = torch.tensor([[3.0, 0.0], [1.0, 2.0], [-1.0, 5.0]])
        >>> max_sim_scores(queries, torch.ones(1, 2), documents, torch.tensor([2, 1]))
        tensor([[5., 4.]], dtype=torch.float64)
    """
    keeps_places = torch.is_grad_enabled() and (queries.requires_grad or documents.requires_grad)
    scores: Tensor = _MaxSim.apply(queries, query_weights, documents, document_lengths, chunk_size, keeps_places)
    return scores


class _Chunk(NamedTuple):
    """Some documents of about one length.

    Attributes:
        columns: which they are, ``[c]``.
        rows: of their tokens, ``[c, t]``; any row where a document has fewer.
        is_token: whether there is a token, ``[c, t]``.
    """

    columns: Tensor
    rows: Tensor
    is_token: Tensor


class _MaxSim(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        weights: Tensor,
        documents: Tensor,
        lengths: Tensor,
        chunk_size: int | None,
        keeps_places: bool,
    ) -> Tensor:
        n, q, _ = queries.shape
        scores = queries.new_zeros(n, len(lengths), dtype=most_precise_dtype(queries.device))
        places = queries.new_empty((n, q, len(lengths)) if keeps_places else 0, dtype=_place_dtype(lengths))
        for chunk in _chunks(lengths, chunk_size):
            tokens = documents[chunk.rows]
            for block in _blocks(queries):
                maxima, nearest = _nearest(queries[block], tokens, chunk.is_token)
                products = maxima.to(scores.dtype) * weights[block, :, None].to(scores.dtype)
                scores[block, chunk.columns] = products.sum(1)
                if keeps_places:
                    places[block, :, chunk.columns] = nearest.to(places.dtype)
        ctx.chunk_size = chunk_size
        ctx.save_for_backward(queries, weights, documents, lengths, places)
        return scores

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, weights, documents, lengths, places = ctx.saved_tensors
        of_queries = torch.zeros_like(queries)
        of_documents = torch.zeros_like(documents)
        for chunk in _chunks(lengths, ctx.chunk_size):
            tokens = rearrange(documents[chunk.rows], "c t d -> (c t) d")
            of_tokens = torch.zeros_like(tokens)
            for block in _blocks(queries):
                shares = gradient[block, None, chunk.columns] * weights[block, :, None].to(gradient.dtype)
                tile = queries.new_zeros(*shares.shape, chunk.rows.shape[1])
                tile.scatter_(3, places[block, :, chunk.columns].long()[..., None], shares.to(tile.dtype)[..., None])
                tile = rearrange(tile, "n q c t -> (n q) (c t)")
                if ctx.needs_input_grad[0]:
                    of_queries[block] += (tile @ tokens).view_as(queries[block])
                if ctx.needs_input_grad[2]:
                    of_tokens.addmm_(tile.T, rearrange(queries[block], "n q d -> (n q) d"))
            is_token = chunk.is_token.flatten()
            of_documents[chunk.rows.flatten()[is_token]] = of_tokens[is_token]  # each document is in one chunk
        return (
            of_queries if ctx.needs_input_grad[0] else None,
            None,
            of_documents if ctx.needs_input_grad[2] else None,
            None,
            None,
            None,
        )


def _nearest(queries: Tensor, tokens: Tensor, is_token: Tensor) -> tuple[Tensor, Tensor]:
    """The largest score of each query token ``[n, q, d]`` in each document ``[c, t, d]``, and where: ``[n, q, c]``."""
    scores = rearrange(queries, "n q d -> (n q) d") @ rearrange(tokens, "c t d -> (c t) d").T
    scores = rearrange(scores, "(n q) (c t) -> n q c t", n=len(queries), c=len(tokens))
    largest = scores.masked_fill_(~is_token, -torch.inf).max(-1)
    return largest.values, largest.indices


def _chunks(lengths: Tensor, chunk_size: int | None) -> Iterator[_Chunk]:
    """All documents, the longest first, so that those of a chunk are of about one length."""
    ends = lengths.cumsum(0)
    order = lengths.argsort(descending=True, stable=True)
    sizes = lengths[order].tolist()
    first = 0
    while first < len(sizes):
        count = max(1, _tile_side(lengths) // sizes[first]) if chunk_size is None else chunk_size
        columns = order[first : first + count]
        offsets = torch.arange(sizes[first], device=lengths.device)
        is_token = offsets < lengths[columns, None]
        rows = (ends[columns, None] - lengths[columns, None]) + offsets.where(is_token, 0)
        yield _Chunk(columns, rows, is_token)
        first += count


def _blocks(queries: Tensor) -> Iterator[slice]:
    """Queries ``[n, q, d]``, some at a time."""
    count = max(1, _tile_side(queries) // queries.shape[1])
    for first in range(0, len(queries), count):
        yield slice(first, first + count)


def _tile_side(x: Tensor) -> int:
    """Tokens of a side that are looked at together."""
    return _TILE_SIDE.get(x.device.type, _ACCELERATOR_TILE_SIDE)


def _place_dtype(lengths: Tensor) -> torch.dtype:
    """The narrowest that numbers the tokens of the longest document."""
    return torch.int16 if int(lengths.max()) <= 2**15 else torch.int32
