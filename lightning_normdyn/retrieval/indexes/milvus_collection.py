"""Milvus: a collection, in a file of Milvus Lite or on a server."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
from torch import Tensor

from lightning_normdyn.datasets.payload_columns import json_value
from lightning_normdyn.passwords import without_passwords
from lightning_normdyn.retrieval.indexes.fresh_collection import FreshCollection
from lightning_normdyn.retrieval.indexes.manifest import METADATA_KEY, Manifest
from lightning_normdyn.retrieval.indexes.milvus_place import MilvusPlace
from lightning_normdyn.retrieval.indexes.milvus_schema import (
    EXPORT_FIELDS,
    METRICS,
    Fields,
    check_sizes,
    collection_schema,
    entity_id,
    index_parameters,
)
from lightning_normdyn.retrieval.indexes.refusals import (
    check_existing_ids,
    check_fresh,
    check_neighbours,
    check_upsert,
)
from lightning_normdyn.retrieval.indexes.writer import (
    Contents,
    Destination,
    IndexTarget,
    SearchPlan,
    SearchResult,
    optional,
)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")


class MilvusCollection(FreshCollection):
    """A collection of Milvus under inner product, with the fields ``id`` and ``embedding``, and ``norm`` if kept apart.

    Vectors go into a collection of their own (:class:`~.fresh_collection.FreshName`), which takes the name at the end;
    where the name is an alias, the alias is moved to it in one step. Payload goes into dynamic fields; entities that
    are replaced keep the further fields that they have, of a schema or dynamic. With ``upsert`` entities of the
    collection that is in use get their new vectors by id, and those of other ids stay.

    Args:
        destination: ``out`` is a folder of Milvus Lite, whose name ends in ``.db``, or the URL of a server, whose token
            is read from ``MILVUS_TOKEN``; ``index`` is ``flat`` or ``hnsw``.
    """

    target = "milvus"
    owner = "Milvus'"

    def __init__(self, destination: Destination) -> None:
        self._pymilvus = optional("pymilvus", extra="milvus")
        super().__init__(destination, sign="_")
        if destination.dtype != "float32":
            raise ValueError("dtype: expected float32 for milvus, since Milvus Lite has no other, got float16")
        if not _NAME.fullmatch(destination.name):
            raise ValueError(
                f"name: expected letters, digits and underscores, no digit first, for Milvus, got "
                f"{destination.name[:40]!r}; choose a plain word"
            )
        check_fresh(destination, target=self.target)
        check_neighbours(destination.parameters.m, library="Milvus")
        self._place = MilvusPlace(destination.out)
        self._has_alias = False
        self._has_numbers = False
        self._known_ids: set[str] = set()

    @property
    def approximate(self) -> bool:
        """A graph is, and what takes scores of the nearest by direction."""
        return self.destination.index == "hnsw" or self._needs_candidates

    def open(self, contents: Contents) -> None:
        """Makes the collection."""
        self._manifest = contents.manifest
        self._set_width(len(contents.ids))
        check_sizes(contents)
        with self._place.in_one_sentence():
            self._connect()
            is_there = self._client.has_collection(self.name)
            fields = self._check_existing(contents) if is_there else {}
            self._has_numbers = is_there and fields["id"]["type"] == self._pymilvus.DataType.INT64
            for text in contents.ids:
                self._entity_id(text)
            self._is_live = is_there and self.destination.upsert
            if self._is_live:
                self._fresh = self.name
            elif not self._goes_on(contents.resume_key):
                self._create(contents, fields)

    def _create(self, contents: Contents, old_fields: Fields) -> None:
        schema = collection_schema(self._pymilvus, contents, old_fields, has_numbers=self._has_numbers)
        indexes = self._client.prepare_index_params()
        parameters = index_parameters(self.destination.index, self.destination.parameters)
        indexes.add_index("embedding", metric_type=METRICS[contents.metric], **parameters)
        self._client.create_collection(self._fresh, schema=schema, index_params=indexes)

    def add(
        self, ids: Sequence[str], vectors: Tensor, norms: Tensor | None = None, payload: pa.Table | None = None
    ) -> None:
        """Sends them, a thousand at a time."""
        for start in range(0, len(ids), self.batch_rows):
            rows = slice(start, start + self.batch_rows)
            entities = [
                {"id": self._entity_id(text), "embedding": vector}
                for text, vector in zip(ids[rows], vectors[rows].tolist(), strict=True)
            ]
            for entity, norm in zip(entities, [] if norms is None else norms[rows].tolist(), strict=norms is not None):
                entity["norm"] = norm
            columns = [] if payload is None else payload.slice(start, self.batch_rows).to_pylist()
            for entity, column in zip(entities, columns, strict=payload is not None):
                entity.update(json_value(column))
            with self._place.in_one_sentence():
                if self._is_live:
                    self._client.upsert(self.name, entities, partial_update=True)
                else:
                    self._client.upsert(self._fresh, self._with_old_fields(ids[rows], entities))

    def _entity_id(self, text: str) -> str | int:
        return entity_id(text, is_number=self._has_numbers)

    def _with_old_fields(self, ids: Sequence[str], entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Entities with the further fields of those that they replace."""
        known = [self._entity_id(text) for text in ids if text in self._known_ids]
        if not known:
            return entities
        old = {entity["id"]: dict(entity) for entity in self._client.query(self.name, ids=known, output_fields=["*"])}
        for entity in old.values():
            for name in EXPORT_FIELDS:
                entity.pop(name, None)
        return [{**old.get(entity["id"], {}), **entity} for entity in entities]

    def close(self) -> None:
        """Gives the collection its name."""
        with self._place.in_one_sentence():
            self._client.flush(self._fresh)
            self._client.alter_collection_properties(
                self._old_collection if self._is_live else self._fresh, properties={METADATA_KEY: self._manifest.text()}
            )
            if not self._is_live:
                self._moving = True
                self._move()
            self._disconnect()

    def _move(self) -> None:
        if self._has_alias:
            self._client.alter_alias(self._fresh, self.name)
            self._client.drop_collection(self._old_collection)
        else:
            if self._old_collection is not None:
                self._client.drop_collection(self._old_collection)
            self._client.rename_collection(self._fresh, self.name)
        self._client.load_collection(self.name)
        self._remove_leftovers(shared=self._place.is_remote)

    def discard(self) -> None:
        """Removes the unfinished collection, and what was made for it."""
        if self._client is None:
            return
        with (
            suppress(self._pymilvus.MilvusException),
            self._place.quiet(),
        ):  # a server that fails is what the error was about
            if not (self._moving or self._is_live) and self._client.has_collection(self._fresh):
                self._client.drop_collection(self._fresh)
        self._disconnect()
        if not self._moving:
            self._place.remove()

    def remove(self) -> None:
        """Drops the collection."""
        with self._place.in_one_sentence():
            self._connect()
            self._client.drop_collection(self.name)
            self._disconnect()

    def search(self, queries: Tensor, k: int) -> SearchResult:
        """Asks the collection by its name."""
        values, power = self.width.values, self._manifest.exponent if self._needs_candidates else 0.0
        depth = max(k, values.get("candidates", 0))
        with self._place.in_one_sentence():
            self._connect()
            try:
                self._client.load_collection(self.name)
                answers = self._client.search(
                    self.name,
                    data=queries.float().tolist(),
                    anns_field="embedding",
                    limit=depth,
                    search_params=_search_parameters(values, depth),
                    output_fields=["norm"] if power else [],
                )
            finally:
                self._disconnect()
        sign = -1.0 if self._manifest.metric == "euclidean" else 1.0
        rankings = []
        for hits in answers:
            weights = [hit["entity"]["norm"] ** power if power else 1.0 for hit in hits]
            pairs = zip(hits, weights, strict=True)
            scores = [(sign * hit["distance"] * weight, str(hit["id"])) for hit, weight in pairs]
            rankings.append(sorted(scores, key=lambda pair: -pair[0])[:k])
        return SearchResult(
            [[row_id for _, row_id in ranking] for ranking in rankings],
            [[score for score, _ in ranking] for ranking in rankings],
        )

    def _connect(self) -> None:
        self._client = self._place.connect()

    def _disconnect(self) -> None:
        self._place.disconnect(self._client)
        self._client = None

    def _names(self) -> list[str]:
        return list(self._client.list_collections())

    def _unused_names(self) -> list[str]:
        names = [name for name in self._names() if name != self.name]
        return [name for name in names if not self._client.list_aliases(name)["aliases"]]

    def _rows_of(self, collection: str) -> int:
        self._client.load_collection(collection)
        (row,) = self._client.query(collection, filter="", output_fields=["count(*)"], consistency_level="Strong")
        return int(row["count(*)"])

    def _delete(self, collection: str) -> None:
        self._client.drop_collection(collection)

    def _check_existing(self, contents: Contents) -> dict[str, dict[str, Any]]:
        """Fields of the collection that is there, by name."""
        place = self._label
        description = self._client.describe_collection(self.name)
        self._old_collection = description["collection_name"]
        self._has_alias = self._old_collection != self.name
        fields: dict[str, dict[str, Any]] = {field["name"]: field for field in description["fields"]}
        vectors = [name for name, field in fields.items() if "dim" in field.get("params", {})]
        if "id" not in fields or not fields["id"].get("is_primary") or vectors != ["embedding"]:
            raise ValueError(
                f"name: {place} has the fields {', '.join(fields)}; expected the key id and the only vector embedding "
                "among them: choose another name"
            )
        dim = int(fields["embedding"]["params"]["dim"])
        if dim != contents.dim:
            raise ValueError(f"name: {place} holds {dim} numbers a vector, got {contents.dim}; choose another name")
        self._check_metric(contents, place)
        self._client.load_collection(self.name)
        if self.destination.upsert:
            text = description.get("properties", {}).get(METADATA_KEY)
            check_upsert(None if text is None else Manifest.parsed(text), contents.manifest, place=place)
            self.destination.parameters.check(
                [*self.width.values], index=self.destination.index, target="milvus --upsert"
            )
            return fields
        self._known_ids = set(self._stored_ids())
        check_existing_ids(sorted(self._known_ids), contents.ids, place=place, overwrite=self.destination.overwrite)
        return fields

    def _check_metric(self, contents: Contents, place: str) -> None:
        for name in self._client.list_indexes(self.name, "embedding"):
            metric = self._client.describe_index(self.name, name)["metric_type"]
            if metric != METRICS[contents.metric]:
                reason = "which divides every norm out again" if metric == "COSINE" else "which ranks otherwise"
                raise ValueError(
                    f"name: {place} compares by {metric}, {reason}; expected {METRICS[contents.metric]}: choose "
                    "another name"
                )

    def _stored_ids(self) -> Iterator[str]:
        pages = self._client.query_iterator(self.name, batch_size=self.batch_rows, filter="", output_fields=["id"])
        while page := pages.next():
            yield from (str(entity["id"]) for entity in page)
        pages.close()


