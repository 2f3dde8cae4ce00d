"""What a docstring lists under ``Args`` are parameters that there are, and what a record lists are its fields."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import lightning_normdyn

PACKAGE = Path(lightning_normdyn.__file__).parent
SECTION = re.compile(r"^Args:\n((?:    .*\n?|\n)+)", re.M)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def listed_arguments(documented: ast.ClassDef | Function) -> list[str]:
    """The names under ``Args``; ``*`` and ``**`` may be left out."""
    section = SECTION.search(ast.get_docstring(documented) or "")
    return re.findall(r"^    \*{0,2}(\w+):", section[1], re.M) if section else []


def parameters(function: Function) -> set[str]:
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return {argument.arg for argument in every if argument is not None}


def possible_arguments(documented: ast.ClassDef | Function) -> set[str] | None:
    """The parameters, of a class those of its constructor or its fields; ``None`` where it inherits or passes on."""
    if isinstance(documented, Function):
        return None if documented.args.kwarg else parameters(documented)
    for node in documented.body:
        if isinstance(node, Function) and node.name in ("__init__", "__new__"):
            return None if node.args.kwarg else parameters(node)
    fields = {
        node.target.id
        for node in documented.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return fields or None


def mistakes(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | Function):
            possible = possible_arguments(node)
            if possible is not None:
                yield from (f"{node.name}: {name}" for name in listed_arguments(node) if name not in possible)


def test_arguments_in_docstrings_are_parameters() -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    assert [f"{path.name}: {mistake}" for path, source in sources.items() for mistake in mistakes(source)] == []


def test_the_comparison_sees_a_renamed_parameter() -> None:
    source = 'class A:\n    """A.\n\n    Args:\n        old: x.\n    """\n    def __init__(self, new): ...\n'
    assert list(mistakes(source)) == ["A: old"]
    assert list(mistakes(source.replace("new", "old"))) == []


def test_most_of_the_package_is_compared() -> None:
    nodes = [node for path in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    documented = [node for node in nodes if isinstance(node, ast.ClassDef | Function) and listed_arguments(node)]
    compared = [node for node in documented if possible_arguments(node) is not None]
    assert len(compared) > 400
