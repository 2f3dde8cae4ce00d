"""Prefixes of embeddings that are trained to serve by themselves: widths, weights, and a similarity of each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_normdyn.core.contrast.exclusion import Exclusion
from lightning_normdyn.core.contrast.prefix_log_sum_exp import prefix_norms, sum_prefix_log_sum_exp
from lightning_normdyn.core.dynamics.geometry import at_least_float32
from lightning_normdyn.core.number_checks import check_count, check_not_negative
from lightning_normdyn.losses.similarity import Normalization, NormalizedSimilarity


class Prefixes(nn.Module):
    """The widths of a Matryoshka loss ``sum_k w_k L(q[:d_k], d[:d_k])`` (Kusupati et al. 2022, arXiv 2205.13147).

    Each prefix is scored by its own norms, divided out as far as the normalization says and no further, and where
    exponents are learnt each learns its own. The longest has the similarity of the loss itself.

    Args:
        widths: of the prefixes, ascending; the embeddings' own width is one only if it is among them.
        weights: of the prefixes' losses, one for each; all 1 if left out.
        normalization: see :class:`NormalizedSimilarity`.
        shared_gamma: likewise.

    Raises:
        ValueError: if widths are no ascending whole numbers, or weights do not fit them.

    Example:
        >>> Prefixes((64, 256)).weights
        (1.0, 1.0)
    """

    def __init__(
        self,
        widths: Sequence[int],
        weights: Sequence[float] | None = None,
        *,
        normalization: Normalization = "cosine",
        shared_gamma: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(widths, (list, tuple)) or not widths:
            raise ValueError(f"prefixes: expected a list of widths, as in [64, 128, 256], got {widths!r}")
        for width in widths:
            check_count(prefixes=width, hint="they are numbers of coordinates")
        if sorted(set(widths)) != list(widths):
            raise ValueError(f"prefixes: expected ascending widths, got {list(widths)}; sort them, each once")
        self.widths = tuple(widths)
        self.weights = self._checked_weights(weights)
        self.similarities = nn.ModuleList(
            NormalizedSimilarity(normalization, shared_gamma=shared_gamma) for _ in widths[:-1]
        )

    def _checked_weights(self, weights: Sequence[float] | None) -> tuple[float, ...]:
        if weights is None:
            return (1.0,) * len(self.widths)
        if not isinstance(weights, (list, tuple)) or len(weights) != len(self.widths):
            raise ValueError(f"prefix_weights: expected one for each of prefixes={list(self.widths)}, got {weights!r}")
        for weight in weights:
            check_not_negative(prefix_weights=weight, hint="1 for each is common")
        if not math.fsum(weights):
            raise ValueError("prefix_weights: all of them are 0, so that nothing would train; 1 for each is common")
        return tuple(map(float, weights))

    def check_width(self, queries: Tensor, similarity: NormalizedSimilarity) -> None:
        """Refuses embeddings ``[n, d]`` that are narrower than a prefix, and similarities that know none.

        Raises:
            ValueError: naming it.
        """
        if queries.shape[1] < self.widths[-1]:
            raise ValueError(f"prefixes: {self.widths[-1]} is more than the embeddings' d = {queries.shape[1]}")
        if not similarity.has_directions:
            raise ValueError(f"prefixes: a {type(similarity).__name__} has none; take a NormalizedSimilarity")

    def similarity_of(self, number: int, longest: NormalizedSimilarity) -> NormalizedSimilarity:
        """That of a prefix, given that of the longest."""
        if number + 1 == len(self.widths):
            return longest
        similarity = self.similarities[number]
        assert isinstance(similarity, NormalizedSimilarity)
        return similarity

    def total(
        self,
        queries: Tensor,
        documents: Tensor,
        longest: NormalizedSimilarity,
        *,
        scale: Tensor | float,
        positives: Tensor,
        exclusion: Exclusion | None,
        chunk_size: int | None,
    ) -> Tensor:
        """The sum over queries of their losses, weighed over prefixes: one direction, in one sweep.

        Args:
            queries: ``[n, d]``, as they came.
            documents: ``[m, d]``, likewise.
            longest: the similarity of the longest prefix.
            scale: one over the temperature, a number or of each query ``[n]``.
            positives: the row of each query's document, ``[n]``.
            exclusion: pairs to leave out.
            chunk_size: rows that are looked at together; ``None`` picks what suits the device.
        """
        queries, documents = (at_least_float32(x[:, : self.widths[-1]]) for x in (queries, documents))
        anchors = longest.rescale_queries(queries)
        anchors = anchors * (scale[:, None] if isinstance(scale, Tensor) and scale.ndim else scale)
        similarities = [self.similarity_of(number, longest) for number in range(len(self.widths))]
        return sum_prefix_log_sum_exp(
            anchors,
            longest.rescale_documents(documents),
            self.widths,
            self.weights,
            row_factors=self._factors(queries, [similarity.exponents[0] for similarity in similarities]),
            column_factors=self._factors(documents, [similarity.exponents[1] for similarity in similarities]),
            positives=positives,
            exclusion=exclusion,
            chunk_size=chunk_size,
        )

    def _factors(self, x: Tensor, exponents: Sequence[Tensor]) -> Tensor | None:
        """What makes rescaled vectors ``[n, d]`` those of a prefix, ``[k - 1, n]``; nothing where norms are kept."""
        if len(self.widths) == 1 or not any(gamma.requires_grad or bool(gamma) for gamma in exponents):
            return None
        logs = prefix_norms(x, self.widths).log()
        gammas = torch.stack(list(exponents)).to(logs.dtype)[:, None]
        return (gammas[-1] * logs[-1] - gammas[:-1] * logs[:-1]).exp().to(x.dtype)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"widths={self.widths}, weights={self.weights}"
