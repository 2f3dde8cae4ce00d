"""The arguments of a submodule's calls, kept so that the calls can be made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only

from lightning_normdyn.capture.output import ForwardListener, find_vectors
from lightning_normdyn.caution import SettingsError
from lightning_normdyn.core.dynamics.geometry import at_least_float32


class Call(NamedTuple):
    """The arguments of one call.

    Attributes:
        args: positional ones.
        kwargs: those with names.
        size: length of the batch, where it is known from what the call gave; 0 where not.

    Example:
        >>> call = Call.of({"input": torch.ones(8, 3)})
        >>> call.first_rows(8, 2).run(nn.Linear(3, 5)).shape
        torch.Size([2, 5])
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    size: int = 0

    @classmethod
    def of(cls, batch: Any) -> Call:
        """A batch as a user gives it: a mapping holds named arguments, a list or tuple positional ones."""
        if isinstance(batch, Mapping):
            return cls((), dict(batch))
        return cls(tuple(batch) if isinstance(batch, (list, tuple)) else (batch,), {})

    @classmethod
    def from_state(cls, state: list[Any]) -> Call:
        """Takes back what :meth:`state` gave."""
        args, kwargs, size = state
        return cls(tuple(args), kwargs, size)

    def state(self) -> list[Any]:
        """The call in plain lists and dicts, for a checkpoint."""
        return [list(self.args), self.kwargs, self.size]

    def tensors(self) -> list[Tensor]:
        """Every tensor among the arguments."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    def requires_grad(self) -> bool:
        """Whether some of it is itself computed from parameters."""
        return any(tensor.requires_grad for tensor in self.tensors())

    def rows(self) -> int:
        """Length of the batch: as known, or the first dimension of the first tensor."""
        return self.size or next((len(tensor) for tensor in self.tensors() if tensor.ndim), 0)

    def first_rows(self, size: int, rows: int) -> Call:
        """The first rows of every tensor that has one for each of ``size`` vectors, copied; the rest as it is."""
        call = self._each(lambda x: x[:rows].clone() if x.ndim and len(x) == size else x.clone())
        return call._replace(size=min(size, rows))

    def share(self, rank: int, ranks: int) -> Call:
        """Every ``ranks``-th row, from that of number ``rank`` on."""
        size = self.rows()
        if ranks == 1:
            return self
        return self._each(lambda x: x[rank::ranks] if x.ndim and len(x) == size else x)

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Call:
        """A copy on a device, numbers of lower precision widened to that of ``dtype``; an encoder may overwrite it."""

        def convert(x: Tensor) -> Tensor:
            x = at_least_float32(x.to(device, copy=True))
            return x.to(torch.promote_types(x.dtype, dtype)) if x.is_floating_point() else x

        return self._each(convert)

    def run(self, module: nn.Module) -> Any:
        """Makes the call."""
        return module(*self.args, **self.kwargs)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Call:
        args, kwargs = tree_map_only(Tensor, lambda x: change(x.detach()), (self.args, self.kwargs))
        return Call(tuple(args), kwargs, self.size)

    def equals(self, call: Call) -> bool:
        """Whether another call has the same arguments, tensors bit for bit."""
        leaves, structure = tree_flatten((self.args, self.kwargs))
        other_leaves, other_structure = tree_flatten((call.args, call.kwargs))
        if structure != other_structure:
            return False
        return all(_are_equal(*pair) for pair in zip(leaves, other_leaves, strict=True))


def _are_equal(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return torch.equal(left.cpu(), right.cpu())
    return type(left) is type(right) and bool(left == right)


_MOST_CALLS = 8


class FirstCalls(ForwardListener):
    """Keeps the inputs of a submodule's training calls until told to stop.

    Args:
        name: qualified name of the submodule.
        module: the submodule itself.
        most_items: most items to keep of a call.
    """

    def __init__(self, name: str, module: nn.Module, most_items: int) -> None:
        super().__init__(name, module)
        self.most_items = most_items
        self.calls: list[Call] = []

    def _hear(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        del module
        if not torch.is_grad_enabled() or len(self.calls) >= _MOST_CALLS or self._is_repetition():
            return
        vectors, call = find_vectors(output), Call(args, kwargs)
        if vectors is None:
            return  # the target itself says what is wrong
        if call.requires_grad():
            raise SettingsError(
                f"targets: the inputs of '{self.name}' require grad, so it is a later part of an encoder; name the "
                "module that takes the batch, give its inputs as probe=, or switch the probe off with probe=False"
            )
        self.calls.append(call.first_rows(len(vectors), self.most_items))
