"""Schedules of a learning rate: a rise in a line, then a fall along half a cosine or in a line, or none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Schedule = Literal["cosine", "linear", "constant"]


def check_schedule(schedule: object) -> None:
    """Refuses a word that is none.

    Raises:
        ValueError: naming it.
    """
    words = get_args(Schedule)
    if schedule not in words:
        raise ValueError(f"schedule: expected one of {', '.join(words)}, got {schedule!r}")


def decayed(optimizer: Optimizer, schedule: Schedule, steps: float, *, warmup: float = 0.0) -> LambdaLR | None:
    """Rises in a line to the optimizer's rates, then falls to nothing; all groups follow, each from its own rate.

    Args:
        optimizer: whose rates.
        schedule: ``cosine`` falls along half a cosine, ``linear`` in a line, as transformers' own schedules do;
            ``constant`` needs none.
        steps: of the whole run.
        warmup: share of the steps in which the rate rises.

    Returns:
        A scheduler that advances with every step; ``None`` for ``constant``.

    Raises:
        ValueError: if nobody knows how long the run is.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> scheduler = decayed(optimizer, "linear", 5, warmup=0.2)
        >>> [round(scheduler.lr_lambdas[0](step), 2) for step in range(6)]
        [0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if schedule == "constant":
        return None
    if math.isinf(steps):
        raise ValueError(
            f"schedule: '{schedule}' needs to know where training ends; set the trainer's max_steps or max_epochs, or "
            "choose schedule='constant'"
        )
    warmup_steps = round(warmup * steps)
    fall = _FALLS[schedule]

    def share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return fall(min((step - warmup_steps) / max(steps - warmup_steps, 1), 1.0))

    return LambdaLR(optimizer, share)


_FALLS: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "linear": lambda progress: 1 - progress,
}
