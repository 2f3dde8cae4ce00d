"""What a training loop tells about itself: all that the instruments know of the framework that runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from lightning_normdyn.core.rates import RateTrace
from lightning_normdyn.instruments.ranks import Ranks


class Run(NamedTuple):
    """A run, as its training loop knows it.

    Attributes:
        optimizers: gives those that train the model now.
        total_steps: gives the number of steps that each of them will try; ``None`` if the run has no set end.
        future_lrs: gives the nominal learning rates of the next so many steps of a group, from inside a step; called
            with the optimizer, the number of the group and the number of steps.
        loss_scale: gives the factor by which the loss is scaled up now.
        ranks: the processes that take part.
        hears_backward: whether gradients may be clipped before a step is announced, so that their norm must be taken
            as backward leaves them; right only where that is the whole gradient, on a single rank.
        warn: says to the user, once for all ranks, that something is wrong.
        inform: says something else.
    """

    optimizers: Callable[[], Sequence[torch.optim.Optimizer]]
    total_steps: Callable[[], int | None]
    future_lrs: Callable[[torch.optim.Optimizer, int, int], RateTrace]
    loss_scale: Callable[[], float]
    ranks: Ranks
    hears_backward: bool
    warn: Callable[[str], object]
    inform: Callable[[str], object]

    def followed(self) -> list[torch.optim.Optimizer]:
        """The optimizers that say when they have made a step; a look-alike of torch's may not."""
        return [optimizer for optimizer in self.optimizers() if hasattr(optimizer, "register_step_post_hook")]
