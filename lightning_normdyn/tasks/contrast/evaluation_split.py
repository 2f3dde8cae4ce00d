"""What a task is evaluated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_normdyn.datasets import Judgements


@dataclass(frozen=True)
class EvaluationSplit:
    """Two sides that are encoded apart, and what is known about their pairs.

    Attributes:
        queries: inputs of the query encoder, one for each query.
        documents: inputs of the document encoder.
        judgements: pairs of positions in the two.
        excluded: pairs that no ranking may show.
        popularity: how often training has each document, ``[m]``, where that is of interest.
        answers: of each query, what counts as right, where the task has an answer to be put in words.
        query_ids: of each query, distinct, where the source has any.
        document_ids: the same of documents.
    """

    queries: Sequence[Any]
    documents: Sequence[Any]
    judgements: Judgements
    excluded: Judgements | None = None
    popularity: Tensor | None = None
    answers: Sequence[Sequence[str]] | None = None
    query_ids: Sequence[str] | None = None
    document_ids: Sequence[str] | None = None

    def seen(self, queries: Tensor, documents: Tensor) -> EvaluationSplit:
        """What is left when only some inputs were encoded.

        Args:
            queries: which of the queries were, bool ``[n]``.
            documents: which of the documents were, bool ``[m]``.
        """
        asked, found = (seen.nonzero().flatten().tolist() for seen in (queries, documents))
        return EvaluationSplit(
            [self.queries[place] for place in asked],
            [self.documents[place] for place in found],
            _seen(self.judgements, queries, documents),
            None if self.excluded is None else _seen(self.excluded, queries, documents),
            None if self.popularity is None else self.popularity[documents],
            None if self.answers is None else [self.answers[place] for place in asked],
            None if self.query_ids is None else [self.query_ids[place] for place in asked],
            None if self.document_ids is None else [self.document_ids[place] for place in found],
        )


def _seen(judged: Judgements, queries: Tensor, documents: Tensor) -> Judgements:
    both = queries[judged.queries] & documents[judged.documents]
    places = [seen.cumsum(0) - 1 for seen in (queries, documents)]
    return Judgements(places[0][judged.queries[both]], places[1][judged.documents[both]], judged.grades[both])
