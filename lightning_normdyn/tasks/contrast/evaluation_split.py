"""The evaluation split of a task: inputs of both sides and the judgements between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_normdyn.core.object_checks import check_sequence, check_texts
from lightning_normdyn.core.tensor_checks import check_tensors
from lightning_normdyn.datasets import Judgements


@dataclass(frozen=True)
class EvaluationSplit:
    """Two sides that are encoded apart, and what is known about their pairs.

    Attributes:
        queries: inputs of the query encoder, one for each query.
        documents: inputs of the document encoder.
        judgements: pairs of positions in the two.
        excluded_pairs: pairs that no ranking may show.
        popularity: how often training has each document, ``[m]``, where that is of interest.
        answers: of each query, what counts as right, where the task has an answer to be put in words.
        query_ids: of each query, distinct, where the source has any.
        document_ids: the same of documents.
        in_training: whether training wants a document that the query wants, bool ``[n]``, where that is of interest.
    """

    queries: Sequence[Any]
    documents: Sequence[Any]
    judgements: Judgements
    excluded_pairs: Judgements | None = None
    popularity: Tensor | None = None
    answers: Sequence[Sequence[str]] | None = None
    query_ids: Sequence[str] | None = None
    document_ids: Sequence[str] | None = None
    in_training: Tensor | None = None

    def __post_init__(self) -> None:
        sides = {"queries": self.queries, "documents": self.documents}
        names = {"query_ids": self.query_ids, "document_ids": self.document_ids}
        check_sequence(**sides)
        Judgements.require(self.judgements).check(len(self.queries), len(self.documents))
        if self.excluded_pairs is not None:
            pairs = Judgements.require(self.excluded_pairs, "excluded_pairs")
            pairs.check(len(self.queries), len(self.documents), "excluded_pairs")
        check_texts(**{name: ids for name, ids in names.items() if ids is not None})
        if self.popularity is not None:
            check_tensors(popularity=self.popularity)
        if self.in_training is not None:
            check_tensors(in_training=self.in_training)
        if self.answers is not None:
            check_sequence(answers=self.answers)
        columns = (
            (
                len(self.queries),
                "queries",
                {"query_ids": self.query_ids, "answers": self.answers, "in_training": self.in_training},
            ),
            (len(self.documents), "documents", {"document_ids": self.document_ids, "popularity": self.popularity}),
        )
        for count, side, by_name in columns:
            for name, column in by_name.items():
                if column is not None and len(column) != count:
                    raise ValueError(f"{name}: expected one for each of the {count} {side}, got {len(column)}")

    def select(self, queries: Tensor, documents: Tensor) -> EvaluationSplit:
        """The part of the split whose inputs were encoded.

        Args:
            queries: which of the queries were, bool ``[n]``.
            documents: which of the documents were, bool ``[m]``.
        """
        query_places, document_places = (mask.nonzero().flatten().tolist() for mask in (queries, documents))
        return EvaluationSplit(
            [self.queries[place] for place in query_places],
            [self.documents[place] for place in document_places],
            _select_judgements(self.judgements, queries, documents),
            None if self.excluded_pairs is None else _select_judgements(self.excluded_pairs, queries, documents),
            None if self.popularity is None else self.popularity[documents],
            None if self.answers is None else [self.answers[place] for place in query_places],
            None if self.query_ids is None else [self.query_ids[place] for place in query_places],
            None if self.document_ids is None else [self.document_ids[place] for place in document_places],
            None if self.in_training is None else self.in_training[queries],
        )


def _select_judgements(judgements: Judgements, queries: Tensor, documents: Tensor) -> Judgements:
    has_both = queries[judgements.queries] & documents[judgements.documents]
    places = [mask.cumsum(0) - 1 for mask in (queries, documents)]
    return Judgements(
        places[0][judgements.queries[has_both]], places[1][judgements.documents[has_both]], judgements.grades[has_both]
    )
