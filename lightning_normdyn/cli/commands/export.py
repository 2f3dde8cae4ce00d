"""``normdyn export``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from lightning_normdyn.cli.commands.command import Shell, command
from lightning_normdyn.cli.values import Count, Exponent, File, Name, Value, exponent

if TYPE_CHECKING:
    from lightning_normdyn.cli.exports import ExportRecord

_GROUPS = {
    "embeddings and what is folded into them": (
        "embeddings", "column", "ids", "normalization", "alpha", "gamma_document",
    ),
    "what is written": ("to", "out", "name", "index", "dtype", "augment", "metric", "overwrite"),
    "how the index is measured, and memory": ("queries", "sample", "chunk"),
}  # fmt: skip
Place = Annotated[str, Value("PLACE")]
Kind = Annotated[str, Value("KIND")]
LearntExponent = Annotated[float, Value("G", exponent)]


@command(Shell(extra=("cli", ("rich",)), groups=_GROUPS))
def export(
    *,
    embeddings: File,
    to: Literal["npy", "parquet", "safetensors", "faiss", "qdrant", "lancedb", "pgvector"],
    out: Place,
    column: Name | None = None,
    ids: File | None = None,
    normalization: Literal["cosine", "dot", "qnorm", "dnorm", "learnable"] = "cosine",
    alpha: Exponent = 0.0,
    gamma_document: LearntExponent | None = None,
    name: Name = "embeddings",
    index: Kind = "flat",
    dtype: Literal["float32", "float16"] = "float32",
    augment: bool = False,
    metric: Literal["inner_product", "euclidean", "cosine"] = "inner_product",
    overwrite: bool = False,
    queries: File | None = None,
    sample: Count = 200,
    chunk: Count = 16_384,
) -> ExportRecord:
    """Fold a power of the norms into stored vectors, and fill an index with them.

    Args:
        embeddings: .npy, .npz, .parquet or .safetensors
        to: what is written
        out: a file, a folder, Qdrant's URL or PostgreSQL's connection string
        column: of the embeddings, where a file holds several matrices
        ids: one id a line (default: those in the file, or numbers of rows)
        normalization: what the embeddings were trained with
        alpha: further exponent of the norm
        gamma_document: the learnt exponent, with --normalization learnable
        name: of the collection or table
        index: flat, hnsw, ivfpq (faiss, lancedb) or a string for FAISS' index factory
        dtype: of the stored numbers
        augment: add a dimension that makes all lengths equal, which keeps rankings and helps some approximate
            indexes; queries get a zero
        metric: what the index compares by; others than the default need --augment
        overwrite: replace what is there
        queries: embeddings to measure the loss with (default: some of the documents)
        sample: queries to measure with
        chunk: embeddings in memory

    Returns:
        What the embeddings are like, what was written, and what the index loses.

    Raises:
        ValueError: if embeddings, ids, exponents or what is at the place will not do; nothing is left half-written.
        OSError: if a file cannot be read or written.
    """
    from lightning_normdyn.cli.exports import Written, run_export
    from lightning_normdyn.retrieval.export.folding import Folding

    folding = Folding(normalization, alpha=alpha, gamma_document=gamma_document, augment=augment, metric=metric)
    destination = Written(to, out, name, index, dtype, metric, augment, overwrite)
    return run_export(
        embeddings, folding, destination, column=column, ids=ids, queries=queries, sample=sample, chunk=chunk
    )
