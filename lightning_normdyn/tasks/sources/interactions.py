"""Sources of interactions."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lightning_normdyn.datasets import Interactions


class InteractionsSource(ABC):
    """What users did with items, from somewhere."""

    @abstractmethod
    def read(self) -> Interactions:
        """Reads the interactions."""


class StandardLibraryNameUses(InteractionsSource):
    """Modules of the standard library as users, the names that they use as items, in the order of their lines.

    See :func:`lightning_normdyn.datasets.standard_library.name_uses.name_uses`.
    """

    def read(self) -> Interactions:
        """Reads the running Python's sources."""
        from lightning_normdyn.datasets.standard_library.name_uses import name_uses

        return name_uses()


class MovieLensFolder(InteractionsSource):
    """A folder as MovieLens publishes it, see :func:`lightning_normdyn.datasets.formats.movielens.read_movielens`.

    Args:
        folder: with ``u.data``, ``ratings.dat``, ``ratings.csv`` or ``ratings.tsv``, or the one file of ratings of
            RecBole, Amazon or SASRec.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def read(self) -> Interactions:
        """Reads the folder."""
        from lightning_normdyn.datasets.formats.movielens import read_movielens

        return read_movielens(self.folder)
