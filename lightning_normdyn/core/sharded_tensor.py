"""Tensors that lie on several ranks, as those of FSDP2 and tensor parallelism (``DTensor``)."""

from __future__ import annotations

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
