"""The queries of an audit and the judgements of which documents answer them, from a BEIR folder or from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.cli.audits.encoding import QUERIES, Encoding
from lightning_normdyn.cli.audits.items import AuditedItems, items_of
from lightning_normdyn.datasets import JudgedTexts, Judgements, Problems
from lightning_normdyn.datasets.embedding_file import EmbeddingFile, names_embeddings
from lightning_normdyn.datasets.formats.listed_texts import read_listed_texts
from lightning_normdyn.datasets.formats.qrels import read_qrels
from lightning_normdyn.retrieval.audit.ranking_audit import JudgedQueries, check_judged, without_zero_queries


class QueryRequest(NamedTuple):
    """Where queries and judgements come from, as the command's options have it.

    Attributes:
        queries: file of embeddings or of texts.
        judgements: file of query, document, grade.
        column: of the embeddings.
        beir: folder that holds all of it.
        split: of its judgements.
    """

    queries: str | None = None
    judgements: str | None = None
    column: str | None = None
    beir: str | None = None
    split: str | None = None


class GatheredQueries(NamedTuple):
    """Queries with the documents that answer them.

    Attributes:
        queries: as encoded, ``[n, d]``.
        judgements: by position in queries and documents.
        notes: what was left out.
        ids: of the queries.
    """

    queries: Tensor
    judgements: Judgements
    notes: list[str]
    ids: Sequence[str]


def gather_queries(
    request: QueryRequest,
    documents: Sequence[str],
    dim: int,
    *,
    encoding: Encoding | None = None,
    beir: JudgedTexts | None = None,
) -> GatheredQueries | None:
    """Gathers queries and judgements, from a BEIR folder or from files.

    Args:
        request: where they come from.
        documents: ids, in the order of their embeddings.
        dim: of their embeddings.
        encoding: the model, if there is one.
        beir: the folder that was read, if there is one.

    Returns:
        Both; ``None`` where there are no queries.

    Raises:
        ValueError: if they do not fit together.
    """
    if beir is None and request.queries is None:
        return None
    split = None if beir is None else _split_name(beir, request.split)
    texts = _query_texts(request, beir, split)
    embeddings = _embedded(request, texts, encoding)
    ids = items_of(embeddings, texts).ids
    if embeddings.dim != dim:
        raise ValueError(
            f"queries: expected vectors of the documents' length, {dim}, got {embeddings.dim}; are both of one model?"
        )
    queries = embeddings.read_finite()
    places, document_places = ({id: place for place, id in enumerate(side)} for side in (ids, documents))
    if request.judgements is None:
        assert beir is not None
        assert split is not None
        judgements, notes = _of_beir(beir, split, places, document_places)
    else:
        problems = Problems(request.judgements)
        judgements = read_qrels(request.judgements, places, document_places, problems)
        notes = [f"{problems}."] if problems.counts else []
    notes += query_notes(queries, judgements)
    check_enough(queries, judgements, notes)
    return GatheredQueries(queries, judgements, notes, ids)


def query_notes(queries: Tensor, judgements: Judgements) -> list[str]:
    """What queries are in no ranking, and whether judgements look like graded pairs.

    Args:
        queries: as encoded, ``[n, d]``.
        judgements: by position.
    """
    notes = []
    unjudged_count = len(queries) - len(judgements.relevant().queries.unique())
    if unjudged_count:
        notes.append(
            f"{unjudged_count:,} of {len(queries):,} queries have no relevant document here and are in no ranking."
        )
    zeros = int((queries == 0).all(1).sum())
    if zeros:
        notes.append(
            f"{zeros:,} of {len(queries):,} queries are zero vectors, score all documents alike and are in no ranking."
        )
    if _grades_pairs(judgements):
        notes.append(
            "Each query is judged with a single document and grades differ, as judgements of similarity do: rankings "
            "count what was not judged as irrelevant, and any grade above 0 as relevant, so they say little here."
        )
    return notes


def check_enough(queries: Tensor, judgements: Judgements, notes: Sequence[str]) -> None:
    """Refuses too few judged queries, and says what became of the others.

    Args:
        queries: as encoded, ``[n, d]``.
        judgements: by position.
        notes: on what was left out.

    Raises:
        ValueError: with the notes.
    """
    try:
        check_judged(without_zero_queries(JudgedQueries(queries, judgements)), queries.shape[1])
    except ValueError as error:
        raise ValueError(". ".join([str(error), *(note.rstrip(".") for note in notes)])) from None


def _grades_pairs(judgements: Judgements) -> bool:
    """Whether judgements look like graded pairs of texts, as those of STS, and not like answers to queries."""
    has_single_documents = len(judgements.queries.unique()) == len(judgements.queries)
    return has_single_documents and len(judgements.grades.unique()) > 2


def _split_name(beir: JudgedTexts, chosen_split: str | None) -> str:
    splits = list(beir.judgements)
    name = chosen_split or (splits[0] if len(splits) == 1 else "test")
    if name not in splits:
        raise ValueError(f"split: expected one of {', '.join(splits)}, got {name!r}; name one of them with --split")
    return name


def _query_texts(request: QueryRequest, beir: JudgedTexts | None, split: str | None) -> AuditedItems | None:
    """Texts of the queries, where they are known: of a BEIR folder those that the split judges."""
    if beir is None or split is None:
        file = str(request.queries)
        return None if names_embeddings(file) else AuditedItems.of_texts(file, read_listed_texts(file))
    all_queries = AuditedItems.of_texts(f"{request.beir} (queries)", beir.queries)
    # Ready embeddings without ids can only be in the folder's order, and of all queries.
    return (
        all_queries
        if request.queries is not None
        else all_queries.ordered(beir.judgements[split].queries.unique().tolist())
    )


def _embedded(request: QueryRequest, texts: AuditedItems | None, encoding: Encoding | None) -> EmbeddingFile:
    if request.queries is not None and names_embeddings(request.queries):
        # Documents and queries are often written alike, and an array's name need not be.
        return EmbeddingFile(request.queries, preferred_column=request.column)
    if encoding is None or texts is None:
        raise ValueError(
            "queries: expected a file of their embeddings beside ready embeddings of documents, got "
            f"{request.queries or 'nothing'}; encode them with the same model, or name it with --model"
        )
    return encoding.encode(texts, QUERIES)


def _of_beir(
    beir: JudgedTexts, split: str, queries: Mapping[str, int], documents: Mapping[str, int]
) -> tuple[Judgements, list[str]]:
    """The split's judgements by position in the embeddings, without pairs that have none."""
    judgements = beir.judgements[split]
    rows = torch.tensor([queries.get(id, -1) for id in beir.queries.ids])[judgements.queries]
    columns = torch.tensor([documents.get(id, -1) for id in beir.documents.ids])[judgements.documents]
    has_embedding = (rows >= 0) & (columns >= 0)
    missing = int((~has_embedding).sum())
    notes = [f"{missing:,} judgements of ids without an embedding were left out."] if missing else []
    return Judgements(rows[has_embedding], columns[has_embedding], judgements.grades[has_embedding]), notes
