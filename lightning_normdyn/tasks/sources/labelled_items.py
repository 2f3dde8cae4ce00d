"""Sources of texts and of images with a class each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from itertools import chain

import torch

from lightning_normdyn.datasets import LabelledImages, LabelledTexts


class LabelledTextsSource(ABC):
    """Texts and their classes from somewhere."""

    @abstractmethod
    def read(self) -> LabelledTexts:
        """Reads the set, all its splits together."""


class LabelledTextFiles(LabelledTextsSource):
    """Tables of texts with a category each, as BANKING77 has them.

    Args:
        folder: with ``train``, ``dev`` and ``test`` files, ``.tsv`` or ``.csv``, plain or ``.gz``.
        text_column: name of the column of texts.
        label_column: name of the column of classes.
        encoding: of the text, such as ``latin-1``.
    """

    def __init__(
        self, folder: str, *, text_column: str = "text", label_column: str = "category", encoding: str = "utf-8"
    ) -> None:
        self.folder = folder
        self.text_column = text_column
        self.label_column = label_column
        self.encoding = encoding

    def read(self) -> LabelledTexts:
        """Reads the files; few-shot learning splits by class, so that the splits of the files are joined."""
        from lightning_normdyn.datasets.formats.labelled_text import read_labelled_texts

        columns = {"text_column": self.text_column, "label_column": self.label_column}
        splits = list(read_labelled_texts(self.folder, **columns, encoding=self.encoding).values())
        texts = list(chain.from_iterable(split.texts for split in splits))
        return LabelledTexts(texts, torch.cat([split.labels for split in splits]), splits[0].classes)


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
