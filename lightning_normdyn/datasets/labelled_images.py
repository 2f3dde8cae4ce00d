"""Images of one size, each of a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LabelledImages:
    """Images in memory.

    Attributes:
        images: uint8 ``[n, channels, height, width]``, 0 to 255, as they would be looked at.
        labels: int64 ``[n]``, the place of a class in ``classes``.
        classes: name of each class.
        groups: group (an alphabet, a Unicode block) of each class, by which splits keep relatives together.
        soft_labels: float32 ``[n, classes]``, shares of people who said each class, or None.
    """

    images: Tensor
    labels: Tensor
    classes: Sequence[str]
    groups: Sequence[str]
    soft_labels: Tensor | None = None
