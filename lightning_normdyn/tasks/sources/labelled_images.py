"""Sources of images with a class each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

from lightning_normdyn.datasets import LabelledImages


class LabelledImagesSource(ABC):
    """Images of one size and their classes from somewhere."""

    @abstractmethod
    def read(self) -> LabelledImages:
        """Reads the set."""


class StandardLibraryGlyphClasses(LabelledImagesSource):
    """Characters as the fonts that matplotlib ships draw them, one class a character.

    See :func:`lightning_normdyn.datasets.standard_library.glyph_classes.glyph_classes`.
    """

    def read(self) -> LabelledImages:
        """Draws the glyphs, ink 255 on paper 0, since convolutions pad with 0."""
        from lightning_normdyn.datasets.standard_library.glyph_classes import glyph_classes

        glyphs = glyph_classes()
        return replace(glyphs, images=255 - glyphs.images)


class Omniglot(LabelledImagesSource):
    """Handwritten characters, whose groups are alphabets.

    See :func:`lightning_normdyn.datasets.formats.omniglot.read_omniglot`.

    Args:
        path: of the folder, or of an ``.npz`` file.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self) -> LabelledImages:
        """Reads the drawings as 28 x 28 pixels, ink 255."""
        from lightning_normdyn.datasets.formats.omniglot import read_omniglot

        return read_omniglot(self.path)


class ImageFolder(LabelledImagesSource):
    """A folder of images for each class, which is its own group.

    Args:
        folder: of the folders of classes.
        size: height and width that images are brought to.
        grey: whether colours are left out.
    """

    def __init__(self, folder: str, *, size: int = 28, grey: bool = False) -> None:
        self.folder = folder
        self.size = size
        self.grey = grey

    def read(self) -> LabelledImages:
        """Reads the folder."""
        from lightning_normdyn.datasets.formats.image_folder import read_image_folder

        return read_image_folder(self.folder, height=self.size, width=self.size, mode="L" if self.grey else "RGB")
