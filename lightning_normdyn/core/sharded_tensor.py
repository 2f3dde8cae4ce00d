"""Tensors that lie on several ranks: those of FSDP2 and tensor parallelism (``DTensor``), and FSDP1's flat pieces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor


def is_sharded(tensor: object) -> bool:
    """Whether a tensor is one of a device mesh.

    Example:
        >>> import torch
        >>> is_sharded(torch.ones(2))
        False
    """
    return hasattr(tensor, "device_mesh")


def of_all_ranks(tensor: Any) -> Tensor:
    """All of a tensor: as it is, or gathered if it lies on several ranks, all of which must ask for it.

    Example:
        >>> import torch
        >>> of_all_ranks(torch.ones(2))
        tensor([1., 1.])
    """
    whole: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return whole


def of_this_rank(tensor: Any) -> Tensor:
    """This rank's part of a tensor: all of it, unless it lies on several ranks.

    Example:
        >>> import torch
        >>> of_this_rank(torch.ones(2))
        tensor([1., 1.])
    """
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return part


def are_flat_pieces(parameters: Iterable[Tensor]) -> bool:
    """Whether ``FullyShardedDataParallel`` (FSDP1) holds parameters, a flat piece of each on a rank.

    Not so under ``NO_SHARD`` with ``use_orig_params=True``, where each rank has all of them in their own shape.

    Example:
        >>> import torch
        >>> are_flat_pieces(torch.nn.Linear(2, 3).parameters())
        False
    """
    members = [parameter for parameter in parameters if is_held_by_fsdp1(parameter)]
    return bool(members) and all(parameter.ndim == 1 for parameter in members)


def is_held_by_fsdp1(parameter: Tensor) -> bool:
    """Whether ``FullyShardedDataParallel`` reduces the gradient of a parameter.

    Example:
        >>> import torch
        >>> is_held_by_fsdp1(torch.nn.Parameter(torch.ones(2)))
        False
    """
    return bool(getattr(parameter, "_fsdp_flattened", False))
