"""Embeddings on disk and their way into an index and back."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.retrieval.export.folding import Folding
from lightning_normdyn.retrieval.export.index_export import Source, survey_source, write_index
from lightning_normdyn.retrieval.indexes import Destination, index_writer


def embeddings(m=400, d=24, seed=0, spread=0.5):
    """Log-normal norms; the first vector is zero."""
    draw = torch.Generator().manual_seed(seed)
    documents = torch.randn(m, d, generator=draw) * (spread * torch.randn(m, 1, generator=draw)).exp()
    documents[0] = 0
    return documents, torch.randn(6, d, generator=draw)


def source_of(documents, folder, *, ids=None, chunk_size=150) -> Source:
    Path(folder).mkdir(exist_ok=True)
    file = Path(folder) / "embeddings.npy"
    np.save(file, documents.numpy() if isinstance(documents, torch.Tensor) else documents)
    opened = EmbeddingFile(file)
    return Source(opened, [f"d{row}" for row in range(opened.rows)] if ids is None else ids, chunk_size)


def parquet_source(documents, folder, *, ids=None, chunk_size=150):
    """Embeddings in two shards whose other columns are payload, and the rows of these as Python has them."""
    count = len(documents)
    ids = [str(row) for row in range(count)] if ids is None else ids
    day = datetime.datetime(2026, 11, 30, 12, 30)
    rows = [
        {
            "doc_id": ids[row],
            "year": 1900 + row,
            "score": None if row % 5 == 0 else row / 4,
            "tags": ["a"] * (row % 3),
            "seen": None if row % 7 == 0 else day + datetime.timedelta(days=row),
        }
        for row in range(count)
    ]
    place = Path(folder) / "shards"
    place.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate((slice(0, count // 3), slice(count // 3, count))):
        table = pa.Table.from_pylist(rows[part])
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(documents[part].reshape(-1).numpy()), documents.shape[1])
        table = table.append_column("vector", vectors)
        pq.write_table(table, place / f"{number}.parquet", row_group_size=37)
    opened = EmbeddingFile(place, column="vector")
    return Source(opened, opened.ids, chunk_size, payload=opened.payload(["all"])), rows


def export(source, target, out, folding=None, **options):
    """Writes; returns the writer, which can be searched."""
    folding = Folding() if folding is None else folding
    writer = index_writer(target, Destination(str(out), **options))
    seen = survey_source(source, folding, half=options.get("dtype") == "float16")
    write_index(source, folding, seen, writer)
    return writer


def by_formula(queries, documents, power):
    """Cosine times a power of the document's norm, in float64."""
    q, d = queries.double(), documents.double()
    norms = d.square().sum(1).sqrt()
    scores = (q @ d.T) / q.square().sum(1).sqrt()[:, None] * norms.where(norms > 0, 1) ** (power - 1)
    return scores.where(norms > 0, 0)


def ranked(queries, documents, power, ids, k=10):
    best = by_formula(queries, documents, power).topk(k).indices
    return [[ids[row] for row in rows] for rows in best.tolist()]
