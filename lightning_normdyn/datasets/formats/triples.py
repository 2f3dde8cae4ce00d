"""Knowledge graphs as files of triples, as in ConvE's repository (arXiv 1707.01476)."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lightning_normdyn.core.object_checks import check_path
from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.folder import find_splits
from lightning_normdyn.datasets.reading.lines import File
from lightning_normdyn.datasets.reading.rows import Row, check_width, read_rows
from lightning_normdyn.datasets.records import KnowledgeGraph

_HEADERS = ({"head", "subject", "source"}, {"relation", "predicate"}, {"tail", "object", "target"})


def read_triples(folder: File) -> KnowledgeGraph:
    """Reads ``train``, ``valid`` and ``test`` files of head, relation and tail, parted by tabs.

    Files end in ``.txt`` or ``.tsv``, plain or ``.gz``; a first row ``head, relation, tail`` names the columns.
    Entities and relations are numbered as they first come, training first. Facts are kept as they are; counted and
    reported are those that repeat, those of evaluation that training has too, and those of evaluation with an entity or
    a relation that training lacks.

    Args:
        folder: of the files; all but ``train`` may be missing.

    Raises:
        MalformedFileError: if a file does not hold what it should.
    """
    check_path("folder", folder=folder)
    files = find_splits(folder, endings=(".txt", ".tsv"))
    if "train" not in files:
        raise MalformedFileError(
            folder, None, "train.txt or train.tsv", ", ".join(file.name for file in files.values())
        )
    entities: dict[str, int] = {}
    relations: dict[str, int] = {}
    problems = Problems(folder)
    triples = {}
    train_facts: set[tuple[int, ...]] = set()
    train_counts = (0, 0)
    for split, file in files.items():
        triples[split] = _number(file, entities, relations)
        facts = [tuple(fact) for fact in triples[split].tolist()]
        if split == "train":
            train_counts = len(entities), len(relations)
            train_facts = set(facts)
        _count(facts, file.name, problems, train_facts if split != "train" else set(), train_counts)
    problems.report()
    return KnowledgeGraph(list(entities), list(relations), triples)


def _number(file: Path, entities: dict[str, int], relations: dict[str, int]) -> Tensor:
    numbers = array("q")
    for head, relation, tail in _read(file):
        numbers.append(entities.setdefault(head, len(entities)))
        numbers.append(relations.setdefault(relation, len(relations)))
        numbers.append(entities.setdefault(tail, len(entities)))
    if not numbers:
        raise MalformedFileError(file, None, "triples", "none")
    return torch.frombuffer(numbers, dtype=torch.int64).view(-1, 3)


def _read(file: Path) -> Iterator[list[str]]:
    for place, row in enumerate(read_rows(file, delimiter="\t")):
        check_width(file, row, 3)
        cells = [cell.strip() for cell in row.cells]
        if place == 0 and all(cell.lower() in names for cell, names in zip(cells, _HEADERS, strict=True)):
            continue
        _check_names(file, row, cells)
        yield cells


def _check_names(file: Path, row: Row, cells: list[str]) -> None:
    if not all(cells):
        raise MalformedFileError(file, row.line, "head, relation and tail", f"an empty name in {row.cells}")


def _count(
    facts: list[tuple[int, ...]],
    name: str,
    problems: Problems,
    train_facts: set[tuple[int, ...]],
    train_counts: tuple[int, int],
) -> None:
    earlier: set[tuple[int, ...]] = set()
    for number, fact in enumerate(facts, start=1):
        place = f"fact {number} of {name}"
        if fact in earlier:
            problems.count("repeated facts, kept", line=place)
        earlier.add(fact)
        if fact in train_facts:
            problems.count("facts of evaluation that training has too, kept", line=place)
        if max(fact[0], fact[2]) >= train_counts[0]:
            problems.count("facts of evaluation with an entity that training lacks, kept", line=place)
        if fact[1] >= train_counts[1]:
            problems.count("facts of evaluation with a relation that training lacks, kept", line=place)
