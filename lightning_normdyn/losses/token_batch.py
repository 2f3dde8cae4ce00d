"""Checks queries and documents of many vectors each, padded or packed, and puts them into one record."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import most_precise_dtype


class TokenBatch(NamedTuple):
    """Queries and documents of one rank, token vectors without padding.

    Attributes:
        query_tokens: ``[Q, d]``.
        query_mask: where they stand among padded queries, ``[n, q]``.
        document_tokens: ``[N, d]``.
        document_lengths: how many each document has, ``[m]``.
    """

    query_tokens: Tensor
    query_mask: Tensor
    document_tokens: Tensor
    document_lengths: Tensor

    @classmethod
    def check(
        cls,
        queries: Tensor,
        documents: Tensor,
        query_mask: Tensor | None,
        document_mask: Tensor | None,
        document_lengths: Tensor | None,
    ) -> TokenBatch:
        """Refuses what does not fit together.

        Args:
            queries: ``[n, q, d]``.
            documents: ``[m, t, d]``, or ``[N, d]`` where they are packed.
            query_mask: ``[n, q]``, or ``None`` if all are tokens.
            document_mask: ``[m, t]``, likewise.
            document_lengths: ``[m]``, of packed documents.

        Raises:
            ValueError: naming the argument, what came, and the likely fix.
        """
        _check_side("queries", queries, {3: "[n, q, d]"})
        _check_side("documents", documents, {3: "[m, t, d]", 2: "[N, d]"})
        if documents.shape[-1] != queries.shape[-1]:
            raise ValueError(
                f"documents: expected the d of queries, {queries.shape[-1]}, got {documents.shape[-1]}; project both "
                "sides to one space"
            )
        if documents.device != queries.device:
            raise ValueError(f"documents: expected on the device of queries, {queries.device}, got {documents.device}")
        query_mask = _checked_mask("query_mask", query_mask, queries)
        if documents.ndim == 3:
            if document_lengths is not None:
                raise ValueError("document_lengths: they are of packed documents [N, d]; give document_mask instead")
            document_mask = _checked_mask("document_mask", document_mask, documents)
            tokens, lengths = documents[document_mask], document_mask.sum(1)
        else:
            if document_mask is not None:
                raise ValueError("document_mask: packed documents [N, d] have no padding; give document_lengths alone")
            tokens, lengths = documents, _checked_lengths(document_lengths, documents)
        return cls(queries[query_mask], query_mask, tokens, lengths)

    def checked_ids(self, document_ids: Tensor | None) -> Tensor | None:
        """Ids of documents, int64 ``[m]``, where there are some, and a document for each query.

        Raises:
            ValueError: if there are not as many of either.
        """
        n, m = len(self.query_mask), len(self.document_lengths)
        if m < n:
            raise ValueError(
                f"documents: expected at least as many as queries, {n}, got {m}; document i is the positive of query i"
            )
        if document_ids is None:
            return None
        if not _are_whole_numbers(document_ids) or document_ids.shape != (m,):
            raise ValueError(f"document_ids: expected whole numbers [{m}], got {_words_of(document_ids)}")
        return document_ids.to(self.document_lengths.device, torch.int64)

    def token_weights(self, *, is_mean: bool) -> Tensor:
        """Of query tokens in a query's score, ``[n, q]``: 0 for padding, 1 for the others, or for a mean 1 in sum."""
        weights = self.query_mask.to(most_precise_dtype(self.query_mask.device))
        return weights / weights.sum(1, keepdim=True) if is_mean else weights

    def padded(self, query_tokens: Tensor) -> Tensor:
        """Query tokens ``[Q, d]`` where they stand, ``[n, q, d]``, and zeros elsewhere."""
        queries = query_tokens.new_zeros(*self.query_mask.shape, query_tokens.shape[1])
        queries[self.query_mask] = query_tokens
        return queries


def _check_side(name: str, side: object, shapes: dict[int, str]) -> None:
    in_words = " or ".join(shapes.values())
    if not isinstance(side, Tensor) or side.ndim not in shapes or not side.is_floating_point():
        raise ValueError(
            f"{name}: expected floating-point embeddings {in_words}, a vector for each token, got {_words_of(side)}"
        )
    if not side.numel():
        raise ValueError(f"{name}: expected at least one embedding, got {tuple(side.shape)}; skip empty batches")


def _checked_mask(name: str, mask: object, side: Tensor) -> Tensor:
    """As booleans, with a token in every row."""
    if mask is None:
        return torch.ones(side.shape[:2], dtype=torch.bool, device=side.device)
    if not isinstance(mask, Tensor) or mask.shape != side.shape[:2] or mask.is_floating_point() or mask.is_complex():
        shape = list(side.shape[:2])
        raise ValueError(f"{name}: expected booleans {shape}, true where a token is, got {_words_of(mask)}")
    if mask.dtype != torch.bool and bool(((mask != 0) & (mask != 1)).any()):
        raise ValueError(f"{name}: expected 1 where a token is and else 0, got {int(mask.min())} to {int(mask.max())}")
    flags = mask.to(side.device, torch.bool)
    empty = (~flags.any(1)).nonzero()
    if len(empty):
        raise ValueError(f"{name}: expected a token in every row, got none in row {int(empty[0])}; leave it out")
    return flags


def _checked_lengths(lengths: Tensor | None, documents: Tensor) -> Tensor:
    """As int64."""
    if lengths is None:
        raise ValueError(
            f"document_lengths: expected how many tokens each document has beside packed documents "
            f"{list(documents.shape)}, got None; padded documents are [m, t, d]"
        )
    if not _are_whole_numbers(lengths) or lengths.ndim != 1:
        raise ValueError(f"document_lengths: expected whole numbers [m], got {_words_of(lengths)}")
    numbers = lengths.to(documents.device, torch.int64)
    if not len(numbers) or int(numbers.min()) < 1 or int(numbers.sum()) != len(documents):
        raise ValueError(
            f"document_lengths: expected numbers from 1 up with the sum of {len(documents)} tokens, got "
            f"{numbers[:8].tolist()}{', ...' if len(numbers) > 8 else ''} with the sum of {int(numbers.sum())}"
        )
    return numbers


def _are_whole_numbers(values: object) -> bool:
    if not isinstance(values, Tensor) or values.dtype == torch.bool:
        return False
    return not (values.is_floating_point() or values.is_complex())


def _words_of(values: object) -> str:
    return f"{values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
