"""The embeddings of an earlier model, put into the order of the audited ones and compared with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.datasets import Judgements
from lightning_normdyn.datasets.embedding_file import EmbeddingFile, places_by_id
from lightning_normdyn.retrieval import sweep_alpha
from lightning_normdyn.retrieval.exponent.model_comparison import ModelComparison, compare_models


class EarlierFiles(NamedTuple):
    """Embeddings of the same items by another model, as the command's options name them.

    Attributes:
        documents: file of the documents.
        queries: file of the queries.
        column: of the embeddings.
    """

    documents: str
    queries: str
    column: str | None = None

    @classmethod
    def of(cls, documents: str | None, queries: str | None, column: str | None, *, judged: bool) -> EarlierFiles | None:
        """The files, if they are named.

        Args:
            documents: the option's value.
            queries: likewise.
            column: likewise.
            judged: whether the audited model has queries.

        Raises:
            ValueError: if one is named without the other, or nothing could be compared.
        """
        if documents is None and queries is None:
            return None
        if documents is None or queries is None:
            missing, named = ("before", "before-queries") if documents is None else ("before-queries", "before")
            raise ValueError(f"{named}: expected --{missing} beside it, the other side of the same model, got none")
        if not judged:
            raise ValueError(
                "before: expected queries and judgements, by which two models are compared, got none; pass --queries "
                "and --judgements"
            )
        return cls(documents, queries, column)


class AuditedSide(NamedTuple):
    """One side of the audited model.

    Attributes:
        ids: of its rows.
        vectors: ``[n, d]``, or the file that holds them.
    """

    ids: Sequence[str]
    vectors: Tensor | EmbeddingFile


def compare_with_earlier(
    files: EarlierFiles, documents: AuditedSide, queries: AuditedSide, judgements: Judgements, measure: str
) -> ModelComparison:
    """Compares the audited model with an earlier one.

    Args:
        files: of the earlier model; of another width perhaps.
        documents: of the audited model.
        queries: likewise.
        judgements: by position in both.
        measure: of rankings.

    Raises:
        ValueError: if the files do not hold the same items.
        OSError: if a file cannot be read.
    """
    earlier_documents = _in_order(files.documents, files.column, documents.ids)
    earlier_queries = _in_order(files.queries, files.column, queries.ids)
    if earlier_documents.shape[1] != earlier_queries.shape[1]:
        raise ValueError(
            f"before-queries: expected vectors of the length of --before, {earlier_documents.shape[1]}, got "
            f"{earlier_queries.shape[1]}; are both of one model?"
        )
    has_direction = (earlier_queries != 0).any(1) & (_tensor(queries.vectors) != 0).any(1)
    judgements = Judgements(*(column[has_direction[judgements.queries]] for column in judgements))
    sides = ((earlier_queries, earlier_documents), (_tensor(queries.vectors), _tensor(documents.vectors)))
    sweeps = [sweep_alpha(asked, searched, judgements, measure=measure) for asked, searched in sides]
    return compare_models(*sweeps)


def _tensor(vectors: Tensor | EmbeddingFile) -> Tensor:
    return vectors if isinstance(vectors, Tensor) else vectors.read_finite()


def _in_order(file: str, column: str | None, ids: Sequence[str]) -> Tensor:
    """All vectors of a file, by id where it has ids, else in its own order."""
    embeddings = EmbeddingFile(file, preferred_column=column)
    if embeddings.rows != len(ids):
        raise ValueError(f"{file}: expected {len(ids)} vectors, of the items that are audited, got {embeddings.rows}")
    vectors = embeddings.read_finite()
    if not embeddings.has_ids or list(embeddings.ids) == list(ids):
        return vectors
    places = places_by_id(embeddings.ids, file)
    missing = next((id for id in ids if id not in places), None)
    if missing is not None:
        raise ValueError(f"{file}: expected the ids of the items that are audited, got none for '{missing}'")
    return vectors[torch.tensor([places[id] for id in ids])]
