"""The norm of a parameter's gradient right after backward, before anything clips it."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_normdyn.caution import OnError, contained
from lightning_normdyn.core.sharded_tensor import of_this_rank


class BackwardNorm:
    """Takes the norm of a parameter's gradient whenever backward has added to it, before anybody can clip it.

    Args:
        parameter: whose gradient.
        loss_scale: gives the factor by which the loss is scaled up now.

    Of a parameter that is sharded over ranks, it is the norm of this rank's part.

    Attributes:
        on_error: takes what goes wrong while it listens; ``None`` lets it through to the training.

    Example:
        >>> weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> norm = BackwardNorm(weight)
        >>> norm.arm(True)
        >>> weight.square().sum().backward()
        >>> _ = nn.utils.clip_grad_norm_([weight], 1.0)
        >>> norm.last
        tensor(10.)
    """

    def __init__(self, parameter: nn.Parameter, loss_scale: Callable[[], float] = lambda: 1.0) -> None:
        self._parameter, self._loss_scale = parameter, loss_scale
        self._handle: RemovableHandle | None = None
        self.on_error: OnError | None = None
        self.last: Tensor | None = None
        self._used: tuple[weakref.ref[Tensor], int] | None = None

    def arm(self, listens: bool) -> None:
        """Sets whether it listens from now on; forgets what it heard."""
        self.last, gradient = None, self._parameter.grad
        self._used = None if gradient is None or not listens else (weakref.ref(gradient), gradient._version)
        if listens and self._handle is None and self._parameter.requires_grad:  # torch refuses hooks of a frozen one
            hear = contained(self._hear, self.on_error)
            self._handle = self._parameter.register_post_accumulate_grad_hook(hear)
        elif not listens and self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _hear(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is None:
            return  # an optimizer that steps inside of backward has used it up
        if self._used is not None and self._used[0]() is gradient and self._used[1] == gradient._version:
            return  # or has stepped with it just now
        gradient = of_this_rank(gradient)
        entries = gradient.coalesce().values() if gradient.is_sparse else gradient.detach()
        dtype = torch.promote_types(entries.dtype, torch.float32)
        self.last = torch.linalg.vector_norm(entries, dtype=dtype) / self._loss_scale()
