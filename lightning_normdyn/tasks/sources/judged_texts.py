"""Sources of retrieval sets."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lightning_normdyn.datasets import JudgedTexts


class JudgedTextsSource(ABC):
    """Queries, documents and judgements from somewhere."""

    @abstractmethod
    def read(self) -> JudgedTexts:
        """Reads the set."""


class StandardLibraryDocstrings(JudgedTextsSource):
    """Summaries of the standard library's docstrings as queries, their bodies as documents.

    See :func:`lightning_normdyn.datasets.standard_library.docstring_retrieval`.
    """

    def read(self) -> JudgedTexts:
        """Reads the running Python's sources."""
        from lightning_normdyn.datasets.standard_library.docstring_retrieval import docstring_retrieval

        return docstring_retrieval()


class BeirFolder(JudgedTextsSource):
    """A folder in BEIR's layout, see :func:`lightning_normdyn.datasets.formats.beir.read_beir`.

    Args:
        folder: with ``corpus.jsonl``, ``queries.jsonl`` (both plain or ``.gz``) and ``qrels/*.tsv``.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def read(self) -> JudgedTexts:
        """Reads the folder."""
        from lightning_normdyn.datasets.formats.beir import read_beir

        return read_beir(self.folder)
