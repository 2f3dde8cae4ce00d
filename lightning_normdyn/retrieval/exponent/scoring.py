"""Norm-aware scoring: a cosine times a power of each norm, and exact search by that score."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike
from lightning_normdyn.core.contrast.similarity import NORMALIZATIONS, rescale, similarity_scores
from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.core.embedding_codes import as_embeddings
from lightning_normdyn.core.number_checks import check_count, shown
from lightning_normdyn.losses.similarity import Normalization, check_normalization
from lightning_normdyn.retrieval.search.document_chunks import Documents, as_documents, document_chunks, row_count
from lightning_normdyn.retrieval.search.tiles import tile_width
from lightning_normdyn.retrieval.search.top_k import Backend, TopK, exact_top_k, rounded_chunk_size


@dataclass(frozen=True)
class NormAwareScore:
    """``<q, d> / (|q|^gamma_query · |d|^gamma_document) · |q|^alpha_query · |d|^alpha``.

    On top of the cosine that is arXiv 2606.30625, eq. 4.20 (docs/theory.md, "Scores with an exponent of the norm"). A
    document's norm counts with exponent ``1 - gamma_document + alpha`` in all. A zero vector scores 0 with
    everything, whatever the exponents.

    Args:
        normalization: what the embeddings were trained with: ``cosine``, ``dot``, ``qnorm``, ``dnorm``, ``learnable``.
        alpha_query: further exponent of the query's norm; it changes scores and no ranking.
        alpha: further exponent of the document's norm; positive favours the long ones.
        gamma_query: the learnt exponent of queries, for ``learnable`` alone; 1 if left out, which changes no ranking.
        gamma_document: the learnt exponent of documents, for ``learnable`` alone.

    Raises:
        ValueError: if the normalization is unknown, an exponent is not finite, or a gamma is missing or superfluous.

    Example:
        >>> score = NormAwareScore(alpha=-0.5)
        >>> score.scores(torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0], [0.0, 4.0]]))
        tensor([[0.3162, 0.4000]])
        >>> NormAwareScore("dot", alpha=-1).document_power
        0.0
    """

    normalization: Normalization = "cosine"
    alpha_query: float = 0.0
    alpha: float = 0.0
    gamma_query: float | None = None
    gamma_document: float | None = None

    def __post_init__(self) -> None:
        check_normalization(self.normalization)
        if self.normalization == "learnable" and self.gamma_document is None:
            raise ValueError("gamma_document: expected the learnt exponent for 'learnable', got None")
        for name in ("gamma_query", "gamma_document"):
            gamma = getattr(self, name)
            if gamma is not None and self.normalization != "learnable":
                raise ValueError(f"{name}: expected nothing, got {gamma} with {self.normalization!r}")
        for name in ("alpha_query", "alpha", "gamma_query", "gamma_document"):
            exponent = getattr(self, name)
            if exponent is not None or name.startswith("alpha"):
                _check_exponent(name, exponent)

    @property
    def exponents(self) -> tuple[float, float]:
        """Exponents of the normalization, ``(gamma_query, gamma_document)``."""
        if self.gamma_document is not None:
            return 1.0 if self.gamma_query is None else float(self.gamma_query), float(self.gamma_document)
        return NORMALIZATIONS[self.normalization]

    @property
    def query_power(self) -> float:
        """Exponent of the query's norm beside the cosine."""
        return 1 - self.exponents[0] + self.alpha_query

    @property
    def document_power(self) -> float:
        """Exponent of the document's norm beside the cosine: all that a ranking depends on."""
        return 1 - self.exponents[1] + self.alpha

    def scores(self, queries: ArrayLike, documents: ArrayLike) -> Tensor:
        """All scores ``[n, m]`` of queries ``[n, d]`` and documents ``[m, d]``, in float32 at least."""
        queries, documents = as_embeddings(queries=queries, documents=documents)
        return similarity_scores(queries, documents, 1 - self.query_power, 1 - self.document_power)

    def fold_documents(self, documents: ArrayLike) -> Tensor:
        """Documents ``[m, d]`` whose inner product with a query ranks by this score: ``d · |d|^(power - 1)``.

        Raises:
            ValueError: if a finite document comes out infinite, or one that is not zero as zero.
        """
        (documents,) = as_embeddings(documents=documents)
        vectors = rescale(documents.detach(), 1 - self.document_power)
        if not (vectors.isfinite().all() and vectors.any(1).all()):
            self._name_extreme(documents, vectors)
        return vectors

    def _name_extreme(self, documents: Tensor, vectors: Tensor) -> None:
        is_lost = documents.any(1) & ~vectors.any(1)
        rows = (documents.isfinite().all(1) & (is_lost | ~vectors.isfinite().all(1))).nonzero()
        if len(rows):
            norm = float(most_precise(documents[int(rows[0])]).norm())
            raise ValueError(
                f"documents: expected norms whose power {self.document_power - 1:g} is within {vectors.dtype}, got "
                f"{norm:g} in row {int(rows[0])} of a chunk; take an alpha nearer 0, or scale all embeddings by one "
                "factor"
            )


