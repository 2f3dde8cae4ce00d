"""The score of queries and documents as a module: which norms it keeps, fixed or learnt."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lightning_normdyn.core.contrast.factored import Factored, factored
from lightning_normdyn.core.contrast.similarity import NORMALIZATIONS, rescale, similarity_scores
from lightning_normdyn.core.dynamics.geometry import at_least_float32
from lightning_normdyn.core.number_checks import check_flag
from lightning_normdyn.losses.learnt import OwnNumbers, whole, wide_dtype
from lightning_normdyn.nearest_word import nearest

Normalization = Literal["cosine", "dot", "qnorm", "dnorm", "learnable"]
"""The names of :data:`NORMALIZATIONS`, for type checkers, and the one whose exponents train."""
NORMALIZATION_NAMES: tuple[str, ...] = get_args(Normalization)


def check_normalization(normalization: str) -> None:
    """Refuses a name that no normalization has.

    Args:
        normalization: the name.

    Raises:
        ValueError: if it is none of ``NORMALIZATION_NAMES``.

    Example:
        >>> check_normalization("qnrom")
        Traceback (most recent call last):
            ...
        ValueError: normalization: expected one of cosine, dot, ..., got 'qnrom'; did you mean 'qnorm'?
    """
    if normalization not in NORMALIZATION_NAMES:
        names, hint = ", ".join(NORMALIZATION_NAMES), nearest(str(normalization), NORMALIZATION_NAMES)
        raise ValueError(f"normalization: expected one of {names}, got {normalization!r}{hint}")


class NormalizedSimilarity(OwnNumbers):
    """``<q, d> / (|q|^gamma_query · |d|^gamma_document)`` (arXiv 2602.09229, eq. 3).

    Source: docs/theory.md, "Scores with an exponent of the norm".

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
    has_directions = True
    """Whether a score is the cosine of the embeddings times powers of their norms."""

    def __init__(self, normalization: Normalization = "cosine", *, shared_gamma: bool = False) -> None:
        super().__init__()
        check_normalization(normalization)
        check_flag(shared_gamma=shared_gamma)
        self.normalization = normalization
        self.shared_gamma = shared_gamma
        if normalization == "learnable":
            self.raw_gammas = nn.Parameter(torch.zeros(1 if shared_gamma else 2, dtype=wide_dtype()))
        else:
            exponents = torch.tensor(NORMALIZATIONS[normalization], dtype=wide_dtype())
            self.register_buffer("fixed", exponents, persistent=False)

    def reset_parameters(self) -> None:
        """Sets learnt exponents to a half; those of a named normalization are what they are."""
        if self.normalization == "learnable":
            self.raw_gammas.zero_()
        else:
            self.fixed.copy_(torch.tensor(NORMALIZATIONS[self.normalization], device=self.fixed.device))

    @property
    def exponents(self) -> tuple[Tensor, Tensor]:
        """The exponents (query, document), without dimensions; between 0 and 1 and carrying gradient if learnt."""
        if self.normalization != "learnable":
            query, document = self.fixed.unbind()
            return query, document
        gammas = [gamma.sigmoid() for gamma in at_least_float32(whole(self.raw_gammas)).unbind()]
        return gammas[0], gammas[-1]

    def forward(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Scores ``[n, m]`` of queries ``[n, d]`` against documents ``[m, d]``, before temperature."""
        return similarity_scores(queries, documents, *self.exponents)

    def rescale_queries(self, queries: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Queries ``[n, d]`` as their inner product with :meth:`rescale_documents` makes ``scale`` times the score."""
        return rescale(queries, self.exponent(0), scale)

    def rescale_documents(self, documents: Tensor) -> Tensor:
        """Documents ``[m, d]`` likewise."""
        return rescale(documents, self.exponent(1))

    def factor_queries(self, queries: Tensor, scale: Tensor | float = 1.0) -> Factored:
        """:meth:`rescale_queries` in name only: what it would give, as factors of the queries as they are."""
        return factored(queries, self.exponent(0), scale)

    def factor_documents(self, documents: Tensor) -> Factored:
        """:meth:`rescale_documents` likewise."""
        return factored(documents, self.exponent(1))

    def exponent(self, side: int) -> float | Tensor:
        """That of a side, 0 for queries and 1 for documents: a tensor if it is learnt, else a number."""
        if self.normalization == "learnable":
            return self.exponents[side]
        return NORMALIZATIONS[self.normalization][side]

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"{self.normalization!r}" + (", shared_gamma=True" if self.shared_gamma else "")
