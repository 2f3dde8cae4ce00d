"""What databases call the ways of comparing vectors."""

from __future__ import annotations

from lightning_normdyn.retrieval.indexes.writer import Metric

LANCEDB_DISTANCES: dict[Metric, str] = {"inner_product": "dot", "euclidean": "l2", "cosine": "cosine"}
PGVECTOR_OPERATORS: dict[Metric, str] = {"inner_product": "<#>", "euclidean": "<->", "cosine": "<=>"}
PGVECTOR_OPCLASSES: dict[Metric, str] = {"inner_product": "ip_ops", "euclidean": "l2_ops", "cosine": "cosine_ops"}
