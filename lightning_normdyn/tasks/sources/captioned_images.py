"""Sources of images with captions."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lightning_normdyn.datasets import CaptionedImages


class CaptionedImagesSource(ABC):
    """Images and their captions from somewhere."""

    @abstractmethod
    def read(self) -> CaptionedImages:
        """Reads the set."""


class StandardLibraryGlyphCaptions(CaptionedImagesSource):
    """Characters as the fonts that matplotlib ships draw them, and their Unicode names.

    See :func:`lightning_normdyn.datasets.standard_library.glyph_captions`.
    """

    def read(self) -> CaptionedImages:
        """Draws the glyphs."""
        from lightning_normdyn.datasets.standard_library.glyph_captions import glyph_captions

        return glyph_captions()


class ImageTextTable(CaptionedImagesSource):
    """A table of captions beside image files, or Parquet with the images in it.

    See :func:`lightning_normdyn.datasets.formats.image_text.read_image_text`.

    Args:
        path: of a ``.csv``, ``.tsv`` or ``.parquet`` file, or of a folder that has one.
        image_column: name of the column of file names, or of bytes.
        caption_column: of captions.
        group_column: of what may not be split between training and evaluation; every image its own if left out.
    """

    def __init__(
        self,
        path: str,
        *,
        image_column: str = "image",
        caption_column: str = "caption",
        group_column: str | None = None,
    ) -> None:
        self.path = path
        self.image_column = image_column
        self.caption_column = caption_column
        self.group_column = group_column

    def read(self) -> CaptionedImages:
        """Reads the table; images are opened when they are taken."""
        from lightning_normdyn.datasets.formats.image_text import read_image_text

        return read_image_text(
            self.path,
            image_column=self.image_column,
            caption_column=self.caption_column,
            group_column=self.group_column,
        )


class WebDatasetShards(CaptionedImagesSource):
    """The first samples of WebDataset shards.

    See :func:`lightning_normdyn.datasets.formats.web_dataset.read_web_dataset`.

    Args:
        shards: files, or patterns such as ``shard-{000..003}.tar``.
        limit: most samples to read.
        json_field: the caption's field, where captions are JSON.
    """

    def __init__(self, shards: str | list[str], *, limit: int = 100_000, json_field: str = "caption") -> None:
        self.shards = shards
        self.limit = limit
        self.json_field = json_field

    def read(self) -> CaptionedImages:
        """Reads the shards into memory; images stay encoded until they are taken."""
        from lightning_normdyn.datasets.formats.web_dataset import read_web_dataset

        return read_web_dataset(self.shards, limit=self.limit, json_field=self.json_field)
