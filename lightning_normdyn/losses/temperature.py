"""What scores are divided by: fixed or learnt."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_normdyn.core.geometry import at_least_float32


class Temperature(nn.Module):
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
        if not (isinstance(temperature, (int, float)) and 1e-30 < temperature < math.inf):
            raise ValueError(f"temperature: expected a positive number, got {temperature!r}; 0.05 is common")
        if not (isinstance(max_scale, (int, float)) and max_scale > 0):
            raise ValueError(f"max_scale: expected a positive number, got {max_scale!r}; 100 is common")
        if learnable and 1 / temperature > max_scale:
            raise ValueError(
                f"temperature: {temperature} makes a scale of {1 / temperature:g}, above max_scale={max_scale:g}; "
                "start warmer or raise the bound"
            )
        self.learnable = learnable
        self._fixed = 1 / temperature  # a number, which no module.half() rounds
        self._log_bound = math.log(max_scale)
        if learnable:
            self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    @property
    def factor(self) -> float | Tensor:
        """``1/temperature``: a number, or if it is learnt a tensor in float32 at least that carries gradient."""
        return at_least_float32(self.log_scale).exp() if self.learnable else self._fixed

    @property
    def scale(self) -> Tensor:
        """The same as a tensor."""
        return torch.as_tensor(self.factor)

    def hold(self) -> None:
        """Sets a learnt scale back to its bound."""
        if self.learnable:
            with torch.no_grad():
                self.log_scale.clamp_(max=self._log_bound)
