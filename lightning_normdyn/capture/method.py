"""A method of a module that returns vectors, as if it were a module."""

from __future__ import annotations

from typing import Any

from torch import nn


class Method(nn.Module):
    """Calls a method of the module that has it, whose parameters it shares.

    Args:
        owner: the module.
        name: of the method.
    """

    def __init__(self, owner: nn.Module, name: str) -> None:
        super().__init__()
        self.owner = owner
        self.name = name
        self.training = owner.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Makes the call."""
        return getattr(self.owner, self.name)(*args, **kwargs)
