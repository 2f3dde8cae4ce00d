"""Resolves the names that a module imports, uses, inherits from and raises by Python's scope rules."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import BuiltinFunctionType
from typing import Literal, NamedTuple

from lightning_normdyn.datasets.standard_library.sources import SourceModule

Role = Literal["use", "import", "base", "decorator", "raise", "catch"]


class Reference(NamedTuple):
    """A name in the source, outside of the scope that binds it.

    Attributes:
        line: where it stands.
        column: where in the line.
        role: what it is there for.
        name: module and name, as bound by imports: ``os.path.join``, ``builtins.len``, ``own_module.f``.
        owner: names from the module down to the class or function that it stands in.
    """

    line: int
    column: int
    role: Role
    name: str
    owner: tuple[str, ...]


class ModuleNames(NamedTuple):
    """References of a module, and what a look-up in it needs.

    Attributes:
        references: in the order of lines and columns.
        imports: names bound by imports to what they stand for.
        star_modules: modules of which it imports all names.
    """

    references: list[Reference]
    imports: dict[str, str]
    star_modules: list[str]


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_LANGUAGE_MODULES = ("builtins", "io", "_io")  # `open` comes from the latter
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def names_of(source: SourceModule) -> ModuleNames:
    r"""Resolves the names of a module by Python's rules of scope, as far as its own text tells.

    Names bound in a function (arguments, assignments, loops) are nobody else's and give no reference. At the top of a
    module a definition goes before an import of the same name, and an import before an assignment, as in
    ``try: import x`` with ``except ImportError: x = None``. Names from ``import *`` are left out.

    Example:
        >>> text = "import os.path as p\ndef f(x):\n    return p.join(x, len(x))\n"
        >>> for reference in names_of(SourceModule("m", False, ast.parse(text))).references:
        ...     print(reference.line, reference.role, reference.name, reference.owner)
        1 import os.path ()
        3 use os.path.join ('f',)
        3 use builtins.len ('f',)
    """
    visitor = _Visitor(source)
    visitor.visit_module()
    return ModuleNames(sorted(visitor.references), dict(visitor.module.imports), visitor.star_modules)


def _built_in_names() -> frozenset[str]:
    """What the language itself defines; shells and `site` put more among the builtins."""
    of_the_language = {
        name
        for name, value in vars(builtins).items()
        if isinstance(value, type | BuiltinFunctionType) and value.__module__ in _LANGUAGE_MODULES
    }
    return frozenset(name for name in of_the_language if not name.startswith("_")) - {"WindowsError"}


_BUILT_IN = _built_in_names()


@dataclass
class _Scope:
    is_class: bool = False
    imports: dict[str, str] = field(default_factory=dict)
    definitions: set[str] = field(default_factory=set)
    bound: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)  # named by `global` or `nonlocal`
    loads: list[Reference] = field(default_factory=list)


class _Visitor:
    def __init__(self, source: SourceModule) -> None:
        self.source = source
        self.references: list[Reference] = []
        self.star_modules: list[str] = []
        self.module = _Scope()
        self.scopes = [self.module]
        self.owner: tuple[str, ...] = ()
        self.visitors: dict[type[ast.AST], Callable[..., None]] = {
            ast.Name: self.visit_name,
            ast.Attribute: self.visit_attribute,
            ast.Import: self.visit_import,
            ast.ImportFrom: self.visit_import_from,
            ast.ClassDef: self.visit_class,
            ast.Lambda: self.visit_lambda,
            ast.Raise: self.visit_raise,
            ast.ExceptHandler: self.visit_handler,
            ast.Global: self.visit_elsewhere,
            ast.Nonlocal: self.visit_elsewhere,
            **dict.fromkeys(_FUNCTIONS, self.visit_function),
            **dict.fromkeys(_COMPREHENSIONS, self.visit_comprehension),
            **dict.fromkeys((ast.MatchAs, ast.MatchStar), self.visit_pattern),
        }

    def visit_module(self) -> None:
        self.visit_children(self.source.tree)
        module_name = self.source.name
        for load in self.module.loads:
            root, dot, attributes = load.name.partition(".")
            if root in self.module.definitions:
                full_name = f"{module_name}.{root}"
            elif root in self.module.imports:
                full_name = self.module.imports[root]
            elif root in self.module.bound:
                full_name = f"{module_name}.{root}"
            elif root in _BUILT_IN:
                full_name = f"builtins.{root}"
            else:
                continue
            self.references.append(load._replace(name=full_name + dot + attributes))

    def visit(self, node: ast.AST) -> None:
        self.visitors.get(node.__class__, self.visit_children)(node)

    def visit_children(self, node: ast.AST) -> None:
        for name in node._fields:
            child = getattr(node, name, None)
            if isinstance(child, list):
                for member in child:
                    if isinstance(member, ast.AST):
                        self.visit(member)
            elif isinstance(child, ast.AST):
                self.visit(child)

    def visit_name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.load(node.id, "use", node)
        else:
            self.scopes[-1].bound.add(node.id)

    def visit_attribute(self, node: ast.Attribute) -> None:
        name = _dotted(node)
        if name is None:
            self.visit(node.value)
        else:
            self.load(name, "use", node)

    def visit_import(self, node: ast.Import) -> None:
        for alias in node.names:
            top = alias.name.partition(".")[0]
            self.scopes[-1].imports[alias.asname or top] = alias.name if alias.asname else top
            self.refer(alias.name, "import", node)

    def visit_import_from(self, node: ast.ImportFrom) -> None:
        origin = self.absolute(node)
        for alias in node.names:
            if alias.name == "*":
                self.star_modules.append(origin)
                self.refer(origin, "import", node)
            else:
                self.scopes[-1].imports[alias.asname or alias.name] = f"{origin}.{alias.name}"
                self.refer(f"{origin}.{alias.name}", "import", node)

    def absolute(self, node: ast.ImportFrom) -> str:
        names = self.source.name.split(".")
        depth = len(names) - node.level + self.source.is_package if node.level else 0
        return ".".join([*names[:depth], *([node.module] if node.module else [])])

    def visit_class(self, node: ast.ClassDef) -> None:
        self.scopes[-1].definitions.add(node.name)
        with self.inside(node.name):  # a head says something of the class, not of where it stands
            for decorator in node.decorator_list:
                self.visit_as("decorator", decorator)
            for base in node.bases:
                self.visit_as("base", base)
            for keyword in node.keywords:
                self.visit(keyword)
            with self.scope(is_class=True):
                for statement in node.body:
                    self.visit(statement)

    def visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.scopes[-1].definitions.add(node.name)
        with self.inside(node.name):
            for decorator in node.decorator_list:
                self.visit_as("decorator", decorator)
            self.visit_children(node.args)  # defaults and annotations belong to the scope outside
            if node.returns is not None:
                self.visit(node.returns)
            with self.scope():
                self.bind_arguments(node.args)
                for statement in node.body:
                    self.visit(statement)

    def visit_lambda(self, node: ast.Lambda) -> None:
        self.visit_children(node.args)
        with self.scope():
            self.bind_arguments(node.args)
            self.visit(node.body)

    def visit_comprehension(self, node: ast.AST) -> None:
        with self.scope():
            self.visit_children(node)

    def visit_raise(self, node: ast.Raise) -> None:
        if node.exc is not None:
            self.visit_as("raise", node.exc)
        if node.cause is not None:
            self.visit(node.cause)

    def visit_handler(self, node: ast.ExceptHandler) -> None:
        for exception in node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]:
            if exception is not None:
                self.visit_as("catch", exception)
        if node.name is not None:
            self.scopes[-1].bound.add(node.name)
        for statement in node.body:
            self.visit(statement)

    def visit_elsewhere(self, node: ast.Global | ast.Nonlocal) -> None:
        self.scopes[-1].elsewhere.update(node.names)
        if isinstance(node, ast.Global):
            self.module.bound.update(node.names)

    def visit_pattern(self, node: ast.MatchAs | ast.MatchStar) -> None:
        if node.name is not None:
            self.scopes[-1].bound.add(node.name)
        self.visit_children(node)

    def visit_as(self, role: Role, node: ast.expr) -> None:
        """Visits a name, or a call of one, as something better than a use."""
        head = node
        if isinstance(node, ast.Call) and role in ("raise", "decorator"):
            head = node.func
        elif isinstance(node, ast.Subscript) and role == "base":  # Generic[T]
            head = node.value
        name = _dotted(head)
        if name is None:
            self.visit(node)
            return
        self.load(name, role, head)
        if isinstance(node, ast.Call):
            for argument in [*node.args, *node.keywords]:
                self.visit(argument)
        elif isinstance(node, ast.Subscript):
            self.visit(node.slice)

    def bind_arguments(self, arguments: ast.arguments) -> None:
        single = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
        named_arguments = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *single]
        self.scopes[-1].bound.update(argument.arg for argument in named_arguments)

    def load(self, name: str, role: Role, node: ast.expr) -> None:
        self.scopes[-1].loads.append(Reference(node.lineno, node.col_offset, role, name, self.owner))

    def refer(self, name: str, role: Role, node: ast.stmt) -> None:
        self.references.append(Reference(node.lineno, node.col_offset, role, name, self.owner))

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        self.owner = (*self.owner, name)
        yield
        self.owner = self.owner[:-1]

    @contextmanager
    def scope(self, *, is_class: bool = False) -> Iterator[None]:
        scope = _Scope(is_class)
        self.scopes.append(scope)
        yield
        self.scopes.pop()
        outside = next(outer for outer in reversed(self.scopes) if not outer.is_class)
        local_names = (scope.bound | scope.definitions | scope.imports.keys()) - scope.elsewhere
        for load in scope.loads:
            root, dot, attributes = load.name.partition(".")
            if root not in local_names:
                outside.loads.append(load)
            elif root in scope.imports:
                self.references.append(load._replace(name=scope.imports[root] + dot + attributes))


def _dotted(node: ast.expr) -> str | None:
    """``a.b.c`` of a chain of attributes that starts at a name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([node.id, *reversed(names)])
