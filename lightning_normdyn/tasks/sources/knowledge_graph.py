"""Sources of knowledge graphs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from lightning_normdyn.datasets import KnowledgeGraph


class KnowledgeGraphSource(ABC):
    """Facts among entities from somewhere."""

    @abstractmethod
    def read(self) -> KnowledgeGraph:
        """Reads the graph."""


class StandardLibraryClassGraph(KnowledgeGraphSource):
    """What the standard library's classes, functions and modules are to each other.

    See :func:`lightning_normdyn.datasets.standard_library.class_graph.class_graph`.
    """

    def read(self) -> KnowledgeGraph:
        """Reads the running Python's sources."""
        from lightning_normdyn.datasets.standard_library.class_graph import class_graph

        return class_graph()


class TripleFolder(KnowledgeGraphSource):
    """A folder of triples as in ConvE's repository.

    See :func:`lightning_normdyn.datasets.formats.triples.read_triples`.

    Args:
        folder: with ``train``, ``valid`` and ``test``, each ``.txt``, ``.tsv``, ``.csv`` or ``.nt``, plain or ``.gz``.
        order: of columns without names: ``hrt``, or ``htr`` for head, tail, relation.
    """

    def __init__(self, folder: str, *, order: Literal["hrt", "htr"] = "hrt") -> None:
        self.folder = folder
        self.order: Literal["hrt", "htr"] = order

    def read(self) -> KnowledgeGraph:
        """Reads the folder."""
        from lightning_normdyn.datasets.formats.triples import read_triples

        return read_triples(self.folder, order=self.order)
