"""The arguments of a submodule's calls, kept so that the calls can be made again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only

from lightning_normdyn.capture.listener import ForwardListener, copied_inputs
from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.capture.vectors import HeardCall, signature_of
from lightning_normdyn.core.dynamics.geometry import at_least_float32


class Call(NamedTuple):
    """The arguments of one call.

    Attributes:
        args: positional ones.
        kwargs: those with names.
        size: length of the batch, where it is known from what the call gave; 0 where not.

    Example:
        >>> call = Call.of({"input": torch.ones(8, 3)})
        >>> call.first_rows(8, 2).run(nn.Linear(3, 5)).output.shape
        torch.Size([2, 5])
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    size: int = 0

    @classmethod
    def of(cls, batch: Any, module: nn.Module | None = None) -> Call:
        """A batch as a user gives it: a mapping holds named arguments, a list or tuple positional ones.

        Args:
            batch: what the user gave.
            module: what is to be called; a mapping goes whole to one that has no arguments of such names.
        """
        if isinstance(batch, Mapping):
            return cls((dict(batch),), {}) if _takes_it_whole(module, batch) else cls((), dict(batch))
        return cls(*copied_inputs(tuple(batch) if isinstance(batch, (list, tuple)) else (batch,), {}))

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
        """Length of the batch: as known, or the number of its bags, or the first dimension of the first tensor."""
        bags = next((_offsets(mapping) for mapping in self._mappings() if _offsets(mapping) is not None), None)
        tensors = self.tensors() if bags is None else [bags]
        return self.size or next((len(tensor) for tensor in tensors if tensor.ndim), 0)

    def first_rows(self, size: int, rows: int) -> Call:
        """The first rows of every tensor that has one for each of ``size`` vectors, copied; the rest as it is."""
        call = self._select(slice(0, rows), size)._each(torch.clone)
        return call._replace(size=min(size, rows))

    def share(self, rank: int, ranks: int) -> Call:
        """Every ``ranks``-th row, from that of number ``rank`` on."""
        return self if ranks == 1 else self._select(slice(rank, None, ranks), self.rows())

    def _select(self, rows: slice, size: int) -> Call:
        """Some rows of every tensor that has ``size`` of them; of ids in bags, those of some bags."""

        def part(item: Any) -> Any:
            bags = _Bags.of(item, size) if isinstance(item, Mapping) else None
            if bags is not None:
                return bags.select(item, rows)
            return tree_map_only(Tensor, lambda x: x[rows] if x.ndim and len(x) == size else x, item)

        has_bags = _Bags.of(self.kwargs, size) is not None
        kwargs = part(self.kwargs) if has_bags else {name: part(value) for name, value in self.kwargs.items()}
        return self._replace(args=tuple(part(item) for item in self.args), kwargs=kwargs)

    def _mappings(self) -> list[Mapping[str, Any]]:
        return [item for item in (self.kwargs, *self.args, *self.kwargs.values()) if isinstance(item, Mapping)]

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Call:
        """A copy on a device, numbers of lower precision widened to that of ``dtype``; an encoder may overwrite it."""

        def convert(x: Tensor) -> Tensor:
            x = at_least_float32(x.to(device, copy=True))
            return x.to(torch.promote_types(x.dtype, dtype)) if x.is_floating_point() else x

        return self._each(convert)

    def run(self, module: nn.Module) -> HeardCall:
        """Makes the call; what the module writes into a mapping does not show here."""
        inputs = copied_inputs(self.args, self.kwargs)
        return HeardCall(module, *inputs, module(*self.args, **self.kwargs))

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


def _takes_it_whole(module: nn.Module | None, mapping: Mapping[str, Any]) -> bool:
    """Whether a module takes one mapping, as those of sentence-transformers do, and not what is in it by name."""
    if module is None:
        return False
    signature = signature_of(module)
    return signature is not None and not _binds(signature, **mapping) and _binds(signature, mapping)


def _binds(signature: inspect.Signature, *args: Any, **kwargs: Any) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _offsets(mapping: Mapping[str, Any]) -> Tensor | None:
    """Where each bag begins among ids in a row, as ``torch.nn.EmbeddingBag`` takes them."""
    offsets = mapping.get("offsets")
    is_offsets = isinstance(offsets, Tensor) and offsets.ndim == 1 and not offsets.is_floating_point()
    return offsets if is_offsets else None


class _Bags(NamedTuple):
    """Ids of all bags in a row, and where each begins.

    Attributes:
        offsets: where each bag begins, ``[bags]``.
        length: how many ids there are.
    """

    offsets: Tensor
    length: int

    @classmethod
    def of(cls, mapping: Mapping[str, Any], size: int) -> _Bags | None:
        offsets = _offsets(mapping)
        if offsets is None or len(offsets) != size:
            return None
        flat = (x for x in mapping.values() if isinstance(x, Tensor) and x.ndim == 1 and x is not offsets)
        ids = next((x for x in flat if not x.is_floating_point()), None)
        return None if ids is None else cls(offsets, len(ids))

    def select(self, mapping: Mapping[str, Any], rows: slice) -> dict[str, Any]:
        """What a mapping holds of some bags: their ids, their beginnings, a row for each of what has one."""
        device, lengths = self.offsets.device, self._lengths()
        numbers = torch.arange(len(lengths), device=device)
        is_chosen = torch.isin(torch.repeat_interleave(numbers, lengths), numbers[rows])

        def part(x: Tensor) -> Tensor:
            if x.ndim == 1 and len(x) == self.length:
                return x[is_chosen]
            return x[rows] if x.ndim and len(x) == len(lengths) else x

        chosen = lengths[rows]
        selected = {name: tree_map_only(Tensor, part, value) for name, value in mapping.items()}
        return selected | {"offsets": chosen.cumsum(0) - chosen}

    def _lengths(self) -> Tensor:
        return self.offsets.diff(append=self.offsets.new_tensor([self.length]))


def _are_equal(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return torch.equal(left.cpu(), right.cpu())
    return type(left) is type(right) and bool(left == right)


_MOST_CALLS = 8


class FirstCalls(ForwardListener):
    """Keeps the inputs of a target's training calls until told to stop.

    Args:
        target: the submodule.
        most_items: most items to keep of a call.
    """

    def __init__(self, target: OutputTarget, most_items: int) -> None:
        super().__init__(target.name, target.module)
        self.most_items, self._target = most_items, target
        self.writers.listens = True
        self.calls: list[Call] = []

    def _wants_call(self) -> bool:
        return torch.is_grad_enabled() and len(self.calls) < _MOST_CALLS

    def _hear(self, call: HeardCall) -> None:
        tensor, inputs = call.tensor(self._target.key), Call(call.args, call.kwargs)
        if tensor is None:
            return  # nothing was encoded, or the target itself says what is wrong
        if inputs.requires_grad():
            self._target.reads_computed_inputs = True
            return
        self.calls.append(inputs.first_rows(len(tensor), self.most_items))
