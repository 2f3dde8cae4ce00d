"""The score of queries and documents as a module: which norms it keeps, fixed or learnt."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_normdyn.core.contrast.factored import Factored, factored
from lightning_normdyn.core.contrast.similarity import NORMALIZATIONS, rescale, similarity_scores
from lightning_normdyn.core.dynamics.geometry import at_least_float32
from lightning_normdyn.core.number_checks import check_flag, check_positive
from lightning_normdyn.losses.learnt import (
    OwnNumbers,
    call_after_steps,
    learnt_number,
    take_saved_shape,
    whole,
    wide_dtype,
)
from lightning_normdyn.nearest_word import nearest

_COLDEST = 1e-30  # float32 still holds its inverse
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


class Temperature(OwnNumbers):
    """A temperature, stored as the log of its inverse, the scale.

    Learnt on a log scale because it acts by ratios. A learnt scale is held at or below ``max_scale`` by setting it
    back, as CLIP does, so that its gradient never vanishes at the bound.

    Args:
        temperature: at the start.
        learnable: whether it trains.
        max_scale: largest learnt scale, ``1/temperature``.

    Raises:
        ValueError: if the temperature is not positive, or beyond the bound from the start.

    Example:
        >>> Temperature(0.05, learnable=False, max_scale=100.0).scale
        tensor(20.)
    """

    def __init__(self, temperature: float, *, learnable: bool, max_scale: float) -> None:
        super().__init__()
        check_positive(temperature=temperature, hint="0.05 is common")
        if temperature < _COLDEST:
            raise ValueError(f"temperature: expected at least {_COLDEST:g}, got {temperature!r}; 0.05 is common")
        check_positive(max_scale=max_scale, hint="100 is common")
        if learnable and 1 / temperature > max_scale:
            raise ValueError(
                f"temperature: {temperature} makes a scale of {1 / temperature:g}, above max_scale={max_scale:g}; "
                "start warmer or raise the bound"
            )
        self.learnable = learnable
        self._fixed = 1 / temperature  # a number, which no module.half() rounds
        self.max_scale = max_scale
        if learnable:
            self.log_scale = learnt_number(-math.log(temperature))

    def reset_parameters(self) -> None:
        """Sets a learnt temperature to where it started."""
        if self.learnable:
            self.log_scale.fill_(math.log(self._fixed))

    @property
    def factor(self) -> float | Tensor:
        """``1/temperature``: a number, or if it is learnt a tensor in float32 at least that carries gradient."""
        return at_least_float32(whole(self.log_scale)).reshape(()).exp() if self.learnable else self._fixed

    @property
    def scale(self) -> Tensor:
        """The same as a tensor."""
        return torch.as_tensor(self.factor)

    def hold_in_training(self) -> None:
        """Sets a learnt scale back to its bound, now and, where processes train together, after every step.

        Inside of a module's ``forward`` FSDP2 has copies of its parameters, which it throws away.
        """
        self.hold()
        if self.learnable and dist.is_available() and dist.is_initialized():
            call_after_steps(self, "log_scale", Temperature.hold)

    def hold(self) -> None:
        """Sets a learnt scale back to its bound."""
        if self.learnable:
            with torch.no_grad():
                self.log_scale.clamp_(max=math.log(self.max_scale))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.learnable:
            take_saved_shape(self.log_scale, state_dict, f"{prefix}log_scale")
        super()._load_from_state_dict(state_dict, prefix, *args)
