"""What the instruments need to know of the training loop that runs them: steps, rates, loss scale, ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from lightning_normdyn.core.dynamics.rates import EffectiveTrace
from lightning_normdyn.instruments.ranks import Ranks


class Run(NamedTuple):
    """A run, as its training loop knows it.

    Attributes:
        optimizers: gives those that train the model now.
        total_steps: gives the number of steps that an optimizer will try, or each of them if none is named; ``None`` if
            the run has no set end.
        future_rates: gives the effective learning rates and the decays of the next so many steps of a group, from
            inside a step; called with the optimizer, the number of the group, the number of steps and the rates of the
            steps before; ``None`` if those to come are too many.
        loss_scale: gives the factor by which the loss is scaled up now.
        ranks: the processes that take part.
        hears_backward: whether gradients may be clipped before a step is announced, so that their norm must be taken
            as backward leaves them; right only where that is the whole gradient, on a single rank.
        warn: says to the user, once for all ranks, that something is wrong.
        inform: says something else.
        hears: tells whether the steps of an optimizer come to be known: by default whether it takes hooks.
        clip_value: gives the norm to which gradients are clipped; ``None`` where they are not, or nobody knows.
    """

    optimizers: Callable[[], Sequence[torch.optim.Optimizer]]
    total_steps: Callable[..., int | None]
    future_rates: Callable[[torch.optim.Optimizer, int, int, EffectiveTrace], EffectiveTrace | None]
    loss_scale: Callable[[], float]
    ranks: Ranks
    hears_backward: bool
    warn: Callable[[str], object]
    inform: Callable[[str], object]
    clip_value: Callable[[], float | None] = lambda: None
    hears: Callable[[torch.optim.Optimizer], bool] = lambda optimizer: hasattr(optimizer, "register_step_post_hook")

    def followed(self) -> list[torch.optim.Optimizer]:
        """The optimizers that say when they have made a step; a look-alike of torch's may not."""
        return [optimizer for optimizer in self.optimizers() if self.hears(optimizer)]