def _check_exponent(name: str, exponent: object) -> None:
    is_single = not isinstance(exponent, Tensor) or exponent.numel() == 1
    is_number = is_single and isinstance(exponent, (Real, Tensor)) and not isinstance(exponent, bool)
    if not is_number or not math.isfinite(exponent):  # type: ignore[arg-type]
        raise ValueError(f"{name}: expected a finite exponent, got {shown(exponent)}")


@torch.no_grad()
def norm_aware_top_k(
    queries: ArrayLike,
    documents: Documents,
    k: int,
    *,
    normalization: Normalization = "cosine",
    alpha: float = 0.0,
    alpha_query: float = 0.0,
    gamma_query: float | None = None,
    gamma_document: float | None = None,
    chunk_size: int | None = None,
    excluded_pairs: tuple[ArrayLike, ArrayLike] | None = None,
    backend: Backend = "auto",
) -> TopK:
    """Finds the ``k`` documents of largest :class:`NormAwareScore` with each query.

    A query's norm never changes its ranking, so the search sees directions of queries, and what their norms do is done
    to the ``k`` scores that are found. Documents are rescaled a chunk at a time.

    Args:
        queries: ``[n, d]``.
        documents: ``[m, d]``, as :func:`exact_top_k` takes them.
        k: documents a query.
        normalization: what the embeddings were trained with.
        alpha: further exponent of the document's norm.
        alpha_query: that of the query's norm.
        gamma_query: the learnt exponent of queries, for ``learnable`` alone; it changes scores and no ranking.
        gamma_document: the learnt exponent of documents, for ``learnable`` alone.
        chunk_size: as in :func:`exact_top_k`.
        excluded_pairs: likewise.
        backend: likewise.

    Returns:
        Scores and positions.

    Raises:
        ValueError: as :func:`exact_top_k` and :class:`NormAwareScore` do.

    Example:
        >>> queries, documents = torch.tensor([[1.0, 0.0]]), torch.tensor([[9.0, 12.0], [0.8, 0.6]])
        >>> [norm_aware_top_k(queries, documents, 1, alpha=alpha).indices.item() for alpha in (-1.0, 0.0, 1.0)]
        [1, 1, 0]
    """
    score = NormAwareScore(normalization, alpha_query, alpha, gamma_query, gamma_document)
    check_count(k=k)
    if chunk_size is not None:
        check_count(chunk_size=chunk_size)
    (query_tensor,) = as_embeddings(queries=queries)
    documents = as_documents(documents)
    if query_tensor.ndim != 2:
        raise ValueError(f"queries: expected [n, d], got {tuple(query_tensor.shape)}; a single one is queries[None]")
    n, d = query_tensor.shape
    wide = str(getattr(documents, "dtype", "")).endswith("float64") or query_tensor.dtype == torch.float64
    directions = rescale(query_tensor.detach().to(torch.float64 if wide else torch.float32), 1.0)

    def folded_chunks() -> Iterator[Tensor]:
        for chunk in document_chunks(documents, rounded_chunk_size(chunk_size, d, tile_width(n, directions.device)), d):
            yield score.fold_documents(chunk.to(directions))

    m = row_count(documents)
    k = k if m is None else min(k, max(1, m))
    result = exact_top_k(
        directions, folded_chunks(), k, chunk_size=chunk_size, excluded_pairs=excluded_pairs, backend=backend
    )
    norms = torch.linalg.vector_norm(most_precise(query_tensor), dim=1, keepdim=True)
    scores = most_precise(result.scores) * norms.where(norms > 0, 1).pow(score.query_power)
    return TopK(scores.to(result.scores.dtype), result.indices)
