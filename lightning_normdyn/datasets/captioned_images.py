"""Images and what is written about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class CaptionedImages:
    """Image-text pairs.

    Attributes:
        images: RGB images, opened when taken; the sequence may lie on disk.
        captions: the text of each image.
        groups: what may not be split between training and evaluation (variants of one drawing), a name each.
    """

    images: Sequence[Image]
    captions: Sequence[str]
    groups: Sequence[str]

    def __len__(self) -> int:
        return len(self.captions)
