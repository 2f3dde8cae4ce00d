"""The places that vectors can be exported to, by name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import NamedTuple

from lightning_normdyn.retrieval.indexes.writer import (
    LANCEDB_DISTANCES,
    PGVECTOR_OPERATORS,
    Destination,
    IndexWriter,
    Metric,
)


class Target(NamedTuple):
    """One of them.

    Attributes:
        module: where its writer is, in this package.
        writer: the writer's class.
        search: how it is searched, ``{compared}`` standing for the database's name of the metric.
        compared: that name.
    """

    module: str
    writer: str
    search: str
    compared: Mapping[Metric, str] = {}

    def hint(self, metric: Metric) -> str:
        """How it is searched where vectors are compared by the metric.

        Example:
            >>> TARGETS["pgvector"].hint("euclidean")
            'SELECT id FROM name ORDER BY embedding <-> query LIMIT k'
        """
        return self.search.replace("{compared}", self.compared.get(metric, ""))


TARGETS = {
    "npy": Target("vector_file", "NpyFile", "(vectors @ query).argsort()[::-1]"),
    "parquet": Target("vector_file", "ParquetFile", "inner products of the column embedding with the query"),
    "safetensors": Target("vector_file", "SafetensorsFile", "(vectors @ query).argsort(descending=True)"),
    "faiss": Target("faiss_index", "FaissIndex", "faiss.read_index(file).search(queries, k)"),
    "qdrant": Target("qdrant_collection", "QdrantCollection", "client.query_points(name, query=query, limit=k)"),
    "lancedb": Target(
        "lancedb_table",
        "LanceTable",
        'table.search(query).distance_type("{compared}").limit(k)',
        LANCEDB_DISTANCES,
    ),
    "pgvector": Target(
        "pgvector_table",
        "PgvectorTable",
        "SELECT id FROM name ORDER BY embedding {compared} query LIMIT k",
        PGVECTOR_OPERATORS,
    ),
}


def index_writer(target: str, destination: Destination) -> IndexWriter:
    """The writer of a target.

    Raises:
        ValueError: if there is no such target, or it cannot be what the destination says.
        ModuleNotFoundError: if its package is not installed.
    """
    if target not in TARGETS:
        raise ValueError(f"target: expected one of {', '.join(TARGETS)}, got {target!r}")
    entry = TARGETS[target]
    module = import_module(f"lightning_normdyn.retrieval.indexes.{entry.module}")
    writer: IndexWriter = getattr(module, entry.writer)(destination)
    return writer
