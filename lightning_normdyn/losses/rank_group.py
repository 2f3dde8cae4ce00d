"""Which ranks a loss gathers over: those that are given batches of their own."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_normdyn.losses.gather import ManyRanks, OneRank, Ranks

_DATA_PARALLEL = "data_parallel"
_OWN_BATCHES = "the mesh dimension whose ranks are given batches of their own"


class RankGroup:
    """The ranks whose documents a loss gathers: of a group that was named, of Lightning's mesh, or all there are.

    A copy of it has the same group. Pickled it loses the group, which lives in this process alone, and says so when it
    is used.

    Args:
        process_group: of torch, or a device mesh of one dimension; ``None`` for all ranks, unless a mesh is seen.

    Raises:
        TypeError: if it is neither.
        ValueError: if it is a mesh of several dimensions, or a group without this rank.

    Example:
        >>> RankGroup(None).ranks().count
        1
    """

    def __init__(self, process_group: Any = None) -> None:
        self.process_group = process_group
        self._group = _group_of(process_group)
        self._mesh: Any = None
        self._is_lost = self._was_compared = False

    @property
    def is_named(self) -> bool:
        """Whether it is known which ranks these are, so that nobody need look at their batches."""
        return self._group is not None

    @property
    def group(self) -> Any:
        """The process group of torch; ``None`` for the default one."""
        return self._group

    def see_mesh(self, mesh: Any) -> None:
        """Takes the data-parallel dimension of a device mesh, as Lightning names it, unless a group was given."""
        if mesh is None or mesh is self._mesh or self.process_group is not None:
            return
        if _DATA_PARALLEL in (mesh.mesh_dim_names or ()):
            self._group, self._mesh = mesh[_DATA_PARALLEL].get_group(), mesh

    def ranks(self) -> Ranks:
        """The ranks there are now; one, where no process group was started."""
        if self._is_lost:
            raise ValueError(
                "process_group: it was lost when the loss was pickled, since it is of one process; set "
                "loss.process_group again where the loss is unpickled"
            )
        if not dist.is_available() or not dist.is_initialized() or dist.get_world_size(self._group) == 1:
            return OneRank()
        return ManyRanks(self._group)

    def refuse_copies(self, ranks: Ranks, *sides: Tensor) -> None:
        """Compares the first batch of all ranks where no group was named, once.

        Args:
            ranks: what :meth:`ranks` gave.
            sides: embeddings and numbers of this rank's batch.

        Raises:
            ValueError: on every rank, if two of them were given the same batch.
        """
        if self.is_named or self._was_compared or not isinstance(ranks, ManyRanks):
            return
        self._was_compared = True
        copies = ranks.copies(_fingerprint(*sides))
        if copies is not None:
            raise ValueError(
                f"process_group: ranks {copies[0]} and {copies[1]} have the same batch bit for bit, so every pair "
                f"would count twice; under tensor parallelism pass {_OWN_BATCHES}, as in process_group=mesh"
                f"['{_DATA_PARALLEL}'], else give each rank data of its own (DistributedSampler); "
                "torch.distributed.group.WORLD takes the batches as they are"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> RankGroup:
        copied = type(self)()
        copied.__dict__.update(self.__dict__)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """Without the group."""
        is_lost = self._is_lost or self.process_group is not None
        return {"process_group": None, "_group": None, "_mesh": None, "_is_lost": is_lost, "_was_compared": False}


def _group_of(process_group: Any) -> Any:
    """The group of torch that is meant."""
    if process_group is None:
        return None
    if dist.is_available() and isinstance(process_group, dist.ProcessGroup):
        return process_group
    if isinstance(process_group, int) and dist.is_available() and process_group == dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(f"process_group: expected a group that this rank is in; pass {_OWN_BATCHES}")
    if not hasattr(process_group, "mesh_dim_names"):
        raise TypeError(
            f"process_group: expected a process group of torch or a device mesh, got {type(process_group).__name__}; "
            f"pass {_OWN_BATCHES}"
        )
    if process_group.ndim != 1:
        names = process_group.mesh_dim_names or tuple(process_group.shape)
        raise ValueError(
            f"process_group: expected a device mesh of one dimension, got {process_group.ndim}: {names}; pass "
            f"{_OWN_BATCHES}, as in mesh['{_DATA_PARALLEL}'], or where all ranks are, leave it out"
        )
    return process_group.get_group()


def _fingerprint(*sides: Tensor) -> int:
    """A number that two batches share if all their bits are the same, and by chance once in 2^64."""
    total = torch.zeros((), dtype=torch.int64)
    for side in sides:
        flat = side.detach().contiguous().flatten()
        whole = flat if not flat.is_floating_point() else flat.view(_INTEGERS[flat.dtype.itemsize])
        bits = whole.to(torch.int64)
        odd = torch.arange(len(bits), device=bits.device) * 0x9E3779B97F4A7C2 + 1
        total = total * 0x5851F42D4C957F2D + ((bits + 1) * odd).sum().cpu() + len(bits)
    return int(total)


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
