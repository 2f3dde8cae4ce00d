"""Elasticsearch and OpenSearch: a feed for their ``_bulk``, and the mapping that makes inner products right."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa

from lightning_normdyn.caution import caution
from lightning_normdyn.retrieval.indexes.feed_file import FeedFile, FeedRecord, json_text
from lightning_normdyn.retrieval.indexes.manifest import METADATA_KEY
from lightning_normdyn.retrieval.indexes.writer import Contents, IndexTarget, Metric, SearchPlan

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,199}")
_LONGEST_ID = 512
_SHORT = 1e-3
_BYTES_PER_REQUEST, _BYTES_PER_NUMBER, _MOST_DOCUMENTS = 2**23, 14, 1000
_POSITIVE = "return s < 0 ? 1 / (1 - s) : s + 1;"


class BulkFeed(FeedFile):
    """Two lines a document, what is to be done and its fields; ``<file>.mapping.json`` makes the index."""

    suffixes = (".ndjson", ".jsonl", ".json")
    fields_ending = ".mapping.json"

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"name: expected small letters, digits, dots, dashes and underscores for an index of {self.library}, "
                f"got {name[:40]!r}; choose a plain word"
            )

    def _check_contents(self, contents: Contents) -> None:
        super()._check_contents(contents)
        long_id = next((row_id for row_id in contents.ids if len(row_id.encode()) > _LONGEST_ID or not row_id), None)
        if long_id is not None:
            raise ValueError(
                f"ids: expected 1 to {_LONGEST_ID} bytes for {self.library}, got {long_id[:40]!r} of "
                f"{len(long_id.encode())}; give --ids that are shorter"
            )
        longest = float(contents.sample.norm(dim=1).max())
        if 0 < longest < _SHORT and not contents.manifest.keep_norm:
            caution(
                f"embeddings: {self.library} scores 1 + <q, d> in float32, and the longest stored vector of a sample "
                f"has length {longest:.2g}, so that scores differ by rounding alone; multiply all embeddings by one "
                "number, which changes no ranking",
                stacklevel=4,
            )

    def _text(self, record: FeedRecord) -> str:
        kind = "update" if self.destination.upsert else "index"
        action, fields = json_text({kind: {"_id": record.id}}), json_text(record.fields())
        document = f'{{"embedding":{record.vector}{"" if fields == "{}" else ","}{fields[1:]}'
        if self.destination.upsert:
            document = f'{{"doc":{document},"doc_as_upsert":true}}'
        return f"{action}\n{document}\n"

    def _documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        with self.file.open(encoding="utf-8", newline="\n") as lines:
            for action in lines:
                ((_, names),) = json.loads(action).items()
                document = json.loads(next(lines))
                yield names["_id"], document.get("doc", document)

    def _fields(self, contents: Contents) -> str:
        properties = {"embedding": self._vector_field(contents)}
        if contents.manifest.keep_norm:
            properties["norm"] = {"type": "float"}
        properties |= {column.name: field_mapping(column.type) for column in contents.payload}
        metadata = {METADATA_KEY: json.loads(contents.manifest.text())}
        mapping = {**self._settings(), "mappings": {"_meta": metadata, "properties": properties}}
        return json.dumps(mapping, indent=1) + "\n"

    def _graph(self) -> dict[str, int]:
        return self.destination.parameters.among(("m", "ef_construction")).of_user

    def _settings(self) -> dict[str, Any]:
        return {}

    def _vector_field(self, contents: Contents) -> dict[str, Any]:
        raise NotImplementedError


class ElasticsearchFeed(BulkFeed):
    """For Elasticsearch, from 8.16 on: ``dense_vector``, whose similarity for inner products is max_inner_product.

    Vectors are kept as float32: Elasticsearch would make int8 or bits of them unasked.
    """

    target, library, largest_dim = "elasticsearch", "Elasticsearch", 4096
    similarities: ClassVar[Mapping[Metric, str]] = {
        "inner_product": "max_inner_product", "euclidean": "l2_norm", "cosine": "cosine",
    }  # fmt: skip

    def _vector_field(self, contents: Contents) -> dict[str, Any]:
        return {
            "type": "dense_vector",
            "dims": contents.dim,
            "index": True,
            "similarity": self.similarities[contents.metric],
            "index_options": {"type": self.destination.index, **self._graph()},
        }


class OpenSearchFeed(BulkFeed):
    """For OpenSearch, from 2.19 on: ``knn_vector``, whose space for inner products is innerproduct."""

    target, library, largest_dim = "opensearch", "OpenSearch", 16_000
    spaces: ClassVar[Mapping[Metric, str]] = {
        "inner_product": "innerproduct", "euclidean": "l2", "cosine": "cosinesimil",
    }  # fmt: skip

    def _settings(self) -> dict[str, Any]:
        return {"settings": {"index": {"knn": self.destination.index == "hnsw"}}}

    def _vector_field(self, contents: Contents) -> dict[str, Any]:
        field: dict[str, Any] = {"type": "knn_vector", "dimension": contents.dim}
        if self.destination.index == "hnsw":
            method = {"name": "hnsw", "engine": "faiss", "space_type": self.spaces[contents.metric]}
            field["method"] = {**method, "parameters": self._graph()}
        return field


_FIELD_TYPES = (
    (pa.types.is_boolean, "boolean"),
    (pa.types.is_uint64, "unsigned_long"),
    (pa.types.is_integer, "long"),
    (pa.types.is_floating, "double"),
    (pa.types.is_timestamp, "date"),
    (pa.types.is_date, "date"),
    (pa.types.is_decimal, "keyword"),
)


def field_mapping(kind: pa.DataType) -> dict[str, Any]:
    """How a column is indexed; named for each, since a server would take a text that looks like a date for one.

    Args:
        kind: type of the column; a list has that of its values, a structure its fields.

    Example:
        >>> field_mapping(pa.list_(pa.int32())), field_mapping(pa.struct([("day", pa.date32())]))
        ({'type': 'long'}, {'properties': {'day': {'type': 'date'}}})
    """
    if pa.types.is_struct(kind):
        fields = [kind.field(place) for place in range(kind.num_fields)]
        return {"properties": {field.name: field_mapping(field.type) for field in fields}}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return field_mapping(kind.value_type)
    name = next((name for is_kind, name in _FIELD_TYPES if is_kind(kind)), None)
    return (
        {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}}
        if name is None
        else {"type": name}
    )


class _Client(NamedTuple):
    """How lines of Python reach a server.

    Attributes:
        imports: of its client.
        make: makes the client.
    """

    imports: str
    make: str

    def lines(self) -> list[str]:
        return ["import os", self.imports, f"client = {self.make}"]


_CLIENTS = {
    "elasticsearch": _Client(
        "from elasticsearch import Elasticsearch",
        "Elasticsearch(os.environ.get('ELASTICSEARCH_URL', 'http://localhost:9200'), "
        "api_key=os.environ.get('ELASTICSEARCH_API_KEY'))",
    ),
    "opensearch": _Client(
        "from opensearchpy import OpenSearch",
        "OpenSearch(os.environ.get('OPENSEARCH_URL', 'http://localhost:9200'))",
    ),
}


def _feed_lines(target: str, plan: SearchPlan) -> str:
    """Lines of Python that make the index and fill it; an index that is in use is updated."""
    name, file = plan.destination.name, plan.destination.out
    bytes_per_document = _BYTES_PER_NUMBER * max(1, plan.dim)
    pieces = 2 * max(1, min(_MOST_DOCUMENTS, _BYTES_PER_REQUEST // bytes_per_document))
    making = [
        f"with open({file + BulkFeed.fields_ending!r}) as mapping:",
        f"    client.indices.create(index={name!r}, body=json.load(mapping))",
    ]
    return "\n".join(
        [
            *(["import json"] if not plan.destination.upsert else []),
            "from itertools import islice",
            *_CLIENTS[target].lines(),
            *(making if not plan.destination.upsert else []),
            f"with open({file!r}, 'rb') as feed:",
            f"    while lines := list(islice(feed, {pieces})):  # two a document",
            f"        answer = client.bulk(index={name!r}, body=b''.join(lines))",
            "        errors = [item for item in answer['items'] if next(iter(item.values()))['status'] >= 300]",
            "        assert not errors, errors[:3]",
            f"client.indices.refresh(index={name!r})",
        ]
    )


def _search_lines(target: str, plan: SearchPlan) -> str:
    """Lines of Python that search by ``queries``, a numpy array ``[n, d]`` of float32."""
    body = {"elasticsearch": _elasticsearch_body, "opensearch": _opensearch_body}[target](plan)
    text = json.dumps({"size": plan.k, "_source": False, **body}).replace('"$query"', "query").replace("false", "False")
    return "\n".join(
        [
            "import numpy as np",
            *_CLIENTS[target].lines(),
            *plan.queries(),
            f"bodies = [{text} for query in queries.tolist()]",
            f"answers = [client.search(index={plan.destination.name!r}, body=body) for body in bodies]",
            "ids = [[hit['_id'] for hit in answer['hits']['hits']] for answer in answers]",
        ]
    )


def _elasticsearch_body(plan: SearchPlan) -> dict[str, Any]:
    nodes = max(plan.k, plan.width.get("ef_search", 0), plan.width.get("candidates", 0))
    depth = max(plan.k, plan.width.get("candidates", 0))
    nearest = {"field": "embedding", "query_vector": "$query", "k": depth, "num_candidates": nodes}
    if not plan.is_reweighted:
        return {"knn": nearest}
    product = "dotProduct(params.query, 'embedding')"
    return _weighted(product, plan, {"knn": nearest} if plan.destination.index == "hnsw" else {"match_all": {}})


def _opensearch_body(plan: SearchPlan) -> dict[str, Any]:
    depth = max(plan.k, plan.width.get("candidates", 0))
    nodes = {"method_parameters": {"ef_search": max(depth, plan.width.get("ef_search", 0))}}
    nearest: dict[str, Any] = {"knn": {"embedding": {"vector": "$query", "k": depth, **nodes}}}
    is_graph = plan.destination.index == "hnsw"
    if plan.is_reweighted:
        product = "innerProduct(params.query, doc['embedding'])"
        return _weighted(product, plan, nearest if is_graph else {"match_all": {}})
    if is_graph:
        return {"query": nearest}
    parameters = {"field": "embedding", "query_value": "$query", "space_type": OpenSearchFeed.spaces[plan.metric]}
    script = {"lang": "knn", "source": "knn_score", "params": parameters}
    return {"query": {"script_score": {"query": {"match_all": {}}, "script": script}}}


def _weighted(product: str, plan: SearchPlan, query: dict[str, Any]) -> dict[str, Any]:
    """Scores of what a query finds, made with norms; Lucene takes no negative ones."""
    source = f"double s = {product} * Math.pow(doc['norm'].value, params.power); {_POSITIVE}"
    script = {"source": source, "params": {"query": "$query", "power": plan.norm_power}}
    return {"query": {"script_score": {"query": query, "script": script}}}


TARGETS = {
    feed.target: IndexTarget(
        feed,
        partial(_search_lines, feed.target),
        place="{out}, a feed for " + feed.library,
        ending=".ndjson",
        feed=partial(_feed_lines, feed.target),
    )
    for feed in (ElasticsearchFeed, OpenSearchFeed)
}
