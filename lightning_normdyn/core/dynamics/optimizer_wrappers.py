"""Optimizers inside of other optimizers: of a wrapper that passes steps on, or one that moves weights besides."""

from __future__ import annotations

from typing import Any

import torch

_PASSING_ON = {
    ("accelerate", "AcceleratedOptimizer"),
    *((package, "LightningOptimizer") for package in ("lightning", "pytorch_lightning")),
    *((package, "_FabricOptimizer") for package in ("lightning", "lightning_fabric")),
}
"""Package and class of what wraps an optimizer and leaves all that moves the weights to it."""


def unwrapped_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer itself, out of what only passes its steps on: the wrappers of Lightning and Accelerate.

    A wrapper that moves the weights too, such as Lookahead, is an optimizer of its own.

    Raises:
        ValueError: if there is none.
    """
    inner = optimizer
    while any((kind.__module__.split(".")[0], kind.__name__) in _PASSING_ON for kind in type(inner).__mro__):
        inner = inner.optimizer
    if not hasattr(inner, "param_groups"):
        raise ValueError(
            f"optimizer: expected an optimizer of torch, got {type(optimizer).__name__}; pass what is stepped"
        )
    unwrapped: torch.optim.Optimizer = inner
    return unwrapped


def inner_optimizer(optimizer: Any) -> torch.optim.Optimizer | None:
    """The optimizer that one that moves the weights besides, such as Lookahead or SAM, steps; ``None`` for no such one.

    Example:
        >>> inner_optimizer(torch.optim.SGD([torch.ones(1)]))
    """
    members = getattr(optimizer, "__dict__", {}).values()
    return next((member for member in members if isinstance(member, torch.optim.Optimizer)), None)
