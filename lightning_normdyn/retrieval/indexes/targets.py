"""``TARGETS``: the kinds of index that ``export`` writes, by name, collected from the modules of this folder.

A module that declares ``TARGETS``, a dictionary of names and :class:`~.writer.IndexTarget` records, adds its targets to
the table: a new index is one new file.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from lightning_normdyn.retrieval.indexes.writer import Destination, IndexTarget, IndexWriter


def _declared_targets() -> Iterator[tuple[str, IndexTarget]]:
    package, _, own_name = __name__.rpartition(".")
    for module in iter_modules(import_module(package).__path__):
        if module.name != own_name:
            yield from getattr(import_module(f"{package}.{module.name}"), "TARGETS", {}).items()


TARGETS: dict[str, IndexTarget] = dict(
    sorted(_declared_targets(), key=lambda item: (item[1].feed is not None, item[1].extra is not None, item[0]))
)
"""Name to target: plain files first, then what needs a package, then feeds for servers."""


def index_writer(target: str, destination: Destination) -> IndexWriter:
    """The writer of a target.

    Raises:
        ValueError: if there is no such target, or it cannot be what the destination says.
        ModuleNotFoundError: if its package is not installed.
    """
    if target not in TARGETS:
        raise ValueError(f"target: expected one of {', '.join(TARGETS)}, got {target!r}")
    return TARGETS[target].writer(destination)
