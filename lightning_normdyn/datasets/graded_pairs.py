"""Pairs of texts with a grade of how alike they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class GradedPairs:
    """One split of a similarity set.

    Attributes:
        first: one text of each pair.
        second: the other; exchanging the two changes nothing.
        grades: float32 ``[n]``, in the unit of the source; larger is more alike.
    """

    first: Sequence[str]
    second: Sequence[str]
    grades: Tensor

    def __len__(self) -> int:
        return len(self.first)
