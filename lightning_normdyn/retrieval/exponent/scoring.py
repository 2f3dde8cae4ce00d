"""The score that knows norms: a cosine times a power of each norm, and the search by it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.similarity import NORMALIZATIONS, rescale, similarity_scores
from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.retrieval.search.chunks import Documents, document_chunks, row_count
from lightning_normdyn.retrieval.search.tiles import tile_width
from lightning_normdyn.retrieval.search.top_k import Backend, TopK, chunk_rows, exact_top_k


@dataclass(frozen=True)
class NormAwareScore:
    """``<q, d> / (|q|^gamma_query · |d|^gamma_document) · |q|^alpha_query · |d|^alpha``.

    On top of the cosine that is arXiv 2606.30625, eq. 4.20 (theory, section 6). A document's norm counts with exponent
    ``1 - gamma_document + alpha`` in all. A zero vector scores 0 with everything, whatever the exponents.

    Args:
        normalization: what the embeddings were trained with: ``cosine``, ``dot``, ``qnorm``, ``dnorm``, ``learnable``.
        alpha_query: further exponent of the query's norm; it changes scores and no ranking.
        alpha: further exponent of the document's norm; positive favours the long ones.
        exponents: the learnt gammas (query, document), for ``learnable`` alone.

    Raises:
        ValueError: if the normalization is unknown, an exponent is not finite, or gammas are missing or superfluous.

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
    exponents: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        known = [*NORMALIZATIONS, "learnable"]
        if self.normalization not in known:
            raise ValueError(f"normalization: expected one of {', '.join(known)}, got {self.normalization!r}")
        if (self.normalization == "learnable") != (self.exponents is not None):
            wanted = "the two learnt gammas for 'learnable'" if self.exponents is None else "nothing"
            raise ValueError(f"exponents: expected {wanted}, got {self.exponents} with {self.normalization!r}")
        for name in ("alpha_query", "alpha"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}: expected a finite exponent, got {getattr(self, name)}")

    @property
    def gammas(self) -> tuple[float, float]:
        """Exponents of the normalization, query and document."""
        if self.exponents is not None:
            return float(self.exponents[0]), float(self.exponents[1])
        return NORMALIZATIONS[self.normalization]

    @property
    def query_power(self) -> float:
        """Exponent of the query's norm beside the cosine."""
        return 1 - self.gammas[0] + self.alpha_query

    @property
    def document_power(self) -> float:
        """Exponent of the document's norm beside the cosine: all that a ranking depends on."""
        return 1 - self.gammas[1] + self.alpha

    def scores(self, queries: Tensor, documents: Tensor) -> Tensor:
        """All scores ``[n, m]`` of queries ``[n, d]`` and documents ``[m, d]``, in float32 at least."""
        return similarity_scores(queries, documents, 1 - self.query_power, 1 - self.document_power)

    def fold_documents(self, documents: Tensor) -> Tensor:
        """Documents ``[m, d]`` whose inner product with a query ranks by this score: ``d · |d|^(power - 1)``.

        Raises:
            ValueError: if a finite document comes out infinite, or one that is not zero as zero.
        """
        folded = rescale(documents.detach(), 1 - self.document_power)
        if not (folded.isfinite().all() and folded.any(1).all()):
            self._name_extreme(documents, folded)
        return folded

    def _name_extreme(self, documents: Tensor, folded: Tensor) -> None:
        lost = documents.any(1) & ~folded.any(1)
        rows = (documents.isfinite().all(1) & (lost | ~folded.isfinite().all(1))).nonzero()
        if len(rows):
            norm = float(most_precise(documents[int(rows[0])]).norm())
            raise ValueError(
                f"documents: expected norms whose power {self.document_power - 1:g} is within {folded.dtype}, got "
                f"{norm:g} in row {int(rows[0])} of a chunk; scale all embeddings by one factor"
            )


@torch.no_grad()
def norm_aware_top_k(
    queries: Tensor,
    documents: Documents,
    k: int,
    *,
    normalization: Normalization = "cosine",
    alpha: float = 0.0,
    alpha_query: float = 0.0,
    exponents: tuple[float, float] | None = None,
    chunk_size: int | None = None,
    excluded: tuple[Tensor, Tensor] | None = None,
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
        exponents: the learnt gammas (query, document), for ``learnable`` alone.
        chunk_size: as in :func:`exact_top_k`.
        excluded: likewise.
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
    score = NormAwareScore(normalization, alpha_query, alpha, exponents)
    if queries.ndim != 2:
        raise ValueError(f"queries: expected [n, d], got {tuple(queries.shape)}; a single one is queries[None]")
    n, d = queries.shape
    wide = str(getattr(documents, "dtype", "")).endswith("float64") or queries.dtype == torch.float64
    directions = rescale(queries.detach().to(torch.float64 if wide else torch.float32), 1.0)

    def folded() -> Iterator[Tensor]:
        for chunk in document_chunks(documents, chunk_rows(chunk_size, d, tile_width(n, queries.device)), d):
            yield score.fold_documents(chunk.to(directions))

    m = row_count(documents)
    k = k if m is None else min(k, max(1, m))
    found = exact_top_k(directions, folded(), k, chunk_size=chunk_size, excluded=excluded, backend=backend)
    norms = torch.linalg.vector_norm(most_precise(queries), dim=1, keepdim=True)
    scores = most_precise(found.scores) * norms.where(norms > 0, 1).pow(score.query_power)
    return TopK(scores.to(found.scores.dtype), found.indices)
