"""Exchange between the ranks of a data-parallel run, differentiable and right without any setting.

Every rank computes the rows of its own queries against everybody's documents. What a rank returns is its own share of
the loss, times the number of ranks, so that the mean over ranks, which data parallelism takes of gradients, is the
gradient of the whole batch's loss: the same as on a single rank, for encoders and learnable scalars alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor

from lightning_normdyn.core.contrast.factored import Factored, empty_place
from lightning_normdyn.core.contrast.first_derivative import first_derivative_only

_REDUCE_SCATTER: Any = getattr(dist, "reduce_scatter_single", None) or getattr(dist, "reduce_scatter_tensor", None)
_ALL_GATHER: Any = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)
"""Under the names they have since torch 2.14, or before."""


class Rows(NamedTuple):
    """How many rows each rank has of something, in rank order, and which rank this is."""

    sizes: tuple[int, ...]
    rank: int = 0

    @property
    def total(self) -> int:
        """Rows of all ranks."""
        return sum(self.sizes)

    @property
    def local_slice(self) -> slice:
        """Where this rank's rows are among all."""
        offset = sum(self.sizes[: self.rank])
        return slice(offset, offset + self.sizes[self.rank])


class Trait(NamedTuple):
    """A number that must be the same on all ranks.

    Attributes:
        argument: of the loss, which it is a property of.
        meaning: what the number says, for the error.
        value: on this rank.
    """

    argument: str
    meaning: str
    value: int


class Ranks(Protocol):
    """What a loss needs to know of the other ranks."""

    count: int

    def rows(self, *sizes: int, traits: Sequence[Trait] = ()) -> list[Rows]:
        """Tells all ranks how many rows of several things this one has, and makes sure that they have the same traits.

        Raises:
            ValueError: on every rank, if one has another value of a trait than the others.
        """

    def gather(self, x: Tensor, rows: Rows) -> Tensor:
        """The rows of all ranks, ``[total, ...]``; the gradient of each comes back from all of them."""

    def gather_factored(self, x: Factored, groups: Sequence[Rows]) -> Factored:
        """The same for each of the parts that ``x`` is made of: of the first part all ranks' rows, then the next."""

    def log_sum_exp(self, partial: Tensor) -> Tensor:
        """``log sum exp`` over ranks, elementwise."""

    def sum(self, partial: Tensor) -> Tensor:
        """The sum over ranks, elementwise, of ``[n]``; the gradient comes back from all of them."""

    def max(self, partial: Tensor) -> Tensor:
        """The largest of ranks, elementwise, of ``[n]``; without gradient."""

    def whole(self, share: Tensor) -> Tensor:
        """The mean over ranks as a value, with the gradient of this rank's own share."""


class OneRank:
    """Alone: everything stays as it is."""

    count = 1

    def rows(self, *sizes: int, traits: Sequence[Trait] = ()) -> list[Rows]:
        """Sizes as given."""
        del traits
        return [Rows((size,)) for size in sizes]

    def gather(self, x: Tensor, rows: Rows) -> Tensor:
        """The rows themselves."""
        del rows
        return x

    def gather_factored(self, x: Factored, groups: Sequence[Rows]) -> Factored:
        """The rows themselves."""
        del groups
        return x

    def log_sum_exp(self, partial: Tensor) -> Tensor:
        """The values themselves."""
        return partial

    def sum(self, partial: Tensor) -> Tensor:
        """The values themselves."""
        return partial

    def max(self, partial: Tensor) -> Tensor:
        """The values themselves."""
        return partial.detach()

    def whole(self, share: Tensor) -> Tensor:
        """The share itself."""
        return share


