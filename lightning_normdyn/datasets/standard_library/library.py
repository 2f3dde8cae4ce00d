"""The parsed standard library: definitions, references and the resolution of re-exported names."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from lightning_normdyn.datasets.standard_library.definitions import Definition, definitions_of
from lightning_normdyn.datasets.standard_library.scopes import ModuleNames, names_of
from lightning_normdyn.datasets.standard_library.sources import collector_paused, library_modules


@dataclass(frozen=True)
class Library:
    """Modules, definitions and references, all in the order of module names.

    Attributes:
        modules: qualified name to the names of each module.
        definitions: qualified name to each module, class and function.
        known_modules: modules without Python sources (``sys``, ``zlib``), beside the former.
    """

    modules: Mapping[str, ModuleNames]
    definitions: Mapping[str, Definition]
    known_modules: frozenset[str]

    def module_of(self, name: str) -> str | None:
        """The longest beginning of a qualified name that is a module."""
        names = name.split(".")
        beginnings = (".".join(names[:length]) for length in range(len(names), 0, -1))
        return next((start for start in beginnings if start in self.modules or start in self.known_modules), None)

    def home_of(self, name: str) -> str:
        """Follows imports to where a name is defined: ``asyncio.Future`` lives in ``asyncio.futures.Future``.

        A name that leads out of what was read comes back as far as it could be followed.
        """
        visited_names: set[str] = set()
        while name not in visited_names:
            visited_names.add(name)
            module = self.module_of(name)
            if module is None or module not in self.modules or name == module:
                break
            first, *inner_names = name[len(module) + 1 :].split(".")
            if f"{module}.{first}" in self.definitions:
                break
            origin = self._imported(module, first)
            if origin is not None:
                name = ".".join([origin, *inner_names])
        return name

    def _imported(self, module: str, name: str) -> str | None:
        names = self.modules[module]
        if name in names.imports:
            return names.imports[name]
        candidates = (f"{origin}.{name}" for origin in names.star_modules if origin in self.modules)
        return next((candidate for candidate in candidates if self._leads_somewhere(candidate)), None)

    def _leads_somewhere(self, name: str) -> bool:
        module, _, last = name.rpartition(".")
        return name in self.definitions or last in self.modules[module].imports


def read_library(folder: str | os.PathLike[str] | None = None) -> Library:
    """Reads a folder of sources, by default the standard library of the running Python, without importing them.

    The last library read is kept, since several sets are made of it.

    Args:
        folder: the sources; by default those of the running Python.

    Raises:
        FileNotFoundError: if nothing there can be parsed.
    """
    return _read(None if folder is None else os.fspath(folder))


@lru_cache(maxsize=1)
def _read(folder: str | None) -> Library:
    modules: dict[str, ModuleNames] = {}
    definitions: dict[str, Definition] = {}
    with collector_paused():
        for source in library_modules(folder):
            modules[source.name] = names_of(source)
            definitions.update((definition.qualified_name, definition) for definition in definitions_of(source))
    return Library(modules, definitions, frozenset({*sys.stdlib_module_names, "os.path"}))
