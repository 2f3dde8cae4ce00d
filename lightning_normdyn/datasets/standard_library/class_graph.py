"""Knowledge graph of the standard library: relations between its classes, functions and modules."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_normdyn.datasets.records import KnowledgeGraph
from lightning_normdyn.datasets.standard_library.library import Library, read_library
from lightning_normdyn.datasets.standard_library.scopes import Reference
from lightning_normdyn.datasets.standard_library.splits import SPLITS, Split, in_digest_order

Fact = tuple[str, str, str]
MIN_FACTS = 3
"""An entity in fewer facts is left out, until none is left in fewer."""
_ROLES = {
    "base": "subclass_of",
    "decorator": "decorated_with",
    "raise": "raises",
    "catch": "catches",
    "import": "imports",
    "use": "uses",
}


def class_graph(folder: str | os.PathLike[str] | None = None) -> KnowledgeGraph:
    """Makes a knowledge graph of the standard library's sources.

    Entities are modules, and classes and functions at the top of a module, by qualified name; built-in classes and
    functions, and names from modules written in C, as ``builtins.ValueError`` and ``zlib.error``; and names of methods,
    ``.close``, each one entity for all classes that have a method of that name. The relations:

    - ``subclass_of``, ``decorated_with``: class or function to what its head names.
    - ``raises``, ``catches``: class (for all its methods), function or module to an exception that it names.
    - ``uses``: class or function to another class or function that it names anywhere else.
    - ``imports``: module to module, also of a name from it.
    - ``defines``: module to its own class or function.
    - ``contains``: package to module.
    - ``has_method``: class to the name of a method.

    Two entities with several facts between them, in either direction, have all of them in one split: no fact of the
    test is another's near-inverse in training, as it would be where a package ``contains`` what it ``imports``.
    Entities in fewer than three facts are left out. 10% of the facts are for validation and 10% for the test, chosen by
    a digest of the entities' names among those whose entities and relation stay known from training.

    Heads and tails are of different kinds, so the task is not functionally symmetric. How many facts an entity is in is
    how general it is: ``builtins.ValueError`` is in hundreds, a class in a handful.

    On CPython 3.11: 4,953 entities, 9 relations, 23,809 / 2,976 / 2,976 facts; ranking what stands most often in a
    relation first, whatever the question, has a filtered MRR of 0.18 for tails and 0.03 for heads.

    Args:
        folder: the sources; by default the standard library of the running Python.

    Raises:
        FileNotFoundError: if there are no sources to read.
    """
    facts = _well_connected(set(facts_of(read_library(folder))))
    entities = sorted({entity for head, _, tail in facts for entity in (head, tail)})
    relations = sorted({relation for _, relation, _ in facts})
    numbers = {name: number for names in (entities, relations) for number, name in enumerate(names)}
    splits = _split(facts)

    def numbered(split: Split) -> Tensor:
        rows = [[numbers[name] for name in fact] for fact in facts if splits[fact] == split]
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)

    return KnowledgeGraph(entities, relations, {split: numbered(split) for split in SPLITS})


def facts_of(library: Library) -> Iterator[Fact]:
    """All facts of a library, ``(head, relation, tail)``, some more than once."""
    for name, definition in library.definitions.items():
        if definition.kind == "module":
            package = name.rpartition(".")[0]
            if package in library.modules:
                yield package, "contains", name
        elif len(definition.path) == 1:
            yield definition.module, "defines", name
        elif len(definition.path) == 2 and definition.kind == "function":
            parent = f"{definition.module}.{definition.path[0]}"
            if library.definitions[parent].kind == "class":
                yield parent, "has_method", f".{definition.path[-1]}"
    for module, names in library.modules.items():
        for reference in names.references:
            yield from _fact_of(library, module, reference)


def _fact_of(library: Library, module: str, reference: Reference) -> Iterator[Fact]:
    head = ".".join([module, *reference.owner[:1]])
    if reference.role == "import":
        tail = library.module_of(reference.name)
        head = module
    else:
        tail = _entity(library, reference.name)
        if reference.role in ("base", "decorator") and len(reference.owner) != 1:
            return  # of something nested, which is no entity
        if reference.role == "use" and not reference.owner:
            return
    if tail is not None and tail != head:
        is_function = tail in library.definitions and library.definitions[tail].kind == "function"
        made_by_it = is_function and reference.role in ("base", "raise", "catch")  # `raise error_of(line)`
        yield head, "uses" if made_by_it else _ROLES[reference.role], tail


def _entity(library: Library, name: str) -> str | None:
    """The class or function at the top of a module that a name leads to, if it leads to one."""
    home = library.home_of(name)
    module = library.module_of(home)
    if module is None or home == module:
        return None
    entity = f"{module}.{home[len(module) + 1 :].partition('.')[0]}"
    return entity if entity in library.definitions or module not in library.modules else None


def _well_connected(facts: set[Fact]) -> list[Fact]:
    while True:
        degrees = Counter(entity for head, _, tail in facts for entity in (head, tail))
        core_facts = {fact for fact in facts if min(degrees[fact[0]], degrees[fact[2]]) >= MIN_FACTS}
        if len(core_facts) == len(facts):
            return sorted(core_facts)
        facts = core_facts


def _split(facts: list[Fact]) -> dict[Fact, Split]:
    by_pair: defaultdict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_pair[" ".join(sorted((fact[0], fact[2])))].append(fact)
    remaining = Counter(name for fact in facts for name in _parts(fact))
    room: dict[Split, int] = dict.fromkeys(("test", "validation"), len(facts) // 10)
    splits: dict[Fact, Split] = dict.fromkeys(facts, "train")
    for pair in in_digest_order(by_pair):
        members = by_pair[pair]
        split = next((name for name, left in room.items() if len(members) <= left), None)
        losses = Counter(name for fact in members for name in _parts(fact))
        if split is None or any(remaining[name] <= number for name, number in losses.items()):
            continue
        remaining.subtract(losses)  # `-=` would go through all of it, each time
        room[split] -= len(members)
        splits.update(dict.fromkeys(members, split))
    return splits


def _parts(fact: Fact) -> tuple[tuple[str, str], ...]:
    head, relation, tail = fact
    return ("entity", head), ("relation", relation), ("entity", tail)
