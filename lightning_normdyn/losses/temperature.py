"""The temperature of a loss: a number, learnt or not, or found from how far the scores of the first batch spread."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.similarity import rescale
from lightning_normdyn.core.dynamics.geometry import at_least_float32
from lightning_normdyn.core.number_checks import check_positive
from lightning_normdyn.losses.learnt import (
    OwnNumbers,
    call_after_steps,
    has_other_processes,
    learnt_number,
    take_saved_shape,
    whole,
)

_COLDEST = 1e-30  # float32 still holds its inverse
VARIANCE_SAMPLE = 512
"""Queries and documents whose scores tell how far all spread."""


def score_variance(queries: Tensor, documents: Tensor) -> Tensor:
    """Mean over queries of the variance of their scores with the documents of others, which a softmax sees alone.

    Args:
        queries: rescaled, ``[n, d]``; the first few serve as a sample.
        documents: rescaled, ``[m, d]`` with m >= n, document i being the positive of query i.

    Returns:
        No dimension; zero where a query has fewer than two other documents.

    Example:
        >>> score_variance(torch.tensor([[1.0], [2.0]]), torch.tensor([[9.0], [1.0], [3.0]]))
        tensor(18.5000)
    """
    wide = torch.promote_types(queries.dtype, documents.dtype)
    queries, documents = queries[:VARIANCE_SAMPLE].to(wide), documents[:VARIANCE_SAMPLE].to(wide)
    if len(documents) < 3:
        return queries.new_zeros(())
    scores = (queries @ documents.T).masked_fill(torch.eye(len(queries), len(documents), device=queries.device) > 0, 0)
    count = len(documents) - 1
    means = scores.sum(1) / count
    return (scores.square().sum(1) / count - means.square()).clamp(min=0).mean()


def cosine_variance(queries: Tensor, documents: Tensor) -> Tensor:
    """The same of their cosines, for embeddings as they came."""
    return score_variance(rescale(queries, 1.0), rescale(documents, 1.0))


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
        check_positive(temperature=temperature, hint="0.05 is common, or 'auto'")
        if temperature < _COLDEST:
            raise ValueError(f"temperature: expected at least {_COLDEST:g}, got {temperature!r}; 0.05 is common")
        check_positive(max_scale=max_scale, hint="100 is common")
        if learnable and 1 / temperature > max_scale:
            raise ValueError(
                f"temperature: {temperature} makes a scale of {1 / temperature:g}, above max_scale={max_scale:g}; "
                "start at a higher temperature or raise the bound"
            )
        self.start: float | Literal["auto"] = temperature
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
    def is_settled(self) -> bool:
        """Whether it is known where the temperature starts."""
        return True

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
        if self.learnable and has_other_processes():
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


class AutoTemperature(Temperature):
    """A temperature at which scores spread in the first training batch as cosines do at a usual one.

    ``tau = reference · sd(scores) / sd(cosines)``, standard deviations over the documents of other queries, as root
    mean squares over queries. What normalization is used then says nothing about how warm the softmax starts:
    cosine gets the reference, and scores that keep long norms as many times more as they are longer. It is found once,
    is part of a checkpoint, and stays, or is where a learnt temperature starts. Before the first training batch, an
    evaluation goes by its own batches.

    Args:
        reference: what suits cosines.
        learnable: whether it trains.
        max_scale: largest learnt scale.
    """

    def __init__(self, reference: float, *, learnable: bool, max_scale: float) -> None:
        super().__init__(reference, learnable=learnable, max_scale=max_scale)
        self.reference, self.start = reference, "auto"
        self._is_settled = False

    @property
    def is_settled(self) -> bool:
        """Whether a training batch has said where the temperature starts."""
        return self._is_settled

    def settle(self, score_variance: float, cosine_variance: float, *, stays: bool) -> None:
        """Takes what the scores and the cosines of a batch spread like; nothing where they do not.

        Args:
            score_variance: of the loss's own scores.
            cosine_variance: of the cosines of the same embeddings.
            stays: whether the batch is one to train on.
        """
        if not (0 < score_variance < math.inf and 0 < cosine_variance < math.inf):
            return
        scale = math.sqrt(cosine_variance / score_variance) / self.reference
        self._fixed = min(scale, self.max_scale) if self.learnable else scale
        self._is_settled = stays
        with torch.no_grad():
            self.reset_parameters()

    def get_extra_state(self) -> Tensor:
        """One over the temperature, for a checkpoint; NaN before it is known."""
        return torch.tensor(self._fixed if self._is_settled else math.nan, dtype=torch.float64)

    def set_extra_state(self, state: Any) -> None:
        """Takes back what :meth:`get_extra_state` gave."""
        scale = float(state)
        self._is_settled = math.isfinite(scale)
        if self._is_settled:
            self._fixed = scale
