"""Knowledge graphs as files of triples, as in ConvE's repository (arXiv 1707.01476)."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from lightning_normdyn.core.object_checks import check_path
from lightning_normdyn.datasets.formats.triple_rows import Order, TripleRow, read_triple_rows
from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.folder import find_file, find_splits
from lightning_normdyn.datasets.reading.lines import File
from lightning_normdyn.datasets.records import KnowledgeGraph

_ENDINGS = (".txt", ".tsv", ".csv", ".nt")


def read_triples(folder: File, *, order: Order = "hrt") -> KnowledgeGraph:
    """Reads ``train``, ``valid`` and ``test`` files of head, relation and tail.

    Files end in ``.txt``, ``.tsv`` or ``.csv``, plain or ``.gz``, with columns parted by tabs, commas or spaces; a
    first row with names such as ``head``, ``relation``, ``tail`` may put them into another order. Columns behind the
    third (times of ICEWS, scores of NELL) are left out and reported. ``.nt`` files are N-Triples, and
    ``train2id.txt`` and its kin are OpenKE's numbers, with the names of ``entity2id.txt`` and ``relation2id.txt``
    where those are there. Entities and relations are numbered as they first come, training first. Facts are kept as
    they are; counted and reported are those that repeat, those of evaluation that training has too, and those of
    evaluation with an entity or a relation that training lacks.

    Args:
        folder: of the files; all but ``train`` may be missing.
        order: of the columns where none are named: ``hrt``, or ``htr`` for head, tail, relation.

    Raises:
        MalformedFileError: if a file does not hold what it should.
        ValueError: if there is no such order.
    """
    check_path("folder", folder=folder)
    if order not in get_args(Order):
        raise ValueError(f"order: expected one of {', '.join(get_args(Order))}, got {order!r}")
    has_numbers_alone = not any(find_file(folder, f"train{ending}") for ending in _ENDINGS)
    endings = ("2id.txt",) if has_numbers_alone and find_file(folder, "train2id.txt") else _ENDINGS
    files = find_splits(folder, endings=endings)
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
        triples[split] = _number(read_triple_rows(file, order, problems), file, entities, relations)
        facts = [tuple(fact) for fact in triples[split].tolist()]
        if split == "train":
            train_counts = len(entities), len(relations)
            train_facts = set(facts)
        _count(facts, file.name, problems, train_facts if split != "train" else set(), train_counts)
    problems.report()
    return KnowledgeGraph(list(entities), list(relations), triples)


def _number(rows: Iterable[TripleRow], file: Path, entities: dict[str, int], relations: dict[str, int]) -> Tensor:
    numbers = array("q")
    for head, relation, tail in rows:
        numbers.append(entities.setdefault(head, len(entities)))
        numbers.append(relations.setdefault(relation, len(relations)))
        numbers.append(entities.setdefault(tail, len(entities)))
    if not numbers:
        raise MalformedFileError(file, None, "triples", "none")
    return torch.frombuffer(numbers, dtype=torch.int64).view(-1, 3)


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
