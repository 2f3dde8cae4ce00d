"""The schema of a Milvus collection: ids, vectors, norms, and the fields of a collection that it replaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_normdyn.retrieval.indexes.search_width import IndexParameters
from lightning_normdyn.retrieval.indexes.writer import Contents, Metric

METRICS: dict[Metric, str] = {"inner_product": "IP", "euclidean": "L2", "cosine": "COSINE"}
"""Milvus' names."""

EXPORT_FIELDS = ("id", "embedding", "norm")
"""Fields that an export fills itself."""

Fields = Mapping[str, Mapping[str, Any]]

_LONGEST_ID = 65_535
_LARGEST_DIM = 32_768
_INDEX_WORDS = {"m": "M", "ef_construction": "efConstruction"}
_DEFAULT_GRAPH = {"M": 16, "efConstruction": 200}


def check_sizes(contents: Contents) -> None:
    """Refuses ids and vectors that no collection holds.

    Args:
        contents: what is to be written.

    Raises:
        ValueError: if there is one.
    """
    if contents.dim > _LARGEST_DIM:
        raise ValueError(
            f"embeddings: expected {_LARGEST_DIM:,} numbers at most for Milvus, got {contents.dim:,}; take a prefix "
            "with --dim, if the model allows it"
        )
    for text in contents.ids:
        if not text or len(text.encode()) > _LONGEST_ID:
            raise ValueError(
                f"ids: expected 1 to {_LONGEST_ID:,} bytes for Milvus, got {text[:40]!r}; give other --ids"
            )


def entity_id(text: str, *, is_number: bool) -> str | int:
    """An id as the collection has it.

    Args:
        text: the id.
        is_number: whether ids of the collection are INT64.

    Raises:
        ValueError: if it is no such number.

    Example:
        >>> entity_id("7", is_number=True), entity_id("7", is_number=False)
        (7, '7')
    """
    if not is_number:
        return text
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdecimal() and str(int(text)) == text and -(2**63) <= int(text) < 2**63:
        return int(text)
    raise ValueError(
        f"ids: expected whole numbers, as those of the collection that is there, got {text!r}; choose another name"
    )


def collection_schema(pymilvus: Any, contents: Contents, old_fields: Fields, *, has_numbers: bool) -> Any:
    """The schema of a new collection.

    Args:
        pymilvus: the package.
        contents: what is to be written.
        old_fields: of the collection that it replaces, whose further fields it has too.
        has_numbers: whether ids are INT64.
    """
    kinds, schema = pymilvus.DataType, pymilvus.MilvusClient.create_schema(enable_dynamic_field=True)
    if has_numbers:
        schema.add_field("id", kinds.INT64, is_primary=True)
    else:
        schema.add_field("id", kinds.VARCHAR, is_primary=True, max_length=_LONGEST_ID)
    schema.add_field("embedding", kinds.FLOAT_VECTOR, dim=contents.dim)
    if contents.manifest.keep_norm:
        schema.add_field("norm", kinds.FLOAT)
    for name, field in old_fields.items():
        if name not in EXPORT_FIELDS:
            elements = {"element_type": field["element_type"]} if "element_type" in field else {}
            schema.add_field(name, field["type"], nullable=True, **elements, **field.get("params", {}))
    return schema


def index_parameters(index: str, parameters: IndexParameters) -> dict[str, Any]:
    """How the vectors are indexed.

    Args:
        index: ``flat`` or ``hnsw``.
        parameters: of the user.

    Example:
        >>> index_parameters("hnsw", IndexParameters(m=32))
        {'index_type': 'HNSW', 'params': {'M': 32, 'efConstruction': 200}}
    """
    if index == "flat":
        return {"index_type": "FLAT"}
    of_user = parameters.among(tuple(_INDEX_WORDS)).of_user
    settings = {_INDEX_WORDS[name]: value for name, value in of_user.items()}
    return {"index_type": "HNSW", "params": {**_DEFAULT_GRAPH, **settings}}
