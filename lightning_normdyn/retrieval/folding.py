"""Exponents on their way into stored vectors, and what the index that holds them has to compare by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.retrieval.augmentation import augment_documents, augment_queries
from lightning_normdyn.retrieval.export import export_vectors
from lightning_normdyn.retrieval.indexes import Metric
from lightning_normdyn.retrieval.scoring import NormAwareScore


@dataclass(frozen=True)
class Folding:
    """How vectors are made for an index.

    Args:
        normalization: what the embeddings were trained with.
        alpha: further exponent of the document's norm.
        gamma_document: the learnt exponent of documents, for ``learnable`` alone.
        augment: whether :func:`augment_documents` is to make all lengths equal.
        metric: what the index compares by; other than ``inner_product`` it needs ``augment``.

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

    def __post_init__(self) -> None:
        if (self.normalization == "learnable") != (self.gamma_document is not None):
            wanted = (
                "the learnt exponent with" if self.gamma_document is None else "no exponent but with learnable, got"
            )
            raise ValueError(f"gamma_document: expected {wanted} normalization {self.normalization!r}")
        if self.metric != "inner_product" and not self.augment:
            why = "divides every norm out again" if self.metric == "cosine" else "counts norms in another way"
            raise ValueError(
                f"metric: expected inner_product, got {self.metric}, which {why}; with augment it ranks the same"
            )
        _ = self.score

    @property
    def score(self) -> NormAwareScore:
        """The score that the index will rank by."""
        return NormAwareScore(self.normalization, alpha_document=self.alpha, exponents=self.exponents)

    @property
    def exponents(self) -> tuple[float, float] | None:
        """Learnt gammas; the query's ranks nothing."""
        return None if self.gamma_document is None else (1.0, self.gamma_document)

    def fold(self, documents: Tensor) -> Tensor:
        """Documents ``[n, d]`` with their exponents in them."""
        return export_vectors(
            documents, normalization=self.normalization, alpha=self.alpha, exponents=self.exponents, dtype=torch.float32
        )

    def written(self, documents: Tensor, *, radius: float) -> Tensor:
        """As the index gets them."""
        folded = self.fold(documents)
        return augment_documents(folded, radius=radius) if self.augment else folded

    def asked(self, queries: Tensor) -> Tensor:
        """Queries as the index gets them."""
        return augment_queries(queries) if self.augment else queries
