"""Vectors for inner-product indexes: norm exponents folded into documents, and lengths made equal by a coordinate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_normdyn.core.array_conversion import ArrayLike
from lightning_normdyn.core.dynamics.geometry import precise_norm
from lightning_normdyn.core.embedding_codes import as_embeddings
from lightning_normdyn.core.number_checks import shown
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.retrieval.exponent.scoring import NormAwareScore
from lightning_normdyn.retrieval.indexes import Metric


@torch.no_grad()
def export_vectors(
    documents: ArrayLike,
    *,
    normalization: Normalization = "cosine",
    alpha: float = 0.0,
    gamma_query: float | None = None,
    gamma_document: float | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Folds the exponents into documents: ``d · |d|^(alpha - gamma_document)``.

    The inner product of any query with them, rescaled or not, orders documents exactly as
    :class:`~lightning_normdyn.retrieval.NormAwareScore` does. Store them under inner product: an index that compares
    cosines divides the norm out again. Queries go in as they are
    (docs/theory.md, "Scores with an exponent of the norm").

    Stored in float16 a vector is off by at most 2^-11 of each number; of random vectors' 100 best of 20,000 about
    1 in 2,000 changes, among scores as close as that (bfloat16: 2^-8, about 1 in 400).

    Args:
        documents: ``[n, d]``; chunk by chunk if there are many, each is treated alone.
        normalization: what the embeddings were trained with.
        alpha: further exponent of the norm, as chosen on validation queries; 0 adds none.
        gamma_query: the learnt exponent of queries, for ``learnable`` alone; no ranking depends on it.
        gamma_document: the learnt exponent of documents, for ``learnable`` alone.
        dtype: what to store them in; that of the documents, float32 at least, if left out.

    Returns:
        ``[n, d]``; a zero vector stays zero.

    Raises:
        ValueError: if documents are no ``[n, d]`` of floating-point numbers, not finite, or come out too large for the
            type, or so small that nothing is left of one; or the type is no floating-point type.

    Example:
        >>> export_vectors(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), alpha=-1.0)
        tensor([[0.1200, 0.1600],
                [0.0000, 0.0000]])
        >>> export_vectors(torch.tensor([[3.0, 4.0]]), normalization="qnorm")
        tensor([[3., 4.]])
    """
    (documents,) = as_embeddings(documents=documents)
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype: expected a type of torch, such as torch.float16, got {shown(dtype)}")
    if documents.ndim != 2:
        raise ValueError(f"documents: expected [n, d], got {tuple(documents.shape)}; a single one is documents[None]")
    if not documents.is_floating_point():
        raise ValueError(f"documents: expected floating-point numbers, got {documents.dtype}; pass documents.float()")
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype: expected a floating-point type, such as torch.float16, got {dtype}; quantize after")
    bad_rows = (~documents.isfinite().all(1)).nonzero()
    if len(bad_rows):
        raise ValueError(
            f"documents: expected finite numbers, got NaN or infinite ones in row {int(bad_rows[0])}; leave such rows "
            "out or encode them again"
        )
    vectors = NormAwareScore(
        normalization, alpha=alpha, gamma_query=gamma_query, gamma_document=gamma_document
    ).fold_documents(documents)
    stored_vectors = vectors if dtype is None else vectors.to(dtype)
    large_rows = (~stored_vectors.isfinite().all(1)).nonzero()
    if len(large_rows):
        row = int(large_rows[0])
        raise ValueError(
            f"dtype: expected one that holds {float(vectors[row].abs().amax()):g}, the largest number of row {row}, "
            f"got {dtype}; divide all vectors by one number, which changes no ranking"
        )
    lost_rows = (vectors.any(1) & ~stored_vectors.any(1)).nonzero()
    if len(lost_rows):
        row = int(lost_rows[0])
        raise ValueError(
            f"dtype: expected one that holds {float(vectors[row].abs().amax()):g}, the largest number of row {row}, "
            f"got {dtype}, which makes it zero; multiply all vectors by one number, which changes no ranking"
        )
    return stored_vectors


