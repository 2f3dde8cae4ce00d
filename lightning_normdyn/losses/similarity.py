"""The score of queries and documents as a module: which norms it keeps, fixed or learnt."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_normdyn.core.factored import Factored, factored
from lightning_normdyn.core.similarity import NORMALIZATIONS, rescale, similarity_scores

Normalization = Literal["cosine", "dot", "qnorm", "dnorm", "learnable"]


class NormalizedSimilarity(nn.Module):
    """``<q, d> / (|q|^gamma_query · |d|^gamma_document)`` (arXiv 2602.09229, eq. 3; theory, section 5).

    | normalization | gamma_query | gamma_document | keeps the length of |
    | --- | --- | --- | --- |
    | cosine | 1 | 1 | neither |
    | dot | 0 | 0 | both |
    | qnorm | 1 | 0 | documents |
    | dnorm | 0 | 1 | queries |
    | learnable | learnt | learnt | what helps |

    Args:
        normalization: a row of the table.
        shared_gamma: whether one learnt exponent serves both sides.

    Raises:
        ValueError: if the normalization is unknown.

    Example:
        >>> similarity = NormalizedSimilarity("qnorm")
        >>> similarity(torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0]]))
        tensor([[10.]])
        >>> NormalizedSimilarity("learnable").exponents
        (tensor(0.5000, grad_fn=<SigmoidBackward0>), tensor(0.5000, grad_fn=<SigmoidBackward0>))
    """

    fixed: Tensor

    def __init__(self, normalization: Normalization = "cosine", *, shared_gamma: bool = False) -> None:
        super().__init__()
        known = [*NORMALIZATIONS, "learnable"]
        if normalization not in known:
            raise ValueError(f"normalization: expected one of {', '.join(known)}, got {normalization!r}")
        self.normalization = normalization
        self.shared_gamma = shared_gamma
        if normalization == "learnable":
            self.raw_gammas = nn.Parameter(torch.zeros(1 if shared_gamma else 2))
        else:
            self.register_buffer("fixed", torch.tensor(NORMALIZATIONS[normalization]), persistent=False)

    @property
    def exponents(self) -> tuple[Tensor, Tensor]:
        """The exponents (query, document), without dimensions; between 0 and 1 and carrying gradient if learnt."""
        if self.normalization != "learnable":
            query, document = self.fixed.unbind()
            return query, document
        raw = self.raw_gammas.float() if self.raw_gammas.dtype.itemsize < 4 else self.raw_gammas
        gammas = [gamma.sigmoid() for gamma in raw.unbind()]
        return gammas[0], gammas[-1]

    def forward(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Scores ``[n, m]`` of queries ``[n, d]`` against documents ``[m, d]``, before temperature."""
        return similarity_scores(queries, documents, *self.exponents)

    def rescale_queries(self, queries: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Queries ``[n, d]`` as their inner product with :meth:`rescale_documents` makes ``scale`` times the score."""
        return rescale(queries, self._number_or_tensor(0), scale)

    def rescale_documents(self, documents: Tensor) -> Tensor:
        """Documents ``[m, d]`` likewise."""
        return rescale(documents, self._number_or_tensor(1))

    def factor_queries(self, queries: Tensor, scale: Tensor | float = 1.0) -> Factored:
        """:meth:`rescale_queries` in name only: what it would give, as factors of the queries as they are."""
        return factored(queries, self._number_or_tensor(0), scale)

    def factor_documents(self, documents: Tensor) -> Factored:
        """:meth:`rescale_documents` likewise."""
        return factored(documents, self._number_or_tensor(1))

    def _number_or_tensor(self, side: int) -> float | Tensor:
        if self.normalization == "learnable":
            return self.exponents[side]
        return NORMALIZATIONS[self.normalization][side]

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"{self.normalization!r}" + (", shared_gamma=True" if self.shared_gamma else "")
