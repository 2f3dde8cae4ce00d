"""Numbers that a loss learns, such as its temperature: whole on every rank, and trained by all of them as one."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from lightning_normdyn.core.sharded_tensor import is_sharded, of_this_rank


def whole(parameter: Tensor) -> Tensor:
    """All numbers of a parameter, whose gradient goes back to it as the mean over the ranks that it is spread over.

    FSDP2 gathers the parameters of a module before its ``forward`` is called, and averages their gradients. What a loss
    learns is read elsewhere too, as in a ``training_step`` that nobody told FSDP2 about, and is then in shards.

    Args:
        parameter: a tensor, which is returned as it is, or a DTensor. One that no mesh dimension shards is a copy on
            every rank, whose gradient is every rank's own.

    Example:
        >>> weight = nn.Parameter(torch.ones(2))
        >>> whole(weight) is weight
        True
    """
    if not is_sharded(parameter):
        return parameter
    from torch.distributed.tensor import Partial

    sharded: Any = parameter
    if not any(hasattr(placement, "dim") for placement in sharded.placements):
        return of_this_rank(parameter)
    ranks = sharded.device_mesh.size()
    values: Tensor = sharded.full_tensor(grad_placements=[Partial()] * sharded.device_mesh.ndim)
    averaged: Tensor = values.detach() + (values - values.detach()) / ranks
    return averaged


def learnt_number(value: float) -> nn.Parameter:
    """A parameter of one number, ``[1]``: FSDP2 takes none without a dimension.

    Example:
        >>> learnt_number(2.0).shape
        torch.Size([1])
    """
    return nn.Parameter(torch.tensor([float(value)], dtype=wide_dtype()))


def wide_dtype() -> torch.dtype:
    """What a loss keeps its own numbers in: float32, or torch's default if that is wider.

    Example:
        >>> wide_dtype()
        torch.float32
    """
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


class OwnNumbers(nn.Module):
    """A module whose own parameters and buffers are a few numbers, which are never narrow and never without a value.

    ``module.bfloat16()``, as Lightning's ``precision="bf16-true"`` has it, leaves them in float32: a step of a learning
    rate would be lost to rounding, and a temperature stay for ever where it was. After ``to_empty`` on what was built
    on the meta device they are as the constructor makes them.
    """

    def reset_parameters(self) -> None:
        """Gives the numbers the values that they start with."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OwnNumbers:
        if recurse:
            for child in self.children():
                child._apply(fn)
        numbers = [*self.parameters(recurse=False), *self.buffers(recurse=False)]
        had_no_value = any(number.is_meta for number in numbers)

        def move(number: Tensor) -> Tensor:
            moved = fn(number)
            if not moved.is_floating_point() or moved.dtype.itemsize >= torch.float32.itemsize:
                return moved
            return number.to(moved.device, torch.promote_types(number.dtype, torch.float32))

        super()._apply(move, recurse=False)  # type: ignore[no-untyped-call]
        numbers = [*self.parameters(recurse=False), *self.buffers(recurse=False)]
        if had_no_value and not any(number.is_meta for number in numbers):
            with torch.no_grad():
                self.reset_parameters()
        return self


def take_saved_shape(parameter: Tensor, saved: Mapping[str, Any], name: str) -> None:
    """Gives a parameter of one number the shape that a checkpoint has it in, which an optimizer's state has too.

    Args:
        parameter: of one number.
        saved: a state dict.
        name: of the parameter there.

    Example:
        >>> number = learnt_number(2.0)
        >>> take_saved_shape(number, {"log_scale": torch.tensor(3.0)}, "log_scale")
        >>> number.shape
        torch.Size([])
    """
    value = saved.get(name)
    if not isinstance(value, Tensor) or is_sharded(value) or is_sharded(parameter):
        return
    if value.shape != parameter.shape and math.prod(value.shape) == parameter.numel() == 1:
        parameter.data = parameter.data.reshape(value.shape)


def has_other_processes() -> bool:
    """Whether a process group was started, so that others may train the same module.

    Example:
        >>> has_other_processes()
        False
    """
    return dist.is_available() and dist.is_initialized()


_Held = TypeVar("_Held", bound=nn.Module)
_ACTIONS: weakref.WeakKeyDictionary[nn.Module, tuple[str, Callable[[Any], object]]] = weakref.WeakKeyDictionary()


def call_after_steps(module: _Held, parameter: str, action: Callable[[_Held], object]) -> None:
    """Does something with a module after each step of an optimizer that trains a parameter of it, from now on.

    Args:
        module: as long as it lives.
        parameter: its name there; the parameter may be another one by then.
        action: what to do.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> call_after_steps(layer, "weight", lambda layer: print("stepped"))
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> layer(torch.ones(1)).backward()
        >>> optimizer.step()
        stepped
    """
    global _is_listening
    _ACTIONS[module] = (parameter, action)
    if not _is_listening:
        register_optimizer_step_post_hook(torch.compiler.disable(_after_step))
        _is_listening = True


_is_listening = False


def _after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    actions = [(module, getattr(module, name), action) for module, (name, action) in list(_ACTIONS.items())]
    if actions:
        ids = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for module, parameter, action in actions:
            if id(parameter) in ids:
                action(module)


def average_gradients(parameters: Iterable[Tensor], group: Any) -> list[Any]:
    """Makes the gradients of parameters, which every rank holds whole and nobody reduces, the mean over ranks.

    FSDP2 leaves alone what is in none of its units, and each rank would train numbers of its own.

    Args:
        parameters: of a loss.
        group: the process group whose ranks are given batches of their own; ``None`` for all ranks.

    Returns:
        Handles of the hooks, which end when they are removed.
    """

    def mean(gradient: Tensor) -> Tensor:
        total = gradient.detach().clone()
        dist.all_reduce(total, group=group)
        return total / dist.get_world_size(group)

    return [parameter.register_hook(mean) for parameter in parameters if parameter.requires_grad]
