"""References: a name in a source and where it comes from."""

from __future__ import annotations

from typing import Literal, NamedTuple

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