class ManyRanks:
    """The ranks of a process group.

    Args:
        group: of torch; ``None`` for the default one.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group
        self.count, self.rank = dist.get_world_size(group), dist.get_rank(group)

    def rows(self, *sizes: int, traits: Sequence[Trait] = ()) -> list[Rows]:
        """One small message a step, so that ranks may differ where they can and do not wait for ever where not."""
        local_numbers = torch.tensor([*sizes, *(trait.value for trait in traits)], device=_device(self._group))
        columns = rearrange(self._all(local_numbers), "(rank number) -> number rank", rank=self.count).tolist()
        for trait, values in zip(traits, columns[len(sizes) :], strict=True):
            if len(set(values)) > 1:
                raise ValueError(
                    f"{trait.argument} ({trait.meaning}): expected the same on all ranks, got {values} on ranks 0 to "
                    f"{self.count - 1}"
                )
        return [Rows(tuple(column), self.rank) for column in columns[: len(sizes)]]

    def copies(self, fingerprint: int) -> tuple[int, int] | None:
        """Two ranks of the group with one fingerprint; ``None`` if there are none."""
        prints = self._all(torch.tensor([fingerprint], device=_device(self._group))).tolist()
        first_ranks: dict[int, int] = {}
        for rank, value in enumerate(prints):
            if first_ranks.setdefault(value, rank) != rank:
                return first_ranks[value], rank
        return None

    def gather(self, x: Tensor, rows: Rows) -> Tensor:
        """All-gather forward, reduce-scatter backward."""
        all_rows: Tensor = _Gather.apply(x, rows, self._group)
        return all_rows

    def gather_factored(self, x: Factored, groups: Sequence[Rows]) -> Factored:
        """Sends half precision and a factor forward, and the gradient back in float32."""
        groups = [rows for rows in groups if rows.total]
        sizes = [rows.sizes[rows.rank] for rows in groups]
        vectors, factors = (
            torch.cat([self.gather(part, rows) for part, rows in zip(values.split(sizes), groups, strict=True)])
            for values in (x.rows, x.factors)
        )
        place: Tensor = _GatherPlace.apply(x.place, groups, self._group)
        return Factored(vectors, factors, place)

    def log_sum_exp(self, partial: Tensor) -> Tensor:
        """Gathers one number an element from each rank."""
        total: Tensor = _LogSumExpOverRanks.apply(partial, self.count, self._group)
        return total

    def sum(self, partial: Tensor) -> Tensor:
        """Gathers one number an element from each rank."""
        partials = self.gather(partial, Rows((len(partial),) * self.count, self.rank))
        return rearrange(partials, "(rank n) -> rank n", rank=self.count).sum(0)

    def max(self, partial: Tensor) -> Tensor:
        """One all-reduce."""
        largest = partial.detach().clone()
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._group)
        return largest

    def whole(self, share: Tensor) -> Tensor:
        """One all-reduce of a scalar."""
        mean = share.detach().clone()
        dist.all_reduce(mean, group=self._group)
        return share + (mean / self.count - share.detach())

    def _all(self, numbers: Tensor) -> Tensor:
        """The numbers ``[n]`` of all ranks, one rank's after the other's."""
        all_numbers = numbers.new_empty(self.count * len(numbers))
        _ALL_GATHER(all_numbers, numbers, group=self._group)
        return all_numbers


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows, group: Any) -> Tensor:
        ctx.rows, ctx.group = rows, group
        padded = _padded(x.contiguous(), max(rows.sizes))
        blocks = padded.new_empty(len(rows.sizes) * len(padded), *x.shape[1:])
        _ALL_GATHER(blocks, padded, group=group)
        return _without_padding(blocks, rows.sizes)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _sum_of_own(gradient, ctx.rows, ctx.group), None, None


class _GatherPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, place: Tensor, groups: Sequence[Rows], group: Any) -> Tensor:
        ctx.groups, ctx.group = groups, group
        return empty_place(sum(rows.total for rows in groups), place)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        gradients = gradient.split([rows.total for rows in ctx.groups])
        row_sums = [_sum_of_own(part, rows, ctx.group) for part, rows in zip(gradients, ctx.groups, strict=True)]
        return torch.cat(row_sums), None, None


class _LogSumExpOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, ranks: int, group: Any) -> Tensor:
        partials = partial.new_empty(ranks * len(partial))
        _ALL_GATHER(partials, partial.contiguous(), group=group)
        total = rearrange(partials, "(rank n) -> rank n", rank=ranks).logsumexp(0)
        ctx.save_for_backward(partial, total)
        ctx.group = group
        return total

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        partial, total = ctx.saved_tensors
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient, group=ctx.group)  # every rank holds a share of the loss that the total went into
        return gradient * (partial - total).exp().nan_to_num(0), None, None


def _sum_of_own(gradient: Tensor, rows: Rows, group: Any) -> Tensor:
    """This rank's rows of the sum over ranks."""
    longest = max(rows.sizes)
    padded = torch.cat([_padded(part, longest) for part in gradient.split(list(rows.sizes))])
    row_sums = padded.new_empty(longest, *gradient.shape[1:])
    try:
        _REDUCE_SCATTER(row_sums, padded, group=group)
    except (NotImplementedError, RuntimeError):  # a backend that cannot: every rank refuses alike
        dist.all_reduce(padded, group=group)
        row_sums = padded.split(longest)[rows.rank]
    return row_sums[: rows.sizes[rows.rank]]


def _padded(x: Tensor, rows: int) -> Tensor:
    return x if len(x) == rows else torch.cat((x, x.new_zeros(rows - len(x), *x.shape[1:])))


def _without_padding(blocks: Tensor, sizes: tuple[int, ...]) -> Tensor:
    if len(set(sizes)) == 1:
        return blocks
    groups = blocks.split(max(sizes))
    return torch.cat([part[:size] for part, size in zip(groups, sizes, strict=True)])


def _device(group: Any) -> torch.device:
    """Where a group's backend sends from."""
    backend = str(dist.get_backend(group))
    if "nccl" in backend and "cpu" not in backend:
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
