"""Splits each user's history by time into training, validation and test items."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.datasets import Interactions

Cut = Literal["leave_last_out", "time"]
_LEAST = 3


class CutHistory(NamedTuple):
    """One user's items, each once.

    Attributes:
        items: in the order of time, int64 ``[n]``.
        train_end: how many of the first train.
        validation_end: how many of the first train or validate; the others test.
    """

    items: Tensor
    train_end: int
    validation_end: int


def cut_histories(interactions: Interactions, *, cut: Cut, shares: tuple[float, float]) -> list[CutHistory]:
    """Cuts every user's history.

    An item that a user comes back to counts where it came first, so that nothing to be found was seen before.

    Args:
        interactions: sorted by user, then time.
        cut: ``leave_last_out`` tests the last item of each user and validates the one before; users with fewer than
            three items only train. ``time`` cuts all users at the same two moments, so that nothing that trains is
            younger than what is found.
        shares: for ``time``: of all interactions, the latest that validate and that test.

    Returns:
        One history a user, in their order.

    Example:
        >>> one = torch.ones(4)
        >>> four = Interactions(["u"], list("abcd"), torch.zeros(4, dtype=torch.int64), torch.arange(4), one, one)
        >>> cut_histories(four, cut="leave_last_out", shares=(0.1, 0.1))
        [CutHistory(items=tensor([0, 1, 2, 3]), train_end=2, validation_end=3)]
    """
    histories = []
    moments = _moments(interactions.times, shares)
    counts = torch.bincount(interactions.users, minlength=len(interactions.user_ids)).tolist()
    for items, times in zip(interactions.items.split(counts), interactions.times.split(counts), strict=True):
        first = _first_places(items)
        items, times = items[first], times[first]
        if cut == "time":
            train_end, validation_end = (int((times < moment).sum()) for moment in moments)
        elif len(items) >= _LEAST:
            train_end, validation_end = len(items) - 2, len(items) - 1
        else:
            train_end = validation_end = len(items)
        histories.append(CutHistory(items, train_end, validation_end))
    return histories


def _moments(times: Tensor, shares: tuple[float, float]) -> tuple[float, float]:
    """When validation and when the test begins."""
    ordered = times.sort().values
    starts = [1 - sum(shares), 1 - shares[1]]
    validation, test = (float(ordered[min(round(start * len(ordered)), len(ordered) - 1)]) for start in starts)
    return validation, test


def _first_places(items: Tensor) -> Tensor:
    places: dict[int, int] = {}
    for place, item in enumerate(items.tolist()):
        places.setdefault(item, place)
    return torch.tensor(list(places.values()), dtype=torch.int64)