@dataclass(frozen=True)
class Folding:
    """How vectors are made for an index.

    Args:
        normalization: what the embeddings were trained with.
        alpha: further exponent of the document's norm.
        gamma_document: the learnt exponent of documents, for ``learnable`` alone.
        augment: whether :func:`augment_documents` is to make all lengths equal.
        metric: what the index compares by; other than ``inner_product`` it needs ``augment``, or ``keep_norm`` with
            ``cosine``.
        keep_norm: whether vectors are stored with length 1 and their norms beside them, for scores to be made with.
        stored_power: exponent of the original norm that lengths of the documents carry already, as an export left them.

    Raises:
        ValueError: if the exponents do not fit together, or the metric would rank otherwise than the score.

    Example:
        >>> Folding("cosine", alpha=0.5).score.document_power
        0.5
    """

    normalization: Normalization = "cosine"
    alpha: float = 0.0
    gamma_document: float | None = None
    augment: bool = False
    metric: Metric = "inner_product"
    keep_norm: bool = False
    stored_power: float = 1.0

    def __post_init__(self) -> None:
        if self.keep_norm and self.augment:
            raise ValueError(
                "keep_norm: expected no augment beside it, which hides norms in a dimension; leave one out"
            )
        if self.keep_norm and self.metric == "euclidean":
            raise ValueError("metric: expected inner_product or cosine with keep_norm, got euclidean")
        if (self.normalization == "learnable") != (self.gamma_document is not None):
            expectation = (
                "the learnt exponent with" if self.gamma_document is None else "no exponent but with learnable, got"
            )
            raise ValueError(f"gamma_document: expected {expectation} normalization {self.normalization!r}")
        if self.metric != "inner_product" and not self.augment and not self.keep_norm:
            why = "divides every norm out again" if self.metric == "cosine" else "counts norms in another way"
            raise ValueError(
                f"metric: expected inner_product, got {self.metric}, which {why}; with augment it ranks the same"
            )
        power = self.score.document_power
        if self.stored_power == 0 and power != 0:
            raise ValueError(
                "embeddings: expected lengths that carry norms, got vectors that an export gave length 1, for exponent "
                "0; export the original embeddings"
            )

    @property
    def score(self) -> NormAwareScore:
        """The score that the index will rank by."""
        return NormAwareScore(self.normalization, alpha=self.alpha, gamma_document=self.gamma_document)

    def fold(self, documents: Tensor) -> Tensor:
        """Documents ``[n, d]`` with their exponents in them: the lengths that rankings depend on."""
        if self.stored_power in (0, 1):
            return export_vectors(
                documents,
                normalization=self.normalization,
                alpha=self.alpha,
                gamma_document=self.gamma_document,
                dtype=torch.float32,
            )
        power = self.score.document_power / self.stored_power
        return export_vectors(documents, normalization="dot", alpha=power - 1, dtype=torch.float32)

    def index_documents(self, documents: Tensor, *, radius: float) -> Tensor:
        """As the index gets them."""
        if self.keep_norm:
            return export_vectors(documents, dtype=torch.float32)
        vectors = self.fold(documents)
        return augment_documents(vectors, radius=radius) if self.augment else vectors

    def norms(self, documents: Tensor) -> Tensor | None:
        """Norms ``[n]`` that go beside the vectors, in float32; ``None`` where lengths are in the vectors.

        A zero vector scores 0 whatever stands there: for a negative exponent it is 1, which can be divided by.

        Raises:
            ValueError: if float32 does not hold the power that scores are made with.
        """
        if not self.keep_norm:
            return None
        norms = precise_norm(documents)
        if self.stored_power not in (0, 1):
            norms = norms.where(norms == 0, norms ** (1 / self.stored_power))
        power = self.score.document_power
        norms = norms.where((norms > 0) | (power >= 0), 1.0).float()
        bad = (~(norms**power).isfinite()).nonzero()
        if len(bad):
            raise ValueError(
                f"documents: expected norms whose power {power:g} is within float32, got {float(norms[int(bad[0])]):g} "
                f"in row {int(bad[0])} of a chunk; scale all embeddings by one factor"
            )
        return norms

    def index_queries(self, queries: Tensor) -> Tensor:
        """Queries as the index gets them."""
        return augment_queries(queries) if self.augment else queries


@torch.no_grad()
def augment_documents(documents: Tensor, *, radius: float) -> Tensor:
    """Adds the coordinate ``sqrt(radius² - |d|²)``: all documents have length ``radius`` then.

    Bachrach et al. 2014, theorem 1; Shrivastava & Li 2014 do it with several. With :func:`augment_queries` inner
    products stay what they were, and ``|q - d|² = |q|² + radius² - 2 <q, d>`` and the cosine ``<q, d> / (|q| radius)``
    have the same order as they.

    Stored in float32 the coordinate is off by up to 2^-24 of itself: two documents may change places where their inner
    products are within ``2^-23·radius²`` under Euclidean distance, within 2^-23 of themselves under cosines. Where
    few documents are a thousand times as long as the rest, cosines keep the order of the short ones, distances do not.

    Args:
        documents: ``[n, d]``, folded already.
        radius: at least the largest norm of any document.

    Returns:
        ``[n, d + 1]``.

    Raises:
        ValueError: if a document is longer than ``radius``, by more than rounding.

    Example:
        >>> augment_documents(torch.tensor([[3.0, 0.0], [0.0, 5.0]]), radius=5.0)
        tensor([[3., 0., 4.],
                [0., 5., 0.]])
    """
    squares = documents.double().square().sum(1, keepdim=True)
    room = radius**2 - squares
    longest = float(squares.max().sqrt()) if len(documents) else 0.0
    if longest > radius * (1 + 1e-6):
        raise ValueError(f"radius: expected at least the largest norm of all documents, {longest:g}, got {radius:g}")
    return torch.cat([documents, room.clamp(min=0).sqrt().to(documents)], 1)


def augment_queries(queries: Tensor) -> Tensor:
    """Adds a zero: ``[n, d + 1]``.

    Example:
        >>> augment_queries(torch.tensor([[1.0, 2.0]]))
        tensor([[1., 2., 0.]])
    """
    return F.pad(queries, (0, 1))
