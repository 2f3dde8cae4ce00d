"""What a submodule was called with, so that the call can be made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from lightning_normdyn.core.geometry import at_least_float32


class Call(NamedTuple):
    """The arguments of one call.

    Attributes:
        args: positional ones.
        kwargs: those with names.

    Example:
        >>> call = Call.of({"input": torch.ones(8, 3)})
        >>> call.first_rows(8, 2).run(nn.Linear(3, 5)).shape
        torch.Size([2, 5])
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, batch: Any) -> Call:
        """A batch as a user gives it: a mapping holds named arguments, a list or tuple positional ones."""
        if isinstance(batch, Mapping):
            return cls((), dict(batch))
        return cls(tuple(batch) if isinstance(batch, (list, tuple)) else (batch,), {})

    def tensors(self) -> list[Tensor]:
        """Every tensor among the arguments."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    def requires_grad(self) -> bool:
        """Whether some of it is itself computed from parameters."""
        return any(tensor.requires_grad for tensor in self.tensors())

    def rows(self) -> int:
        """Length of the batch: the first dimension of the first tensor."""
        return next((len(tensor) for tensor in self.tensors() if tensor.ndim), 0)

    def first_rows(self, size: int, most: int) -> Call:
        """The first rows of every tensor that has one for each of ``size`` vectors, copied; the rest as it is."""
        return self._each(lambda x: x[:most].clone() if x.ndim and len(x) == size else x.clone())

    def share(self, number: int, of: int) -> Call:
        """Every ``of``-th row, from the ``number``-th on."""
        size = self.rows()
        return self._each(lambda x: x[number::of] if x.ndim and len(x) == size else x)

    def to(self, device: torch.device) -> Call:
        """The same on a device, half precision widened to float32."""
        return self._each(lambda x: at_least_float32(x.to(device)))

    def run(self, module: nn.Module) -> Any:
        """Makes the call."""
        return module(*self.args, **self.kwargs)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Call:
        args, kwargs = tree_map_only(Tensor, lambda x: change(x.detach()), (self.args, self.kwargs))
        return Call(tuple(args), kwargs)
