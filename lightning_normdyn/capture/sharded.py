"""Calls modules whose parameters FSDP2 (``fully_shard``) spreads over ranks, outside a training step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from lightning_normdyn.core.sharded_tensor import is_held_by_fsdp1, is_sharded

_UNIT = ("reshard", "unshard", "_get_fsdp_state")


@contextlib.contextmanager
def gathered(module: nn.Module, root: nn.Module) -> Iterator[None]:
    """Within it a module can be called; before it and afterwards every rank holds its own shards alone.

    What the outermost unit has gathered stays until a backward pass, and a probe makes none: the next training step
    would compute with weights from before the last update. And a module that is no unit itself is gathered when the
    unit around it is called, so here that is done for it. All ranks must enter together.

    Args:
        module: what will be called.
        root: the model that holds it.
    """
    around = [unit for unit in _units(root) if any(child is module for child in unit.modules())]
    units = [*around, *_units(module)]
    _reshard(units)
    try:
        if around:
            _start(around)
            if around[-1] is not module:
                around[-1].unshard()
        yield
    finally:
        _reshard(units)


def reshard(root: nn.Module) -> None:
    """Gives back what a validation has gathered: until then a module's parameters are not those of its optimizer."""
    _reshard(_units(root))


def computing_dtype(module: nn.Module) -> torch.dtype | None:
    """What a mixed precision policy has a module's units compute in; ``None`` where there is none."""
    policies = (getattr(unit._get_fsdp_state(), "_mp_policy", None) for unit in _units(module))
    dtypes = (getattr(policy, "param_dtype", None) for policy in policies)
    return next((dtype for dtype in dtypes if dtype is not None), None)


def computes_with_others(module: nn.Module, root: nn.Module) -> bool:
    """Whether ranks compute a module's outputs together, as under tensor parallelism, so that all need its inputs.

    FSDP2 gathers what it has spread, and each rank computes alone; of other parameters that lie on several ranks, and
    of mesh dimensions that FSDP2 does not know, the parts stay where they are.

    Args:
        module: a part of a model.
        root: the model.
    """
    dimensions: dict[int, int] = {}
    for unit in {id(unit): unit for unit in (*_units(root), *_units(module))}.values():
        state = unit._get_fsdp_state()
        groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]
        for group in filter(None, groups):
            for spread in group.fsdp_params:
                dimensions[id(spread.sharded_param)] = spread.mesh_info.mesh.ndim
    sharded: list[Any] = [parameter for parameter in module.parameters() if is_sharded(parameter)]
    return any(
        any(hasattr(placement, "dim") for placement in parameter.placements)
        and parameter.device_mesh.size() > 1
        and parameter.device_mesh.ndim > dimensions.get(id(parameter), 0)
        for parameter in sharded
    )


def _start(around: list[Any]) -> None:
    """Lets the outermost unit know that it is: the first one called, as a probe may be, would take itself for it.

    Some took themselves for it before, where training calls no unit around them, as Lightning calls the
    ``training_step`` of a module and not its ``forward``: those are left to it.
    """
    outermost, *inner = (unit._get_fsdp_state() for unit in around)
    if not any(state._is_root for state in inner):
        outermost._lazy_init()


def _reshard(units: list[Any]) -> None:
    for unit in units:
        unit.reshard()


def is_reduced_by_nobody(parameter: nn.Parameter, root: nn.Module) -> bool:
    """Whether FSDP, of either kind, shards a model and leaves a parameter of it alone, as no hook of the user's does.

    Of such a parameter each rank makes another, by the gradients of its own batches.
    """
    is_member = is_sharded(parameter) or is_held_by_fsdp1(parameter)
    if is_member or getattr(parameter, "_post_accumulate_grad_hooks", None) or not parameter.requires_grad:
        return False
    return bool(_units(root)) or any(is_held_by_fsdp1(other) for other in root.parameters())


def _units(module: nn.Module) -> list[Any]:
    """The FSDP units in a module, itself included, from the outside in."""
    return [child for child in module.modules() if all(hasattr(child, name) for name in _UNIT)]
