"""Images as Pillow opens them, on disk or in memory."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, overload

import torch
from einops import rearrange
from torch import Tensor

from lightning_normdyn.datasets.problems import MalformedFileError
from lightning_normdyn.datasets.reading.lines import File

if TYPE_CHECKING:
    from PIL.Image import Image

Mode = Literal["RGB", "L"]

_TRANSPARENT = ("RGBA", "RGBa", "LA", "La", "PA")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
"""Endings of names that are taken for images."""


def pillow() -> ModuleType:
    """The module that opens images.

    Raises:
        ImportError: if the extra that brings it is not installed.
    """
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError:
        raise ImportError("images need pillow; install with: pip install 'lightning-normdyn[images]'") from None
    return PIL


def open_image(source: bytes | Path, *, name: File, mode: Mode = "RGB") -> Image:
    """Opens an image as it would be looked at: turned as its camera says, and on white where it is transparent.

    Args:
        source: a file, or what is in it.
        name: of the image, for the error.
        mode: colours or grey.

    Raises:
        MalformedFileError: if it cannot be decoded.
    """
    library = pillow()
    try:
        with library.Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as raw_image:
            upright: Image = library.ImageOps.exif_transpose(raw_image)
            if upright.mode in _TRANSPARENT or "transparency" in upright.info:
                upright = upright.convert("RGBA")
                white = library.Image.new("RGBA", upright.size, "white")
                upright = library.Image.alpha_composite(white, upright)
            return upright.convert(mode)
    except Exception as error:  # a broken image can raise anything
        raise MalformedFileError(
            name, None, "an image that Pillow opens", f"'{error}'", "replace or remove it"
        ) from None


def to_tensor(image: Image) -> Tensor:
    """Takes an image of mode ``RGB`` or ``L`` as uint8 ``[channels, height, width]``."""
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return rearrange(values, "(h w channel) -> channel h w", h=image.height, w=image.width)


class _Images(Sequence["Image"], ABC):
    @abstractmethod
    def _open(self, place: int) -> Image: ...

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image]: ...
    def __getitem__(self, index: int | slice) -> Image | list[Image]:
        places = range(len(self))[index]
        return self._open(places) if isinstance(places, int) else [self._open(place) for place in places]


class ImageFiles(_Images):
    """Images on disk, opened as RGB when taken.

    Args:
        files: one for each image.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def _open(self, place: int) -> Image:
        return open_image(self.files[place], name=self.files[place])


class EncodedImages(_Images):
    """Images as files hold them, decoded to RGB when taken.

    Args:
        encoded: what a file of an image holds; the sequence may lie on disk.
        names: what errors call each image.
        places: where each image is in ``encoded``.
    """

    def __init__(self, encoded: Sequence[bytes], names: Sequence[str], places: Sequence[int]) -> None:
        self.encoded = encoded
        self.names = names
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def _open(self, place: int) -> Image:
        return open_image(self.encoded[self.places[place]], name=self.names[place])
