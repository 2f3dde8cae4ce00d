"""Texts, each of a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LabelledTexts:
    """One split of a set of texts with classes.

    Attributes:
        texts: as the source has them.
        labels: int64 ``[n]``, the place of a class in ``classes``.
        classes: name of each class, the same for every split.
    """

    texts: Sequence[str]
    labels: Tensor
    classes: Sequence[str]

    def __len__(self) -> int:
        return len(self.texts)
