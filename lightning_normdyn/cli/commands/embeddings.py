"""Commands about ready embeddings and models that encode: what their norms carry, and an index that keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from lightning_normdyn.cli.commands.command import Shell, command
from lightning_normdyn.cli.values import (
    Count,
    Exponent,
    File,
    Folder,
    Name,
    Table,
    Value,
    exponent,
    folder,
    output_file,
)

if TYPE_CHECKING:
    from lightning_normdyn.cli.audits.audit import AuditRecord
    from lightning_normdyn.cli.clusterings import ClusteringRecord
    from lightning_normdyn.cli.exports.export import ExportRecord
    from lightning_normdyn.cli.store_checks import StoreCheckRecord

ModelFolder = Annotated[str, Value("FOLDER", folder)]
Tag = Annotated[str, Value("TAG")]
Prompt = Annotated[str, Value("PROMPT")]
ArrayFile = Annotated[str, Value("NPY", output_file)]
_GROUPS = {
    "embeddings and what is folded into them": (
        "embeddings", "column", "ids", "dim", "normalization", "alpha", "gamma_document",
    ),
    "what is written": (
        "to", "out", "name", "index", "dtype", "augment", "keep_norm", "metric", "overwrite", "append", "upsert",
        "payload",
    ),
    "how an index is built and searched": (
        "m", "ef_construction", "ef_search", "nprobe", "subvectors", "refine_factor", "candidates",
    ),
    "how the index is measured, memory and machines": ("queries", "sample", "recall", "chunk_size", "engine"),
}  # fmt: skip
Place = Annotated[str, Value("PLACE")]  # a file, a folder, a URL or a connection string: each target checks it
Kind = Annotated[str, Value("KIND")]
TargetName = Annotated[str, Value("TARGET")]
Function = Annotated[str, Value("MODULE:FUNCTION")]
LearntExponent = Annotated[float, Value("G", exponent)]


@command(Shell(extra=("cli,report", ("rich", "matplotlib"))))
def audit(
    *,
    model: ModelFolder | None = None,
    checkpoint: ModelFolder | None = None,
    pretrained: Tag | None = None,
    embeddings: File | None = None,
    column: Name | None = None,
    texts: File | None = None,
    images: ModelFolder | None = None,
    beir: ModelFolder | None = None,
    split: Name | None = None,
    queries: File | None = None,
    judgements: Table | None = None,
    covariates: Table | None = None,
    control: Sequence[Name] | None = None,
    measure: Name | None = None,
    chunks: Table | None = None,
    before: File | None = None,
    before_queries: File | None = None,
    batch_size: Count | None = None,
    max_length: Count | None = None,
    query_prompt: Prompt | None = None,
    document_prompt: Prompt | None = None,
    dtype: Literal["float32", "float16", "bfloat16", "auto"] | None = None,
    trust_remote_code: bool = False,
    device: Name | None = None,
    save: ArrayFile | None = None,
    engine: Literal["local", "ray"] = "local",
    out: Folder = "audit",
    overwrite: bool = False,
) -> AuditRecord:
    """Say what the norms of a model's or of ready embeddings carry, and whether to use them.

    From a model with texts or images, from a file of embeddings, or from a checkpoint, whose near-dead rows are found;
    nothing is trained.

    Args:
        model: of transformers, sentence-transformers or open_clip: a folder, or a name on the hub
        checkpoint: a model's folder or file (.safetensors, .bin, .ckpt): are rows of its tables near dead?
        pretrained: weights for a plain name of open_clip
        embeddings: ready ones: .npy, .npz, .parquet or .safetensors, a folder of Parquet shards, or a URL of either
        column: of the embeddings, where files hold several; queries' too; or the table of the checkpoint
        texts: one a line, or .tsv or .jsonl with ids; plain or .gz
        images: of images, at any depth
        beir: documents, queries and judgements as BEIR has them, or a set's name on the hub: BeIR/scifact, mteb/scifact
        split: of its judgements (default: test, or the only one)
        queries: embeddings of queries, or their texts for --model
        judgements: query, document, grade; ids as in the files
        covariates: id and further columns: numbers, or names of groups
        control: a column of numbers among them that is held fixed beside length, and taken out of norms with it;
            repeatable
        measure: ndcg, mrr, recall, map or hits @k (default: ndcg@10)
        chunks: chunk id and document id, where documents have several vectors: rankings go by a document's best one
        before: embeddings of the same documents by an earlier model, to compare with, as before fine-tuning
        before_queries: of the same queries by it
        batch_size: inputs at a time (default: 32)
        max_length: tokens (default: what the model's folder says)
        query_prompt: before each query: a name of the model's prompts, or a text (default: what the model says)
        document_prompt: the same before each document
        dtype: of the model's weights (default: float32)
        trust_remote_code: run code that came with the model
        device: of the model (default: cuda where there is one, else cpu)
        save: keep the embeddings that the model makes
        engine: where passes over ready embeddings are made: here, or on all machines of a Ray cluster
        out: for both files
        overwrite: replace the audit that is there

    Returns:
        The findings, and where the page is.

    Raises:
        ValueError: if the input does not fit together or holds what it should not; nothing is written then.
        OSError: if a file cannot be read or written.
    """
    from lightning_normdyn.cli.audits.audit import run_audit
    from lightning_normdyn.cli.audits.encoding import EncoderRequest
    from lightning_normdyn.cli.audits.input import AuditRequest

    if checkpoint is not None:
        from lightning_normdyn.cli.audits.checkpoint import run_checkpoint_audit

        sources = {
            "model": model, "embeddings": embeddings, "texts": texts, "images": images, "beir": beir,
            "queries": queries, "judgements": judgements, "covariates": covariates, "control": control,
            "measure": measure, "chunks": chunks, "before": before, "batch-size": batch_size,
            "max-length": max_length, "save": save,
        }  # fmt: skip
        options = [f"--{name}" for name, source in sources.items() if source is not None]
        if options:
            raise ValueError(
                f"audit: expected --checkpoint alone, got {' and '.join(options)} beside it; leave them out"
            )
        if engine != "local":
            raise ValueError(f"engine: expected --embeddings with '{engine}', got --checkpoint; leave it out")
        return run_checkpoint_audit(checkpoint, out, column=column, overwrite=overwrite)
    encoder = EncoderRequest(
        model=model,
        pretrained=pretrained,
        batch_size=batch_size,
        max_length=max_length,
        device=device,
        save=save,
        dtype=dtype,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        trust_remote_code=trust_remote_code,
    )
    request = AuditRequest(
        encoder=encoder,
        embeddings=embeddings,
        column=column,
        texts=texts,
        images=images,
        beir=beir,
        split=split,
        queries=queries,
        judgements=judgements,
        covariates=covariates,
        controls=tuple(control or ()),
        measure=measure,
        chunks=chunks,
        before=before,
        before_queries=before_queries,
        engine=engine,
    )
    return run_audit(request, out, overwrite=overwrite)


@command(Shell(extra=("cli", ("rich",)), groups=_GROUPS))
def export(
    *,
    embeddings: File,
    to: TargetName,
    out: Place,
    column: Name | None = None,
    ids: File | None = None,
    dim: Count | None = None,
    normalization: Literal["cosine", "dot", "qnorm", "dnorm", "learnable"] = "cosine",
    alpha: Exponent = 0.0,
    gamma_document: LearntExponent | None = None,
    name: Name = "embeddings",
    index: Kind = "flat",
    dtype: Literal["float32", "float16"] = "float32",
    augment: bool = False,
    keep_norm: bool = False,
    metric: Literal["inner_product", "euclidean", "cosine"] = "inner_product",
    overwrite: bool = False,
    append: bool = False,
    upsert: bool = False,
    payload: Sequence[Name] | None = None,
    m: Count | None = None,
    ef_construction: Count | None = None,
    ef_search: Count | None = None,
    nprobe: Count | None = None,
    subvectors: Count | None = None,
    refine_factor: Count | None = None,
    candidates: Count | None = None,
    queries: File | None = None,
    sample: Count = 200,
    recall: Exponent = 0.95,
    chunk_size: Count = 16_384,
    engine: Literal["local", "ray"] = "local",
) -> ExportRecord:
    """Fold a power of the norms into stored vectors, and fill an index with them.

    Args:
        embeddings: .npy, .npz, .parquet or .safetensors, a folder of Parquet shards, or a URL of either
        to: what is written: a file (npy, parquet or safetensors), an index (faiss, usearch, qdrant, lancedb, milvus or
            pgvector), or a feed that a server takes in (elasticsearch, opensearch or vespa)
        out: a file, a folder, the URL of Qdrant or Milvus, or PostgreSQL's connection string
        column: of the embeddings, where a file holds several matrices
        ids: one id a line (default: those in the file, or numbers of rows)
        dim: numbers of each embedding to take, from the first on, as of a Matryoshka model; norms are the prefix's own
        normalization: what the embeddings were trained with
        alpha: further exponent of the norm
        gamma_document: the learnt exponent, with --normalization learnable
        name: of the collection, table or index
        index: flat, hnsw, ivfpq (faiss, lancedb); for faiss pq, sq8, sq4, binary (codes, all of them scanned) or a
            string for its index factory; or auto (faiss, lancedb, usearch), which builds kinds of index on a sample
            and takes the best
        dtype: of the stored numbers
        augment: add a dimension that makes all lengths equal, which keeps rankings and helps some approximate
            indexes; queries get a zero
        keep_norm: store vectors of length 1 and their norms beside them, for searches that make scores with them
        metric: what the index compares by; others than the default need --augment, or cosine --keep-norm
        overwrite: replace what is there
        append: keep what is there and add the rows whose ids it does not have (files, faiss, usearch and feeds)
        upsert: give rows of a collection in use their new vectors by id, add the others, leave the rest (qdrant,
            lancedb, milvus, pgvector; a feed is made of updates then)
        payload: column of Parquet to store beside the vectors, or all; repeatable (qdrant, lancedb, milvus, pgvector
            and feeds)
        m: neighbours of a node of a graph
        ef_construction: nodes that are looked at to place a new one
        ef_search: nodes that a search looks at (default: what the recall asks for)
        nprobe: lists that a search looks into (default: what the recall asks for)
        subvectors: product codes a vector (default: one for every 8 numbers)
        refine_factor: how many times as many as wanted lancedb compares in full (default: what the recall asks for)
        candidates: nearest by direction whose scores are made, with --keep-norm (default: what the recall asks for)
        queries: embeddings to measure the loss with (default: some of the documents)
        sample: queries to measure with
        recall: of the exact best that the index is to find; searches are widened until it does
        chunk_size: embeddings in memory
        engine: where passes over the embeddings are made: here, or on all machines of a Ray cluster

    Returns:
        What the embeddings are like, what was written, and what the index loses.

    Raises:
        ValueError: if there is no such target, or embeddings, ids, exponents or what is at the place will not do;
            nothing is left half-written.
        OSError: if a file cannot be read or written.
    """
    from lightning_normdyn.cli.exports.export import run_export
    from lightning_normdyn.cli.exports.request import ExportRequest
    from lightning_normdyn.retrieval.export.folding import Folding
    from lightning_normdyn.retrieval.indexes import Destination, IndexParameters

    parameters = IndexParameters(m, ef_construction, ef_search, nprobe, subvectors, refine_factor, candidates)
    request = ExportRequest(
        embeddings,
        Folding(
            normalization,
            alpha=alpha,
            gamma_document=gamma_document,
            augment=augment,
            metric=metric,
            keep_norm=keep_norm,
        ),
        to,
        Destination(
            out, name, dtype, index, overwrite, parameters, append, upsert=upsert, payload=tuple(payload or ())
        ),
        column=column,
        ids=ids,
        dim=dim,
        queries=queries,
        sample=sample,
        recall=recall,
        chunk_size=chunk_size,
        engine=engine,
    )
    return run_export(request)


@command(Shell(extra=("cli,report", ("rich", "matplotlib"))))
def cluster(
    *,
    embeddings: File,
    column: Name | None = None,
    labels: Table | None = None,
    label_column: Name | None = None,
    clusters: Count | None = None,
    exponents: Sequence[Exponent] | None = None,
    seeds: Count = 10,
    restarts: Count = 3,
    sample: Count = 20_000,
    engine: Literal["auto", "faiss", "sklearn"] = "auto",
    out: Folder = "clusters",
    overwrite: bool = False,
) -> ClusteringRecord:
    """Say what norms gain in clustering, beside plain and spherical k-means.

    Args:
        embeddings: ready ones: .npy, .npz, .parquet or .safetensors, a folder of Parquet shards, or a URL of either
        column: of the embeddings, where files hold several
        labels: id and class, or one class a line in the order of the embeddings; plain or .gz
        label_column: of the labels, where the file has several
        clusters: how many (default: as many as there are classes)
        exponents: of the norm, tried beside 0 and plain k-means (default: -4, -2, -1, 1, 2 and 4)
        seeds: from which each way clusters, 2 or more
        restarts: of each k-means, the best of which counts
        sample: items at most, taken at random
        engine: whose k-means runs: FAISS or scikit-learn (default: the first that is installed)
        out: for both files
        overwrite: replace the comparison that is there

    Returns:
        The verdict, and where the page is.

    Raises:
        ValueError: if files or options do not fit together; nothing is written then.
        OSError: if a file cannot be read or written.
    """
    from lightning_normdyn.cli.clusterings import ClusteringRequest, run_clustering

    request = ClusteringRequest(
        embeddings, column, labels, label_column, clusters, exponents, engine, seeds, restarts, sample
    )
    return run_clustering(request, out, overwrite=overwrite)


@command(Shell(extra=("cli", ("rich",))))
def check_store(
    *,
    to: TargetName | None = None,
    out: Place | None = None,
    index: Kind = "flat",
    dtype: Literal["float32", "float16"] = "float32",
    function: Function | None = None,
    dim: Count = 8,
) -> StoreCheckRecord:
    """Say what a store really ranks by: inner products, cosines, distances, and at which precision.

    Five vectors are planted and searched; nothing of them stays. The exit code is 1 where norms do not count.

    Args:
        to: a target of export (npy, parquet, safetensors, faiss, usearch, qdrant, lancedb, milvus or pgvector)
        out: the URL of Qdrant or Milvus, or PostgreSQL's connection string (default: a folder for the time being)
        index: as of export
        dtype: of the stored numbers
        function: one of your own instead, called as function(vectors, ids, queries, k): it stores the five vectors
            under their ids and returns the k nearest ids of each query, best first, or a pair of these and their scores
        dim: numbers a vector, 4 or more

    Returns:
        The verdict.

    Raises:
        ValueError: if there is no such target or function, or it answers otherwise than it should.
        OSError: if nothing can be written.
    """
    from lightning_normdyn.cli.store_checks import check_function, check_target

    if (to is None) == (function is None):
        raise ValueError("check-store: expected either --to or --function; name a target, or a function of your own")
    if function is not None:
        return check_function(function, dim)
    return check_target(str(to), out, index, dtype, dim)
