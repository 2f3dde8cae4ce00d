"""Graded pairs of docstring summaries, graded by how near their qualified names are."""

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
from lightning_normdyn.datasets.standard_library.summaries import split_summary, words_of

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
    pairs_by_split: dict[str, GradedPairs] = {}
    for split in SPLITS:
        split_texts = {
            text: definition for text, definition in texts.items() if splits[_package_of(definition)] == split
        }
        pairs_by_split[split] = _balanced_pairs(split_texts, PAIRS_PER_GRADE[split])
    return pairs_by_split


def _texts(library: Library) -> dict[str, Definition]:
    by_words: dict[tuple[str, ...], tuple[str, Definition]] = {}
    for _, definition in sorted(library.definitions.items()):
        summary = split_summary(definition.docstring).summary
        words = words_of(summary)
        if len(words) >= MIN_WORDS:
            by_words.setdefault(words, (summary, definition))
    return dict(by_words.values())


def _class_of(definition: Definition) -> tuple[str, ...] | None:
    if definition.kind == "class":
        return definition.path
    return definition.path[:-1] or None


def _package_of(definition: Definition) -> str:
    return definition.module.partition(".")[0]


def _balanced_pairs(texts: dict[str, Definition], per_grade: int) -> GradedPairs:
    pools = {
        5.0: _pool(texts, lambda definition: (definition.module, _class_of(definition))),
        4.0: _pool(texts, lambda definition: definition.module),
        2.0: _pool(texts, _package_of),
        0.0: _pool(texts, lambda _: None),
    }
    pairs_by_grade = {pool_grade: _draw(texts, pool, pool_grade, per_grade) for pool_grade, pool in pools.items()}
    fewest = min(map(len, pairs_by_grade.values()))
    pairs = [(*pair, pool_grade) for pool_grade, grade_pairs in pairs_by_grade.items() for pair in grade_pairs[:fewest]]
    return GradedPairs(
        [first for first, _, _ in pairs],
        [second for _, second, _ in pairs],
        torch.tensor([pool_grade for _, _, pool_grade in pairs], dtype=torch.float32),
    )


def _pool(texts: dict[str, Definition], key: Callable[[Definition], object]) -> dict[str, Sequence[str]]:
    """Text to the texts that share its key, among which its partners of one grade are."""
    members: defaultdict[object, list[str]] = defaultdict(list)
    for text, definition in texts.items():
        members[key(definition)].append(text)
    return {text: members[key(definition)] for text, definition in texts.items()}


def _draw(
    texts: dict[str, Definition], pool: dict[str, Sequence[str]], pool_grade: float, number: int
) -> list[tuple[str, str]]:
    """Deals partners of one grade, round after round over all texts, so that no text is in much more than its share."""
    generator = random.Random(f"name_relatedness {pool_grade}")
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    for _ in range(10):
        for text in in_digest_order(texts):
            partner = generator.choice(pool[text])
            if partner != text and grade(texts[text], texts[partner]) == pool_grade:
                pairs.setdefault(frozenset((text, partner)), (text, partner))
            if len(pairs) == number:
                return list(pairs.values())
    return list(pairs.values())
