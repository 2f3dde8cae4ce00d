"""``Share``: which items of a stream a process reads, so that ranks and data-loader workers divide it among them."""

from __future__ import annotations

from typing import NamedTuple

from torch.utils.data import get_worker_info


class Share(NamedTuple):
    """Every so-many-th item of a stream.

    Attributes:
        first: place of the first item.
        step: how far it is to the next.

    Example:
        >>> [place for place in range(7) if Share(1, 3).holds(place)]
        [1, 4]
    """

    first: int
    step: int

    def holds(self, place: int) -> bool:
        """Tells whether the item in that place belongs to this share."""
        return place % self.step == self.first


def check_ranks(rank: int, ranks: int) -> None:
    """Refuses a rank that is none of so many."""
    for name, number in {"rank": rank, "ranks": ranks}.items():
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError(f"{name}: expected a whole number, got {number!r}")
    if ranks < 1 or not 0 <= rank < ranks:
        raise ValueError(f"rank: expected one of 0 to ranks - 1 with ranks at least 1, got {rank} of {ranks}")


def own_share(rank: int, ranks: int) -> Share:
    """The share of the worker that calls, of the data loader of a rank."""
    worker = get_worker_info()
    if worker is None:
        return Share(rank, ranks)
    return Share(rank * worker.num_workers + worker.id, ranks * worker.num_workers)
