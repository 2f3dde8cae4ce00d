"""The sources of the standard library: which files they are, and their syntax trees."""

from __future__ import annotations

import ast
import gc
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
_SKIPPED_PACKAGES = frozenset({"distutils", "encodings", "pydoc_data", "tkinter"})
STATEMENT_FIELDS = ("body", "orelse", "handlers", "finalbody", "cases")
"""Where a statement keeps the statements inside it."""


class SourceModule(NamedTuple):
    """A module and its syntax.

    Attributes:
        name: qualified name.
        is_package: whether it is the ``__init__`` of a folder.
        tree: what it parses to.
    """

    name: str
    is_package: bool
    tree: ast.Module


def library_folder() -> Path:
    """Where the running Python keeps the sources of its standard library."""
    return Path(sysconfig.get_path("stdlib"))


def source_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Lists the ``.py`` files under a folder, at any depth, without tests, vendored and third-party packages."""
    sources: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        sources.extend(Path(parent, name) for name in files if name.endswith(".py"))
    return sorted(sources)


def parse_source(file: Path) -> ast.Module | None:
    """Parses a file; None if it cannot be read, decoded or parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser reports invalid escapes of other people's code
            return ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return None


def library_modules(folder: str | os.PathLike[str] | None = None) -> Iterator[SourceModule]:
    """Parses the modules that every installation of one Python version has, in the order of their names.

    Left out are what `source_files` leaves out; what a distribution may put into a package of its own or leave out
    (``distutils``, ``tkinter``); generated tables (``encodings``, ``pydoc_data``); and files whose top-level name is
    not in ``sys.stdlib_module_names``, such as those that hold how one Python was built.

    Args:
        folder: the sources; by default those of the running Python. Of another folder all names are taken.

    Raises:
        FileNotFoundError: if nothing there can be parsed (a zipped, frozen or stripped Python).
    """
    root = library_folder() if folder is None else Path(folder)
    modules = sorted((name, file) for file in source_files(root) if (name := _module_name(file.relative_to(root))))
    count = 0
    for name, file in modules:
        if folder is None and not _is_everywhere(name):
            continue
        if (tree := parse_source(file)) is not None:
            count += 1
            yield SourceModule(name, file.name == "__init__.py", tree)
    if not count:
        raise FileNotFoundError(
            f"folder: expected Python sources under '{root}', found none that can be parsed; this Python was installed "
            "without the sources of its standard library, so use another installation or a set in files"
        )


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Walks statements alone: docstrings never sit inside an expression, and expressions are most of a tree."""
    yield node
    for field in STATEMENT_FIELDS:
        for child in getattr(node, field, ()):
            yield from statements(child)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Parsing makes many objects and no garbage: looking for some takes longer than the parsing itself."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _module_name(file: Path) -> str | None:
    names = [*file.parts[:-1], *([] if file.name == "__init__.py" else [file.stem])]
    return ".".join(names) if names and all(map(str.isidentifier, names)) else None


def _is_everywhere(name: str) -> bool:
    top = name.partition(".")[0]
    return top in sys.stdlib_module_names and top not in _SKIPPED_PACKAGES
