"""The docstrings of a folder of Python sources, read without importing any of them."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import NamedTuple

from lightning_normdyn.datasets.standard_library.sources import collector_paused, parse_source, source_files, statements

_SCOPES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Docstrings(NamedTuple):
    """What a folder of sources had to say.

    Attributes:
        texts: the docstrings as written, in the alphabetical order of the files and the line order inside each.
        skipped_files: sources that could not be read, decoded or parsed.
    """

    texts: list[str]
    skipped_files: int


def read_docstrings(folder: str | os.PathLike[str]) -> Docstrings:
    r"""Reads the docstrings of all modules, classes and functions under a folder.

    Tests, vendored and third-party packages are left out, so the standard library's folder gives the same texts in
    every environment of one Python version. A folder that does not exist gives no texts.

    Args:
        folder: where the ``.py`` files lie, at any depth.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.py").write_text('"About a."\ndef f():\n    "About f."\n')
        >>> read_docstrings(folder)
        Docstrings(texts=['About a.', 'About f.'], skipped_files=0)
    """
    with collector_paused():
        texts_by_file = [_docstrings_of(file) for file in source_files(folder)]
    return Docstrings(
        [text for texts in texts_by_file if texts is not None for text in texts], texts_by_file.count(None)
    )


def _docstrings_of(file: Path) -> list[str] | None:
    tree = parse_source(file)
    if tree is None:
        return None
    scopes = (node for node in statements(tree) if isinstance(node, _SCOPES))
    return [text for scope in scopes if (text := ast.get_docstring(scope, clean=False))]
