"""The docstrings of a folder of Python sources, read without importing any of them."""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_SKIPPED_FOLDERS = frozenset(
    {
        "__pycache__",
        "dist-packages",
        "ensurepip",
        "idle_test",
        "idlelib",
        "lib2to3",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    }
)
_SCOPES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_STATEMENT_FIELDS = ("body", "orelse", "handlers", "finalbody", "cases")


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
    found = [_docstrings_of(file) for file in _sources(folder)]
    return Docstrings([text for texts in found if texts is not None for text in texts], found.count(None))


def _sources(folder: str | os.PathLike[str]) -> list[Path]:
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        found.extend(Path(parent, name) for name in files if name.endswith(".py"))
    return sorted(found)


def _docstrings_of(file: Path) -> list[str] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser reports invalid escapes of other people's code
            tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return None
    scopes = (node for node in _statements(tree) if isinstance(node, _SCOPES))
    return [text for scope in scopes if (text := ast.get_docstring(scope, clean=False))]


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Walks statements alone: docstrings never sit inside an expression, and expressions are most of a tree."""
    yield node
    for field in _STATEMENT_FIELDS:
        for child in getattr(node, field, ()):
            yield from _statements(child)
