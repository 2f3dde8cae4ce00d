"""Embeddings on disk and their way into an index and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
    file = Path(folder) / "embeddings.npy"
    np.save(file, documents.numpy() if isinstance(documents, torch.Tensor) else documents)
    opened = EmbeddingFile(file)
    return Source(opened, [f"d{row}" for row in range(opened.rows)] if ids is None else ids, chunk_size)


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
