"""What the instruments need to know of the training loop that runs them: steps, rates, loss scale, ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_normdyn.capture.call import Call
from lightning_normdyn.capture.output import OutputStep
from lightning_normdyn.core.dynamics.rates import EffectiveTrace
from lightning_normdyn.instruments.output_watch import merge_ranks, quantile_grid


class Run(NamedTuple):
    """A run, as its training loop knows it.

    Attributes:
        optimizers: gives those that train the model now.
        total_steps: gives the number of steps that each of them will try; ``None`` if the run has no set end.
        future_rates: gives the effective learning rates and the decays of the next so many steps of a group, from
            inside a step; called with the optimizer, the number of the group, the number of steps and the rates of the
            steps before; ``None`` if those to come are too many.
        loss_scale: gives the factor by which the loss is scaled up now.
        ranks: the processes that take part.
        hears_backward: whether gradients may be clipped before a step is announced, so that their norm must be taken
            as backward leaves them; right only where that is the whole gradient, on a single rank.
        warn: says to the user, once for all ranks, that something is wrong.
        inform: says something else.
        clip_value: gives the norm to which gradients are clipped; ``None`` where they are not, or nobody knows.
    """

    optimizers: Callable[[], Sequence[torch.optim.Optimizer]]
    total_steps: Callable[[], int | None]
    future_rates: Callable[[torch.optim.Optimizer, int, int, EffectiveTrace], EffectiveTrace | None]
    loss_scale: Callable[[], float]
    ranks: Ranks
    hears_backward: bool
    warn: Callable[[str], object]
    inform: Callable[[str], object]
    clip_value: Callable[[], float | None] = lambda: None

    def followed(self) -> list[torch.optim.Optimizer]:
        """The optimizers that say when they have made a step; a look-alike of torch's may not."""
        return [optimizer for optimizer in self.optimizers() if hasattr(optimizer, "register_step_post_hook")]


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
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")
    all_gather: Callable[[Tensor], Tensor] = lambda tensor: tensor[None]
    broadcast: Callable[[Any, int], Any] = lambda item, _: item
    share_batches: bool = False

    def merge_steps(self, output_step: OutputStep | None) -> OutputStep | None:
        """Puts the steps of all ranks together; a rank that heard nothing takes part with nothing."""
        if self.size == 1:
            return output_step
        if output_step is None:
            grid, sums = torch.full((512,), torch.nan, device=self.device), torch.zeros(4, device=self.device)
        else:
            grid, sums = quantile_grid(output_step.norms), torch.stack(output_step[1:])
        return merge_ranks(self.all_gather(grid), self.all_gather(sums.to(self.device).nan_to_num(0)))

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
        width = torch.tensor(0 if vectors is None else vectors.shape[1], device=self.device)
        widest = int(self.all_gather(width).max())
        if not widest:
            return None
        return self.all_rows(torch.zeros(0, widest, device=self.device) if vectors is None else vectors.float())

    def all_calls(self, calls: list[Call]) -> list[Call]:
        """The calls of all ranks, one rank after the other."""
        if self.size == 1:
            return calls
        cpu_calls = [call.to(torch.device("cpu")) for call in calls]
        return [call for rank in range(self.size) for call in self.broadcast(cpu_calls, rank)]

    def all_rows(self, rows: Tensor) -> Tensor:
        """The rows ``[n, d]`` of all ranks, which may have unequal numbers of them, one rank below the other."""
        if self.size == 1:
            return rows
        counts = self.all_gather(torch.tensor(len(rows), device=rows.device)).flatten().tolist()
        equal_rows = torch.nn.functional.pad(rows, (0, 0, 0, max(counts) - len(rows)))
        blocks = self.all_gather(equal_rows)
        return torch.cat([block[:count] for block, count in zip(blocks, counts, strict=True)])
