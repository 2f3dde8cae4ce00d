"""Similarity without download: how alike two docstring summaries are, told by how near their names are."""

from __future__ import annotations

import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import torch

from lightning_normdyn.datasets.records import GradedPairs
from lightning_normdyn.datasets.standard_library.definitions import Definition
from lightning_normdyn.datasets.standard_library.library import Library, read_library
from lightning_normdyn.datasets.standard_library.splits import SPLITS, Split, in_digest_order, split_groups
from lightning_normdyn.datasets.standard_library.summaries import part, words_of

MIN_WORDS = 3
PAIRS_PER_GRADE: dict[Split, int] = {"train": 1500, "validation": 150, "test": 300}
"""At most; a split whose packages have fewer pairs of one grade has fewer of every grade."""


def grade(first: Definition, second: Definition) -> float:
    """How near two names are.

    5 within one class (the class itself included), 4 within one module, 2 within one top-level package, else 0.
    """
    if first.module == second.module:
        return 5.0 if _class_of(first) is not None and _class_of(first) == _class_of(second) else 4.0
    return 2.0 if _package_of(first) == _package_of(second) else 0.0


def name_relatedness(folder: str | os.PathLike[str] | None = None) -> dict[str, GradedPairs]:
    """Makes a similarity set of the standard library's docstrings.

    The texts are first sentences of docstrings, those of the same words once (the first in the order of qualified
    names) and those of fewer than three words never. The grade is the nearness of the qualified names, see `grade`.
    Each split has as many pairs of one grade as of another, no pair twice; the splits part the top-level packages, so
    that neither text of a pair is in two splits.

    Both texts of a pair are of one kind and may be exchanged: the task is functionally symmetric, and length has
    nothing to say about the grade.

    On CPython 3.11: 6,000 / 600 / 1,200 pairs of 3,683 / 584 / 784 texts.

    Args:
        folder: the sources; by default the standard library of the running Python.

    Raises:
        FileNotFoundError: if there are no sources to read.

    Returns:
        ``train``, ``validation`` and ``test``.
    """
    texts = _texts(read_library(folder))
    splits = split_groups(Counter(_package_of(definition) for definition in texts.values()), share=0.15)
    made: dict[str, GradedPairs] = {}
    for split in SPLITS:
        own = {text: definition for text, definition in texts.items() if splits[_package_of(definition)] == split}
        made[split] = _balanced_pairs(own, PAIRS_PER_GRADE[split])
    return made


def _texts(library: Library) -> dict[str, Definition]:
    chosen: dict[tuple[str, ...], tuple[str, Definition]] = {}
    for _, definition in sorted(library.definitions.items()):
        summary = part(definition.docstring).summary
        words = words_of(summary)
        if len(words) >= MIN_WORDS:
            chosen.setdefault(words, (summary, definition))
    return dict(chosen.values())


def _class_of(definition: Definition) -> tuple[str, ...] | None:
    if definition.kind == "class":
        return definition.path
    return definition.path[:-1] or None


def _package_of(definition: Definition) -> str:
    return definition.module.partition(".")[0]


def _balanced_pairs(texts: dict[str, Definition], per_grade: int) -> GradedPairs:
    pools = {
        5.0: _pool(texts, lambda found: (found.module, _class_of(found))),
        4.0: _pool(texts, lambda found: found.module),
        2.0: _pool(texts, _package_of),
        0.0: _pool(texts, lambda _: None),
    }
    drawn = {wanted: _draw(texts, pool, wanted, per_grade) for wanted, pool in pools.items()}
    fewest = min(map(len, drawn.values()))
    pairs = [(*pair, wanted) for wanted, found in drawn.items() for pair in found[:fewest]]
    return GradedPairs(
        [first for first, _, _ in pairs],
        [second for _, second, _ in pairs],
        torch.tensor([wanted for _, _, wanted in pairs], dtype=torch.float32),
    )


def _pool(texts: dict[str, Definition], key: Callable[[Definition], object]) -> dict[str, Sequence[str]]:
    """Text to the texts that share its key, among which its partners of one grade are."""
    members: defaultdict[object, list[str]] = defaultdict(list)
    for text, definition in texts.items():
        members[key(definition)].append(text)
    return {text: members[key(definition)] for text, definition in texts.items()}


def _draw(
    texts: dict[str, Definition], pool: dict[str, Sequence[str]], wanted: float, number: int
) -> list[tuple[str, str]]:
    """Deals partners of one grade, round after round over all texts, so that no text is in much more than its share."""
    chance = random.Random(f"name_relatedness {wanted}")
    drawn: dict[frozenset[str], tuple[str, str]] = {}
    for _ in range(10):
        for text in in_digest_order(texts):
            partner = chance.choice(pool[text])
            if partner != text and grade(texts[text], texts[partner]) == wanted:
                drawn.setdefault(frozenset((text, partner)), (text, partner))
            if len(drawn) == number:
                return list(drawn.values())
    return list(drawn.values())
