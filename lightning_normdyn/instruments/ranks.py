"""What the ranks of a run tell each other about outputs and probes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.capture.call import Call
from lightning_normdyn.capture.output import OutputStep
from lightning_normdyn.instruments.output import merge_ranks, quantile_grid


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
    broadcast: Callable[[Any, int], Any] = lambda held, _: held
    share_batches: bool = False

    def merge_steps(self, seen: OutputStep | None) -> OutputStep | None:
        """Puts the steps of all ranks together; a rank that heard nothing takes part with nothing."""
        if self.size == 1:
            return seen
        grid = torch.full((512,), torch.nan, device=self.device) if seen is None else quantile_grid(seen.norms)
        sums = torch.zeros(3, device=self.device) if seen is None else torch.stack(seen[1:])
        return merge_ranks(self.all_gather(grid), self.all_gather(sums.to(self.device).nan_to_num(0)))

    def all_calls(self, calls: list[Call]) -> list[Call]:
        """The calls of all ranks, one rank after the other."""
        if self.size == 1:
            return calls
        own = [call.to(torch.device("cpu")) for call in calls]
        return [call for rank in range(self.size) for call in self.broadcast(own, rank)]

    def all_rows(self, rows: Tensor) -> Tensor:
        """The rows ``[n, d]`` of all ranks, which may have unequal numbers of them, one rank below the other."""
        if self.size == 1:
            return rows
        counts = self.all_gather(torch.tensor(len(rows), device=rows.device)).flatten().tolist()
        padded = torch.nn.functional.pad(rows, (0, 0, 0, max(counts) - len(rows)))
        gathered = self.all_gather(padded)
        return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])
