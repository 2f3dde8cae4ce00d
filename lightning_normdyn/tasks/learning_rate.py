"""The course of the learning rate."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine_decay(optimizer: Optimizer, steps: float, *, warmup: float = 0.0, floor: float = 0.0) -> LambdaLR:
    """Rises in a line to the optimizer's rate, then falls along half a cosine.

    Args:
        optimizer: whose groups all follow, each from its own rate.
        steps: of the whole run.
        warmup: share of the steps in which the rate rises.
        floor: where it ends, as a share of the peak.

    Raises:
        ValueError: if nobody knows how long the run is.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> scheduler = cosine_decay(optimizer, 4)
        >>> [round(scheduler.lr_lambdas[0](step), 2) for step in range(5)]
        [1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if math.isinf(steps):
        raise ValueError(
            "schedule: 'cosine' needs to know where training ends; set the trainer's max_steps or max_epochs, or "
            "choose schedule='constant'"
        )
    rising = round(warmup * steps)

    def share(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        turned = min((step - rising) / max(steps - rising, 1), 1.0)
        return floor + (1 - floor) * (1 + math.cos(math.pi * turned)) / 2

    return LambdaLR(optimizer, share)
