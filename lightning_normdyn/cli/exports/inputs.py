"""What an export reads beside its embeddings: what an earlier export noted of them, and queries to measure with."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_normdyn.caution import caution
from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.retrieval.export.folding import Folding
from lightning_normdyn.retrieval.indexes import Manifest, read_manifest
from lightning_normdyn.retrieval.indexes.manifest import FIRST_ROWS, FirstRows, manifest_file


def manifest_of(documents: EmbeddingFile) -> Manifest | None:
    """What an earlier export says of the embeddings, if they are what it wrote.

    Raises:
        ValueError: if they have a dimension more, which is none of the embeddings.
    """
    place = documents.place.path
    if place is None:
        return None
    file = next(iter(sorted(place.glob("*.parquet"))), place) if place.is_dir() else place
    manifest = read_manifest(file)
    if manifest is None:
        return None
    if manifest.checksum is not None:
        first_rows = FirstRows()
        for chunk in EmbeddingFile(file).chunks(FIRST_ROWS, range(min(FIRST_ROWS, documents.rows))):
            first_rows.add(chunk)
        if (manifest.rows, manifest.checksum) != (documents.rows, first_rows.checksum):
            caution(
                f"embeddings: '{manifest_file(file)}' describes other vectors than '{file}' holds, and is passed over; "
                "remove it",
                stacklevel=3,
            )
            return None
    if manifest.radius is not None:
        raise ValueError(
            f"embeddings: expected embeddings, got '{file}', whose last dimension an export with --augment added; "
            "export the original embeddings"
        )
    return manifest


def stored_power(manifest: Manifest, folding: Folding) -> float:
    """Exponent of the norm that lengths of embeddings carry which an earlier export wrote.

    Args:
        manifest: of that export.
        folding: that is asked for.

    Raises:
        ValueError: if norms count now and lie beside the embeddings, where no export reads them.
    """
    if not manifest.keep_norm:
        return manifest.exponent
    if folding.score.document_power != 0:
        raise ValueError(
            "embeddings: expected lengths that carry norms, got directions, whose norms an export with --keep-norm put "
            "beside them; export the original embeddings, or multiply these by their norms"
        )
    return 0.0


def query_vectors(name: str | None, dim: int, *, is_prefix: bool) -> Tensor | None:
    """Queries to measure with, without those of length 0, for which no ranking is right or wrong.

    Args:
        name: of their file; ``None`` for none.
        dim: numbers of a document.
        is_prefix: whether documents are prefixes, to which longer queries are cut.

    Raises:
        ValueError: if they are not as long as documents or not finite, or none has a length above 0.
    """
    if name is None:
        return None
    file = EmbeddingFile(name)
    if file.dim > dim and is_prefix:
        file = EmbeddingFile(name, dim=dim)
    if not file.rows:
        raise ValueError(f"queries: expected at least one vector in {name}, got none")
    if file.dim != dim:
        raise ValueError(
            f"queries: expected vectors of {dim} numbers as the documents have, got {[file.rows, file.dim]}"
        )
    queries = file.read()
    bad = (~queries.isfinite().all(1)).nonzero()
    if len(bad):
        raise ValueError(
            f"queries: expected finite numbers, got NaN or infinite ones in row {int(bad[0])}; leave the row out or "
            "encode it again"
        )
    positive_queries = queries[queries.any(1)]
    if not len(positive_queries):
        raise ValueError(
            f"queries: expected at least one with a length above 0, got {len(queries):,} zero vectors in {name}, which "
            "score 0 with every document; encode them again"
        )
    if len(positive_queries) < len(queries):
        caution(
            f"queries: {len(queries) - len(positive_queries):,} of {len(queries):,} in {name} are zero vectors, which "
            "score 0 with every document; they are left out of what is measured",
            stacklevel=3,
        )
    return positive_queries


def drawn_queries(vectors: Tensor, limit: int) -> Tensor:
    """Some of the vectors as queries, none of length 0, the same ones each time.

    Args:
        vectors: ``[n, d]``.
        limit: how many at most.
    """
    queries = vectors[vectors.any(1)]
    return queries[torch.randperm(len(queries), generator=torch.Generator().manual_seed(0))[:limit]]
