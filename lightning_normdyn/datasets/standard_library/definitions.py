"""Lists the classes and functions that a module defines, with signatures and docstrings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from inspect import cleandoc
from typing import Literal, NamedTuple

from lightning_normdyn.datasets.standard_library.sources import STATEMENT_FIELDS, SourceModule

Kind = Literal["module", "class", "function"]


class Definition(NamedTuple):
    """A module, class or function.

    Attributes:
        kind: which of the three; methods are functions.
        module: qualified name of the module it stands in.
        path: names from the module down to it; empty for the module itself.
        signature: the head without its decorators and colon, ``class A(B)`` or ``def f(x, *, y=1)``; empty for a
            module.
        docstring: without its indentation; empty where there is none.
    """

    kind: Kind
    module: str
    path: tuple[str, ...]
    signature: str
    docstring: str

    @property
    def qualified_name(self) -> str:
        """Module and path, joined by dots."""
        return ".".join((self.module, *self.path))

    @property
    def depth(self) -> int:
        """How many names the qualified name joins."""
        return self.module.count(".") + 1 + len(self.path)


def definitions_of(source: SourceModule) -> list[Definition]:
    r"""Lists a module and all that it defines, at any depth, in the order of its lines.

    A name that is defined more than once (a property and its setter, the branches of an ``if``) is listed once: the
    first definition with a docstring, else the first.

    Example:
        >>> tree = ast.parse('"About m."\nclass A(B):\n    def f(self, x=1):\n        "Does it."\n')
        >>> for definition in definitions_of(SourceModule("m", False, tree)):
        ...     print(definition.qualified_name, repr(definition.signature), definition.docstring)
        m '' About m.
        m.A 'class A(B)'
        m.A.f 'def f(self, x=1)' Does it.
    """
    definitions: dict[tuple[str, ...], Definition] = {}
    for definition in _walk(source.tree, source.name, ()):
        if definition.path not in definitions or (definition.docstring and not definitions[definition.path].docstring):
            definitions[definition.path] = definition
    return list(definitions.values())


def _walk(node: ast.AST, module: str, path: tuple[str, ...]) -> Iterator[Definition]:
    if isinstance(node, ast.Module):
        yield Definition("module", module, path, "", _docstring(node))
    elif isinstance(node, ast.ClassDef):
        path = (*path, node.name)
        yield Definition("class", module, path, _class_head(node), _docstring(node))
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        path = (*path, node.name)
        yield Definition("function", module, path, f"def {node.name}({ast.unparse(node.args)})", _docstring(node))
    for field in STATEMENT_FIELDS:
        for child in getattr(node, field, ()):
            yield from _walk(child, module, path)


def _class_head(node: ast.ClassDef) -> str:
    arguments = ", ".join(map(ast.unparse, [*node.bases, *node.keywords]))
    return f"class {node.name}({arguments})" if arguments else f"class {node.name}"


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return cleandoc(ast.get_docstring(node, clean=False) or "").strip()
