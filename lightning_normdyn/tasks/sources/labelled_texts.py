"""Sources of texts with a class each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import chain

import torch

from lightning_normdyn.datasets.records import LabelledTexts


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
    """

    def __init__(self, folder: str, *, text_column: str = "text", label_column: str = "category") -> None:
        self.folder = folder
        self.text_column = text_column
        self.label_column = label_column

    def read(self) -> LabelledTexts:
        """Reads the files; few-shot learning splits by class, so that the splits of the files are joined."""
        from lightning_normdyn.datasets.formats.labelled_text import read_labelled_texts

        splits = list(
            read_labelled_texts(self.folder, text_column=self.text_column, label_column=self.label_column).values()
        )
        texts = list(chain.from_iterable(split.texts for split in splits))
        return LabelledTexts(texts, torch.cat([split.labels for split in splits]), splits[0].classes)
