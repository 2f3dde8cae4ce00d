"""Sources of retrieval sets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from importlib import import_module

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
        from lightning_normdyn.datasets.standard_library import docstring_retrieval

        return docstring_retrieval()


class StandardLibraryQuestions(JudgedTextsSource):
    """Questions about the standard library's classes and functions, with their answers.

    See :func:`lightning_normdyn.datasets.standard_library.question_answers`.
    """

    def read(self) -> JudgedTexts:
        """Reads the running Python's sources."""
        from lightning_normdyn.datasets.standard_library import question_answers

        return question_answers()


class BeirFolder(JudgedTextsSource):
    """A folder in BEIR's layout or a set of the hub, see :func:`lightning_normdyn.datasets.formats.read_judged_texts`.

    Args:
        folder: with ``corpus.jsonl``, ``queries.jsonl`` (both plain or ``.gz``) and ``qrels/*.tsv``, or as the hub has
            them; or a name on the hub, ``BeIR/scifact`` or ``mteb/scifact``.
        cache: a folder for an Arrow file of the documents, for sets larger than memory.
    """

    def __init__(self, folder: str, *, cache: str | None = None) -> None:
        self.folder = folder
        self.cache = cache

    def read(self) -> JudgedTexts:
        """Reads the folder."""
        from lightning_normdyn.datasets.formats import read_judged_texts

        return read_judged_texts(self.folder, cache=self.cache, progress=_progress if self.cache else None)


class BrightFolder(JudgedTextsSource):
    """A domain of BRIGHT, see :func:`lightning_normdyn.datasets.formats.read_bright`; it is a test set alone.

    Args:
        folder: with ``examples`` and ``documents``.
        domain: such as ``biology``; may be left out where there is only one.
        long_documents: whether whole pages are searched instead of passages.
        cache: a folder for an Arrow file of the documents, for sets larger than memory.
    """

    def __init__(
        self, folder: str, *, domain: str | None = None, long_documents: bool = False, cache: str | None = None
    ) -> None:
        self.folder = folder
        self.domain = domain
        self.long_documents = long_documents
        self.cache = cache

    def read(self) -> JudgedTexts:
        """Reads the domain."""
        from lightning_normdyn.datasets.formats import read_bright

        return read_bright(self.folder, domain=self.domain, long_documents=self.long_documents, cache=self.cache)


def _progress(documents: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    bar: Iterable[tuple[str, str]] = import_module("tqdm").tqdm(documents, desc="documents", unit="")
    return bar
