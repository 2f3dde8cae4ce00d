"""Writes a page of the API reference for every package with an ``__all__``, so that no public name is left out."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from sphinx.application import Sphinx

ROOT = "lightning_normdyn"
FRAMEWORK_MODULES = ["lightning_normdyn.integrations.hugging_face"]
"""Public modules of packages that load no framework themselves and so export nothing."""


class PublicPackage(NamedTuple):
    """A package or module whose names the reference shows.

    Attributes:
        name: dotted name.
        module: what was imported.
        names: public names, sorted.
    """

    name: str
    module: ModuleType
    names: list[str]


FIELD_TYPE = type(PublicPackage.names)
"""The descriptor of a named tuple's field."""


def public_packages() -> list[PublicPackage]:
    """Every package below the root that declares ``__all__``, the root first."""
    dotted = [ROOT, *(info.name for info in _subpackages()), *FRAMEWORK_MODULES]
    modules = [(name, importlib.import_module(name)) for name in dotted]
    return [PublicPackage(name, module, _public_names(module)) for name, module in modules if _public_names(module)]


def page_of(package: PublicPackage, homes: dict[int, str]) -> str:
    """The page of one package: what is defined there, and what is exported there a second time."""
    title = f"``{package.name}``"
    lines = [title, "=" * len(title), "", *inspect.cleandoc(package.module.__doc__ or "").split("\n"), ""]
    lines += [f".. currentmodule:: {package.name}", ""]
    for name in package.names:
        member = getattr(package.module, name)
        home = homes[id(member)]
        lines += _entry(package.name, name, member) if home == package.name else _second_entry(name, home)
    return "\n".join(lines) + "\n"


def homes_of(packages: list[PublicPackage]) -> dict[int, str]:
    """The package under which each object is described, by the object's identity: the first below the root."""
    homes: dict[int, str] = {}
    for package in [*packages[1:], packages[0]]:
        for name in package.names:
            homes.setdefault(id(getattr(package.module, name)), package.name)
    return homes


def write_pages(app: Sphinx) -> None:
    """Writes ``api/<package>.rst`` for every public package and the list of them."""
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    packages = public_packages()
    homes = homes_of(packages)
    pages = {f"{package.name}.rst": page_of(package, homes) for package in packages}
    pages["index.rst"] = _index(packages)
    for stale in {path.name for path in folder.glob("*.rst")} - set(pages):
        (folder / stale).unlink()
    for name, text in pages.items():
        page = folder / name
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def skip_fields(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the fields of named tuples, which the class's own Attributes describe."""
    del app, what, name, options
    return True if isinstance(member, FIELD_TYPE) else None if not skip else True


def setup(app: Sphinx) -> dict[str, bool]:
    """Hooks the pages into the build."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-skip-member", skip_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _subpackages() -> Iterator[pkgutil.ModuleInfo]:
    root = importlib.import_module(ROOT)
    return (info for info in pkgutil.walk_packages(root.__path__, f"{ROOT}.") if info.ispkg)


def _public_names(module: ModuleType) -> list[str]:
    if module.__name__ in FRAMEWORK_MODULES:
        return sorted(
            name
            for name, member in vars(module).items()
            if inspect.isclass(member) and member.__module__ == module.__name__ and not name.startswith("_")
        )
    return sorted(getattr(module, "__all__", []))


def _entry(package: str, name: str, member: Any) -> list[str]:
    if inspect.isclass(member):
        return [f".. autoclass:: {package}.{name}", "   :members:", ""]
    if callable(member):
        return [f".. autofunction:: {package}.{name}", ""]
    return [f".. py:data:: {package}.{name}", "", f"   {_value(member)}", ""]


def _value(member: Any) -> str:
    """What a constant is, in a line."""
    if isinstance(member, dict):
        return "A table of " + ", ".join(f"``{key}``" for key in member) + "."
    text = repr(member)
    return f"``{text}``" if len(text.splitlines()) == 1 else f"A ``{type(member).__module__}.{type(member).__name__}``."


def _second_entry(name: str, home: str) -> list[str]:
    return [f"``{name}``", f"   Described at :py:obj:`{home}.{name}`.", ""]


def _index(packages: list[PublicPackage]) -> str:
    title = "API reference"
    lead = "Every public name, by the package that people import it from. Made from the docstrings."
    entries = "\n".join(f"   {package.name}" for package in packages)
    return f"{title}\n{'=' * len(title)}\n\n{lead}\n\n.. toctree::\n   :maxdepth: 1\n\n{entries}\n"
