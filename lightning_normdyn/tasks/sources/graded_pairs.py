"""Sources of similarity sets."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lightning_normdyn.datasets import GradedPairs


class GradedPairsSource(ABC):
    """Pairs of texts with grades from somewhere."""

    @abstractmethod
    def read(self) -> dict[str, GradedPairs]:
        """Reads the set: split (``train``, ``validation``, ``test``) to its pairs."""


class StandardLibraryNames(GradedPairsSource):
    """Summaries of the standard library's docstrings, graded by how near their qualified names are.

    See :func:`lightning_normdyn.datasets.standard_library.name_relatedness`.
    """

    def read(self) -> dict[str, GradedPairs]:
        """Reads the running Python's sources."""
        from lightning_normdyn.datasets.standard_library import name_relatedness

        return name_relatedness()


class StsBenchmark(GradedPairsSource):
    """The STS benchmark's files, see :func:`lightning_normdyn.datasets.formats.read_sts`; grades from 0 to 5.

    Args:
        folder: with ``train``, ``dev`` and ``test``, ``.tsv`` or ``.csv``, plain or ``.gz``, or Parquet of the hub.
        language: of files named by language (``stsb-de-train.csv``), where there are several.
    """

    def __init__(self, folder: str, *, language: str | None = None) -> None:
        self.folder = folder
        self.language = language

    def read(self) -> dict[str, GradedPairs]:
        """Reads the folder."""
        from lightning_normdyn.datasets.formats import read_sts

        return read_sts(self.folder, language=self.language)


class Sick(GradedPairsSource):
    """SICK, see :func:`lightning_normdyn.datasets.formats.read_sick`; grades from 1 to 5.

    Args:
        path: ``SICK.txt``, or a folder with it or with the files of SemEval 2014.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self) -> dict[str, GradedPairs]:
        """Reads the file or files."""
        from lightning_normdyn.datasets.formats import read_sick

        return read_sick(self.path)
