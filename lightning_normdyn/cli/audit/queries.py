"""Queries of an audit with what answers them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.cli.audit.encoding import Encoding
from lightning_normdyn.cli.audit.listed import Listed, items_of
from lightning_normdyn.datasets import JudgedTexts, Judgements, Problems
from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.datasets.formats.listed_texts import read_listed_texts
from lightning_normdyn.datasets.formats.qrels import read_qrels

EMBEDDED = (".npy", ".npz", ".parquet", ".safetensors")
"""Endings of files that hold embeddings; others hold texts."""


class Asked(NamedTuple):
    """What was asked of the documents.

    Attributes:
        queries: as encoded, ``[n, d]``.
        judgements: by position in queries and documents.
        notes: what was left out.
    """

    queries: Tensor
    judgements: Judgements
    notes: list[str]


def ask(
    options: argparse.Namespace,
    documents: Sequence[str],
    dim: int,
    *,
    encoding: Encoding | None = None,
    beir: JudgedTexts | None = None,
) -> Asked | None:
    """Gathers queries and judgements, from a BEIR folder or from files.

    Args:
        options: of ``normdyn audit``.
        documents: ids, in the order of their embeddings.
        dim: of their embeddings.
        encoding: the model, if there is one.
        beir: the folder that was read, if there is one.

    Returns:
        Both; ``None`` where nothing was asked.

    Raises:
        ValueError: if they do not fit together.
    """
    if beir is None and options.queries is None:
        return None
    split = None if beir is None else _split(beir, options.split)
    listed = _listed(options, beir, split)
    embeddings = _embedded(options, listed, encoding)
    ids = items_of(embeddings, listed).ids
    if embeddings.dim != dim:
        raise ValueError(
            f"queries: expected vectors of the documents' length, {dim}, got {embeddings.dim}; are both of one model?"
        )
    queries = embeddings.read_finite()
    places, document_places = ({id: place for place, id in enumerate(known)} for known in (ids, documents))
    if beir is not None and split is not None and options.judgements is None:
        judgements, notes = _of_beir(beir, split, places, document_places)
    else:
        problems = Problems(options.judgements)
        judgements = read_qrels(options.judgements, places, document_places, problems)
        notes = [f"{problems}."] if problems.counts else []
    unjudged = len(ids) - len(judgements.relevant().queries.unique())
    if unjudged:
        notes.append(f"{unjudged:,} of {len(ids):,} queries have no relevant document here and are in no ranking.")
    zeros = int((queries == 0).all(1).sum())
    if zeros:
        notes.append(
            f"{zeros:,} of {len(ids):,} queries are zero vectors, score all documents alike and are in no ranking."
        )
    return Asked(queries, judgements, notes)


def _split(beir: JudgedTexts, wanted: str | None) -> str:
    known = list(beir.judgements)
    name = wanted or (known[0] if len(known) == 1 else "test")
    if name not in known:
        raise ValueError(f"split: expected one of {', '.join(known)}, got {name!r}; name one of them with --split")
    return name


def _listed(options: argparse.Namespace, beir: JudgedTexts | None, split: str | None) -> Listed | None:
    """Texts of the queries, where they are known: of a BEIR folder those that the split judges."""
    if beir is None or split is None:
        ready = str(options.queries).endswith(EMBEDDED)
        return None if ready else Listed.of_texts(options.queries, read_listed_texts(options.queries))
    every = Listed.of_texts(f"{options.beir} (queries)", beir.queries)
    # Ready embeddings without ids can only be in the folder's order, and of all queries.
    return every if options.queries is not None else every.ordered(beir.judgements[split].queries.unique().tolist())


def _embedded(options: argparse.Namespace, listed: Listed | None, encoding: Encoding | None) -> EmbeddingFile:
    if options.queries is not None and str(options.queries).endswith(EMBEDDED):
        # Documents and queries are often written alike, and an array's name need not be.
        return EmbeddingFile(options.queries, preferred_column=options.column)
    if encoding is None or listed is None:
        raise ValueError(
            "queries: expected a file of their embeddings beside ready embeddings of documents, got "
            f"{options.queries or 'nothing'}; encode them with the same model, or name it with --model"
        )
    return encoding.encode(listed, "Queries")


def _of_beir(
    beir: JudgedTexts, split: str, queries: Mapping[str, int], documents: Mapping[str, int]
) -> tuple[Judgements, list[str]]:
    """The split's judgements by position in the embeddings, without pairs that have none."""
    found = beir.judgements[split]
    rows = torch.tensor([queries.get(id, -1) for id in beir.queries.ids])[found.queries]
    columns = torch.tensor([documents.get(id, -1) for id in beir.documents.ids])[found.documents]
    known = (rows >= 0) & (columns >= 0)
    left = int((~known).sum())
    notes = [f"{left:,} judgements of ids without an embedding were left out."] if left else []
    return Judgements(rows[known], columns[known], found.grades[known]), notes
