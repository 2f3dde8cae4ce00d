"""Retrieval set of the standard library: find the body of a docstring by its summary sentence."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from lightning_normdyn.datasets.judgements import Judgements
from lightning_normdyn.datasets.records import JudgedTexts, Texts
from lightning_normdyn.datasets.standard_library.definitions import Definition
from lightning_normdyn.datasets.standard_library.library import Library, read_library
from lightning_normdyn.datasets.standard_library.splits import SPLITS, split_groups
from lightning_normdyn.datasets.standard_library.summaries import split_summary, words_of

MIN_WORDS = 3
"""A summary or a body of fewer words says nothing to be found by."""


class _Pair(NamedTuple):
    definition: Definition
    summary: str
    body: str


def docstring_retrieval(folder: str | os.PathLike[str] | None = None) -> JudgedTexts:
    """Makes a retrieval set of the standard library's docstrings.

    A query is the first sentence of a docstring, its one relevant document the signature and the rest of the docstring.
    Docstrings without a rest, and those whose summary or rest has fewer than three words, are left out; of pairs whose
    summaries, or whose rests, have the same words, the first in the order of qualified names is kept. All documents are
    searched in every split; the splits part the modules, so that no module is both trained on and asked about.

    Queries and documents play different parts (short and general against long and particular), so the task is not
    functionally symmetric. The covariate ``depth``, the number of names in the qualified name, is how specific a
    document is: a module speaks of much, a method of little. ``length`` is the number of its words.

    On CPython 3.11: 2,838 pairs, 2,272 / 283 / 283 in training, validation and test; depth 1 to 5, median lengths of 8
    words (queries) and 34 (documents).

    Args:
        folder: the sources; by default the standard library of the running Python.

    Raises:
        FileNotFoundError: if there are no sources to read.
    """
    pairs = list(_pairs(read_library(folder)))
    splits = split_groups(Counter(pair.definition.module for pair in pairs))
    names = [pair.definition.qualified_name for pair in pairs]
    return JudgedTexts(
        documents=Texts(names, [pair.body for pair in pairs]),
        queries=Texts([f"{name}:summary" for name in names], [pair.summary for pair in pairs]),
        judgements={
            split: Judgements.of(
                (place, place, 1.0) for place, pair in enumerate(pairs) if splits[pair.definition.module] == split
            )
            for split in SPLITS
        },
        covariates={
            "depth": [float(pair.definition.depth) for pair in pairs],
            "length": [float(len(words_of(pair.body))) for pair in pairs],
        },
    )


def _pairs(library: Library) -> Iterator[_Pair]:
    summaries: set[tuple[str, ...]] = set()
    bodies: set[tuple[str, ...]] = set()
    for _, definition in sorted(library.definitions.items()):
        text = split_summary(definition.docstring)
        summary, body = words_of(text.summary), words_of(text.body)
        if min(len(summary), len(body)) < MIN_WORDS or summary in summaries or body in bodies:
            continue
        summaries.add(summary)
        bodies.add(body)
        yield _Pair(definition, text.summary, f"{definition.signature}\n{text.body}".strip())
