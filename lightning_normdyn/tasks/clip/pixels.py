"""Crops, caches and shifts images as uint8 tensors of one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_KEPT = 1 << 28


class Pixels:
    """RGB images of any sizes as uint8 ``[3, size, size]``.

    The shorter side is brought to ``size`` by bicubic interpolation and the middle of the longer one is kept, as CLIP
    was trained. All are kept once taken if that needs no more than 256 MiB.

    Args:
        images: opened when taken.
        size: in pixels.
    """

    def __init__(self, images: Sequence[Image], size: int) -> None:
        self.images = images
        self.size = size
        self._cache: dict[int, Tensor] | None = {} if len(images) * 3 * size * size <= _MOST_KEPT else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> Tensor:
        if self._cache is None:
            return center_crop(self.images[place], self.size)
        if place not in self._cache:
            self._cache[place] = center_crop(self.images[place], self.size)
        return self._cache[place]


class ImageSubset(Sequence[Tensor]):
    """Some of the images.

    Args:
        pixels: all of them.
        places: which.
    """

    def __init__(self, pixels: Pixels, places: Sequence[int]) -> None:
        self.pixels = pixels
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: int) -> Tensor:  # type: ignore[override]
        return self.pixels[self.places[place]]


def center_crop(image: Image, size: int) -> Tensor:
    """The middle square of an image, uint8 ``[3, size, size]``.

    Args:
        image: of any size and mode.
        size: in pixels.
    """
    width, height = image.size
    if min(width, height) != size:
        from PIL.Image import Resampling

        longer = int(size * max(width, height) / min(width, height))
        to = (size, longer) if width <= height else (longer, size)
        image = image.resize(to, Resampling.BICUBIC)
        width, height = to
    left, top = round((width - size) / 2), round((height - size) / 2)
    square = image.convert("RGB").crop((left, top, left + size, top + size))
    values = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8)
    return rearrange(values, "(height width channel) -> channel height width", height=size, width=size)


def random_shift(image: Tensor, limit: int) -> Tensor:
    """An image moved by up to ``limit`` pixels each way, drawn from the global generator; its edges are repeated.

    Args:
        image: uint8 ``[3, height, width]``.
        limit: 0 for the image as it is.
    """
    if not limit:
        return image
    height, width = image.shape[1:]
    down, right = torch.randint(-limit, limit + 1, (2,)).tolist()
    rows = (torch.arange(height) - down).clamp(0, height - 1)
    columns = (torch.arange(width) - right).clamp(0, width - 1)
    return image[:, rows[:, None], columns]
