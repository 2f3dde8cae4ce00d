"""Backward passes that know no second derivative and no autocast: what both would make wrong in silence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def first_derivative_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuses ``create_graph=True``; torch's ``once_differentiable`` lets it pass where a gradient of ones comes in.

    Where ``backward()`` is called under autocast, the pass is made without: its products would be of half precision.

    Raises:
        RuntimeError: if the backward pass is itself to be differentiated.
    """

    @functools.wraps(backward)
    def guarded(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the streamed losses have no second derivative (create_graph=True); for a gradient penalty compute the "
                "scores with similarity_scores and the loss in plain torch"
            )
        device_type = next((x.device.type for x in gradients if isinstance(x, Tensor)), "cpu")
        with torch.autocast(device_type, enabled=False):
            return backward(ctx, *gradients)

    return guarded