def _search_parameters(width: Mapping[str, int], depth: int) -> dict[str, Any]:
    """Of a search; Milvus wants a graph to look at no fewer nodes than are to be found."""
    return {"params": {"ef": max(depth, width["ef_search"])}} if "ef_search" in width else {}


def _lines(plan: SearchPlan) -> str:
    """Lines of Python that search by ``queries``, a numpy array ``[n, d]`` of float32."""
    out, name = without_passwords(plan.destination.out), plan.destination.name
    depth = max(plan.k, plan.width.get("candidates", 0)) if plan.is_reweighted else plan.k
    settings = f", search_params={_search_parameters(plan.width, depth)}" if "ef_search" in plan.width else ""
    norms = ", output_fields=['norm']" if plan.is_reweighted else ""
    token = ", token=os.environ.get('MILVUS_TOKEN', '')" if "://" in out else ""
    lines = [
        *(["import os"] if token else []),
        "import numpy as np",
        "from pymilvus import MilvusClient",
        *plan.queries(),
        f"client = MilvusClient({out!r}{token})",
        f"client.load_collection({name!r})",
        f"answers = client.search({name!r}, data=queries.tolist(), limit={depth}{settings}{norms})",
    ]
    if plan.is_reweighted:
        score = f"-hit['distance'] * hit['entity']['norm']{plan.weight}"
        lines.append(f"answers = [sorted(hits, key=lambda hit: {score})[:{plan.k}] for hits in answers]")
    return "\n".join([*lines, "ids = [[hit['id'] for hit in hits] for hits in answers]"])


TARGETS = {
    "milvus": IndexTarget(MilvusCollection, _lines, extra="milvus", place="{name} in {out}", ending=".db"),
}
