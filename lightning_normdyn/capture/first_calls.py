"""What a submodule is called with before the first step."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lightning_normdyn.capture.call import Call
from lightning_normdyn.capture.recomputed import Recomputed
from lightning_normdyn.capture.vectors import find_vectors

_MOST_CALLS = 8


class FirstCalls:
    """Keeps the inputs of a submodule's training calls until told to stop.

    Args:
        name: qualified name of the submodule.
        module: the submodule itself.
        most: most items to keep of a call.
    """

    def __init__(self, name: str, module: nn.Module, most: int) -> None:
        self.name, self.module, self.most = name, module, most
        self.calls: list[Call] = []
        self._handle: RemovableHandle | None = None
        self._recomputed = Recomputed()

    def attach(self) -> None:
        """Starts to listen."""
        self.detach()
        self._handle = self.module.register_forward_hook(self._hear, with_kwargs=True)

    def detach(self) -> None:
        """Stops listening."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None

    def _hear(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        del module
        if not torch.is_grad_enabled() or len(self.calls) >= _MOST_CALLS or self._recomputed():
            return
        vectors, call = find_vectors(output), Call(args, kwargs)
        if vectors is None:
            return  # the target itself says what is wrong
        if call.requires_grad():
            raise ValueError(
                f"targets: the inputs of '{self.name}' require grad, so it is a later part of an encoder; name the "
                "module that takes the batch, give its inputs as probe=, or switch the probe off with probe=False"
            )
        self.calls.append(call.first_rows(len(vectors), self.most))
