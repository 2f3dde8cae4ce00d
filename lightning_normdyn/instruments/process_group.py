"""The ranks of a plain training loop: those of torch's default process group."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_normdyn.instruments.ranks import Ranks


def present_ranks(device: torch.device) -> Ranks:
    """The ranks there are now; one, where no process group was started.

    Args:
        device: where this rank computes.

    Example:
        >>> present_ranks(torch.device("cpu")).size
        1
    """
    if not dist.is_available() or not dist.is_initialized():
        return Ranks(device=device)
    return Ranks(dist.get_rank(), dist.get_world_size(), device, _all_gather, _broadcast)


def _all_gather(tensor: Tensor) -> Tensor:
    gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, tensor.contiguous())
    return torch.stack(gathered)


def _broadcast(held: Any, rank: int) -> Any:
    box = [held]
    dist.broadcast_object_list(box, src=rank)
    return box[0]
