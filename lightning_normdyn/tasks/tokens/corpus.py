"""A corpus: documents of words, from the running Python's own documentation or from the user's text files."""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_normdyn.datasets.reading.lines import read_text

MIN_DISTINCT_WORDS = 50
"""In-batch negatives drawn from fewer words than this are mostly copies of the positive."""

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_PARAGRAPH_BREAK = re.compile(r"\n\s*\n")


class Corpus(NamedTuple):
    """Documents, each a list of lower-case words; documents without a word are left out.

    Attributes:
        name: where the words come from, for reports.
        documents: one list of words per docstring, documentation topic or paragraph.
        skipped_files: sources that could not be read; always 0 for the user's own files, which raise instead.
    """

    name: str
    documents: list[list[str]]
    skipped_files: int = 0

    @property
    def words(self) -> int:
        """The number of words, repetitions counted."""
        return sum(map(len, self.documents))


def load_corpus(text: Sequence[str | os.PathLike[str]] | None = None) -> Corpus:
    """Loads the user's text files, or the standard library's documentation where none are given.

    Args:
        text: UTF-8 text files, plain or ``.gz``; each paragraph is a document.

    Raises:
        FileNotFoundError: if a file does not exist, or this Python has no documentation on disk.
        ValueError: if a file is a folder, empty or not UTF-8, or the corpus has fewer than 50 distinct words.
    """
    corpus = library_corpus() if text is None else text_corpus(text)
    distinct = len({word for document in corpus.documents for word in document})
    if distinct < MIN_DISTINCT_WORDS:
        raise ValueError(
            f"text: {corpus.name} has {distinct} distinct words among {corpus.words}; a corpus needs at least "
            f"{MIN_DISTINCT_WORDS} distinct words, so pass more or longer files"
        )
    return corpus


def library_corpus(folder: str | os.PathLike[str] | None = None) -> Corpus:
    """Loads the docstrings of the standard library, then the topics of Python's ``help()``.

    Args:
        folder: the library's sources; by default those of the running Python.

    Raises:
        FileNotFoundError: if neither docstrings nor topics are there (a zipped, frozen or stripped Python).
    """
    from lightning_normdyn.datasets.standard_library.docstrings import read_docstrings

    folder = sysconfig.get_path("stdlib") if folder is None else folder
    texts, skipped_files = read_docstrings(folder)
    topics = _help_topics()
    if not texts and not topics:
        raise FileNotFoundError(
            f"text: this Python has no standard-library sources under '{os.fspath(folder)}' to take docstrings from; "
            "pass your own text files with --text FILE"
        )
    return Corpus("Python standard-library documentation", _documents([*texts, *topics]), skipped_files)


def text_corpus(files: Sequence[str | os.PathLike[str]]) -> Corpus:
    """Loads text files; paragraphs, parted by blank lines, are the documents.

    Args:
        files: at least one UTF-8 text file, plain or ``.gz``.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if no file is given, or one is a folder, empty, not UTF-8 or not the gzip that its name says.
    """
    if isinstance(files, str) or not files:
        raise ValueError(f"text: expected a list of at least one text file, got {files!r}")
    paths = [Path(file) for file in files]
    paragraphs = [paragraph for path in paths for paragraph in _PARAGRAPH_BREAK.split(read_text(path, argument="text"))]
    return Corpus(", ".join(path.name for path in paths), _documents(paragraphs))


def prose_words(text: str) -> list[str]:
    """Splits prose into lower-case words: runs of letters of any alphabet, one inner apostrophe allowed.

    Digits are no words, and CamelCase stays whole; :mod:`lightning_normdyn.tasks.encoders.text_words` differs in both.

    Example:
        >>> prose_words("Don't panic: call open_file(42) au café.")
        ["don't", 'panic', 'call', 'open', 'file', 'au', 'café']
    """
    return _WORD.findall(text.lower())


def _documents(texts: Iterable[str]) -> list[list[str]]:
    return [words for words in map(prose_words, texts) if words]


def _help_topics() -> list[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # a stripped Python
        return []
    return [topics[name] for name in sorted(topics)]
