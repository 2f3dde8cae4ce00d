"""Which optimizer trains a target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.capture.table import TableTarget


class Owner(NamedTuple):
    """An optimizer and the number of one of its parameter groups."""

    optimizer: torch.optim.Optimizer
    group: int


def find_owner(target: TableTarget | OutputTarget, optimizers: Sequence[torch.optim.Optimizer]) -> Owner | None:
    """What trains a table, or the first parameter of a submodule; for one without parameters, the first optimizer.

    Example:
        >>> model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3))
        >>> groups = [{"params": layer.parameters()} for layer in model]
        >>> find_owner(TableTarget("1.weight", model), [torch.optim.SGD(groups, lr=0.1)]).group
        1
    """
    wanted = (target.parameter,) if isinstance(target, TableTarget) else tuple(target.module.parameters())
    for parameter in wanted:
        for optimizer in optimizers:
            number = group_number(optimizer, parameter)
            if number is not None:
                return Owner(optimizer, number)
    if isinstance(target, OutputTarget) and optimizers:
        return Owner(optimizers[0], 0)
    return None


def group_number(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> int | None:
    """Which parameter group holds a parameter now."""
    groups = enumerate(optimizer.param_groups)
    return next((number for number, group in groups if any(p is parameter for p in group["params"])), None)


def inner_optimizer(optimizer: Any) -> Any:
    """The optimizer itself, out of what accelerate wraps around it."""
    while isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = optimizer.optimizer
    return optimizer
