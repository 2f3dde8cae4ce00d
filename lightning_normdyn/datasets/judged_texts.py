"""Texts, queries after them, and judgements: what retrieval trains on and is measured by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lightning_normdyn.datasets.judgements import Judgements


@dataclass(frozen=True)
class Texts:
    """Texts and the ids they go by, in one order; a sequence may lie on disk.

    Attributes:
        ids: distinct, as the source spells them.
        texts: the same number of texts.
    """

    ids: Sequence[str]
    texts: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class JudgedTexts:
    """A retrieval set.

    Attributes:
        documents: what is searched.
        queries: of all splits.
        judgements: split (``train``, ``validation``, ``test``) to its pairs; a split's queries are those it judges.
        covariates: name to one number a document, for tables of what norms go along with.
        answers: position of a query to the answers that count as right, where the source knows any.
        excluded: split to pairs that a ranking must leave out, neither right nor wrong.
    """

    documents: Texts
    queries: Texts
    judgements: Mapping[str, Judgements]
    covariates: Mapping[str, Sequence[float]] = field(default_factory=dict)
    answers: Mapping[int, Sequence[str]] = field(default_factory=dict)
    excluded: Mapping[str, Judgements] = field(default_factory=dict)
