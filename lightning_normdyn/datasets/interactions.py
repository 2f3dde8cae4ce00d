"""What users did with items, in the order of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Interactions:
    """Interactions sorted by user, then time; equal times keep the order of the source.

    Attributes:
        user_ids: as the source spells them; a user's place is its number.
        item_ids: the same of items.
        users: int64 ``[n]``.
        items: int64 ``[n]``.
        ratings: float32 ``[n]``; 1 where the source has none.
        times: float64 ``[n]``, or the place in the source where it has none.
        item_texts: a name for each item, or nothing.
    """

    user_ids: Sequence[str]
    item_ids: Sequence[str]
    users: Tensor
    items: Tensor
    ratings: Tensor
    times: Tensor
    item_texts: Sequence[str] = ()
