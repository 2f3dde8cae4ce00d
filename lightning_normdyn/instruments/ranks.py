"""The processes that train one model together, and what they compute together."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_normdyn.capture.call import Call
from lightning_normdyn.capture.output import OutputStep
from lightning_normdyn.core.dynamics.geometry import most_precise_dtype
from lightning_normdyn.instruments.meeting import Meeting, settle_beginning
from lightning_normdyn.instruments.output_watch import GRID, merge_ranks, quantile_grid
from lightning_normdyn.instruments.safeguard import TargetEndedError


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
    return Ranks(dist.get_rank(), dist.get_world_size(), device, _all_gather, _broadcast, store=process_group_store())


def process_group_store() -> Any:
    """The store by which the processes found each other; ``None`` where there is none, or none that can be had.

    torchrun keeps it when it restarts all ranks, with every word that they left there: each attempt has names of its
    own, and so has each number of ranks, since ranks that join or leave count as no further attempt.
    """
    if not dist.is_available() or not dist.is_initialized():
        return None
    try:
        store = dist.distributed_c10d._get_default_store()
    except (AttributeError, RuntimeError, ValueError):
        return None
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"attempt-{attempt}-of-{dist.get_world_size()}", store)  # type: ignore[attr-defined]


def _all_gather(tensor: Tensor) -> Tensor:
    tensors = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(tensors, tensor.contiguous())
    return torch.stack(tensors)


def _broadcast(item: Any, rank: int) -> Any:
    box = [item]
    dist.broadcast_object_list(box, src=rank)
    return box[0]


class Ranks(NamedTuple):
    """The processes that train one model together; by default there is one.

    Attributes:
        rank: number of this one.
        size: how many there are.
        device: where this one computes.
        all_gather: stacks a tensor of every rank, all of one shape, to ``[ranks, ...]``.
        broadcast: gives everybody what a rank holds; called with it and that rank.
        share_batches: whether some ranks are given the same batch, as under tensor parallelism.
        store: where ranks leave messages for each other before they compute something together.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")
    all_gather: Callable[[Tensor], Tensor] = lambda tensor: tensor[None]
    broadcast: Callable[[Any, int], Any] = lambda item, _: item
    share_batches: bool = False
    store: Any = None

    def alone(self) -> Ranks:
        """This rank without the others."""
        return Ranks(self.rank, device=self.device)

    def settle_beginning(self, act: str) -> tuple[str, str]:
        """A topic for what the ranks do together from now on, and why they do not, see :func:`settle_beginning`."""
        return settle_beginning(self.store if self.size > 1 else None, act, self.rank, self.size)

    def meeting(self, topic: str) -> Meeting:
        """Where all ranks say what they are about to compute together.

        Args:
            topic: what it is about, the same on all ranks and another for each thing.
        """
        return Meeting(self.store if self.size > 1 else None, topic, self.rank, self.size)

    def merge_steps(self, output_step: OutputStep | None) -> OutputStep | None:
        """Puts the steps of all ranks together; a rank that heard nothing takes part with nothing."""
        if self.size == 1:
            return output_step
        precise: dict[str, Any] = {"dtype": most_precise_dtype(self.device), "device": self.device}
        norms, sums = torch.full((GRID,), torch.nan, device=self.device), torch.full((3,), torch.nan, **precise)
        directions = torch.zeros(0, **precise)
        if output_step is not None:
            norms, sums = quantile_grid(output_step.norms.float()), torch.stack(output_step[1:4]).to(**precise)
            directions = output_step.direction_sum.to(**precise)
        widest = self._most(len(directions))
        padded = torch.nn.functional.pad(directions, (0, widest + 1 - len(directions)))
        padded[-1] = 0 if output_step is None else output_step.vector_count
        return merge_ranks(*map(self.all_gather, (norms, sums, padded)))

    def merge_vectors(self, vectors: Tensor | None, *, most_rows: int) -> Tensor | None:
        """The vectors ``[n, d]`` of all ranks, one rank below the other; a rank without any takes part with none.

        Args:
            vectors: those of this rank.
            most_rows: most of a rank that take part; more are thinned at an even stride.
        """
        if vectors is not None:
            vectors = vectors[:: 1 + max(0, len(vectors) - 1) // most_rows]
        if self.size == 1:
            return vectors
        widest = self._most(0 if vectors is None else vectors.shape[1])
        if not widest:
            return None
        return self.all_rows(torch.zeros(0, widest, device=self.device) if vectors is None else vectors.float())

    def _most(self, number: int) -> int:
        """The largest of a number that each rank has: a width that one which heard nothing does not know."""
        return int(self.all_gather(torch.tensor(number, device=self.device)).max())

    def all_calls(self, calls: list[Call]) -> list[Call]:
        """The calls of all ranks, one rank after the other."""
        if self.size == 1:
            return calls
        cpu_calls = [call.to(torch.device("cpu")) for call in calls]
        return [call for rank in range(self.size) for call in self.broadcast(cpu_calls, rank)]

    def all_rows(self, rows: Tensor | None) -> Tensor:
        """The rows ``[n, d]`` of all ranks, which may have unequal numbers of them, one rank below the other.

        Args:
            rows: those of this rank; ``None`` if it could not compute them, which the others learn so.

        Raises:
            TargetEndedError: if a rank could not compute its own.
        """
        if self.size == 1 and rows is not None:
            return rows
        device = self.device if rows is None else rows.device
        count = torch.tensor(-1 if rows is None else len(rows), device=device)
        counts = self.all_gather(count).flatten().tolist()
        if rows is None or min(counts) < 0:
            raise TargetEndedError(f"rank {counts.index(min(counts))} could not compute its share")
        equal_rows = torch.nn.functional.pad(rows, (0, 0, 0, max(counts) - len(rows)))
        blocks = self.all_gather(equal_rows)
        return torch.cat([block[:count] for block, count in zip(blocks, counts, strict=True)])
