"""Qdrant: a collection, in a folder of one's own or on a server."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Tensor

from lightning_normdyn.passwords import without_passwords
from lightning_normdyn.retrieval.indexes.fresh_collection import FreshCollection
from lightning_normdyn.retrieval.indexes.manifest import METADATA_KEY, Manifest
from lightning_normdyn.retrieval.indexes.qdrant_points import PointId, Points, free_id, payloads
from lightning_normdyn.retrieval.indexes.refusals import check_existing_ids, check_fresh, check_upsert
from lightning_normdyn.retrieval.indexes.writer import (
    Contents,
    Destination,
    IndexTarget,
    Metric,
    SearchPlan,
    SearchResult,
    in_plain_words,
    optional,
)

_LONGEST_NAME = 220  # of the 255 bytes of a file's name; an export adds 26
_NOT_IN_NAMES = '<>:"/\\|?*\0'
_DISTANCES: dict[Metric, str] = {"inner_product": "Dot", "euclidean": "Euclid", "cosine": "Cosine"}


class QdrantCollection(FreshCollection):
    """A collection of Qdrant under dot product.

    Vectors go into a collection of their own (:class:`~.fresh_collection.FreshName`), to which the alias ``<name>`` is
    moved in one step at the end.

    Numbers and UUIDs are ids of points as they are, of other ids the UUID5 is; the payload ``id`` holds the text.

    Points that are replaced keep their ids and their other payload. With ``upsert`` the collection that is in use gets
    the new vectors point by point, and points of other ids stay.

    Args:
        destination: ``out`` is a folder, or the URL of a server, whose key is read from ``QDRANT_API_KEY``; ``index``
            is ``flat`` or ``hnsw``, of which the embedded mode makes no difference.
    """

    target = "qdrant"
    owner = "Qdrant's"

    def __init__(self, destination: Destination) -> None:
        self._qdrant = optional("qdrant_client", extra="qdrant")
        self._failure = optional("qdrant_client.http.exceptions", extra="qdrant").ApiException
        super().__init__(destination)
        _check_name(destination.name)
        check_fresh(destination, target=self.target)
        self._existing_points: dict[str, PointId] = {}
        self._taken: set[PointId] = set()
        self._new_folder = not self._remote and not Path(destination.out).exists()

    @property
    def _remote(self) -> bool:
        return "://" in self.destination.out

    @property
    def approximate(self) -> bool:
        """A server's graph is, and what takes scores of the nearest by direction; the embedded mode compares all."""
        return self._has_graph or self._needs_candidates

    @property
    def _has_graph(self) -> bool:
        return self._remote and self.destination.index == "hnsw"

    def open(self, contents: Contents) -> None:
        """Makes the collection."""
        self._manifest = contents.manifest
        self._set_width(len(contents.ids))
        with self._in_one_sentence():
            self._connect()
            is_there = self._client.collection_exists(self.name)
            if is_there:
                self._check_existing(contents)
            self._is_live = is_there and self.destination.upsert
            if self._is_live:
                self._fresh = self.name
            elif not self._goes_on(contents.resume_key):
                self._create(contents)

    def _create(self, contents: Contents) -> None:
        models = self._qdrant.models
        self._client.create_collection(
            self._fresh,
            vectors_config=models.VectorParams(
                size=contents.dim,
                distance=models.Distance(_DISTANCES[contents.metric]),
                datatype=models.Datatype(self.destination.dtype),
            ),
            hnsw_config=self._graph_config(),
            metadata={METADATA_KEY: contents.manifest.text()},
        )

    def _graph_config(self) -> Any:
        parameters, make = self.destination.parameters, self._qdrant.models.HnswConfigDiff
        if self.destination.index == "flat":
            return make(m=0)
        return make(m=parameters.m, ef_construct=parameters.ef_construction)

    def add(
        self, ids: Sequence[str], vectors: Tensor, norms: Tensor | None = None, payload: pa.Table | None = None
    ) -> None:
        """Sends them, a thousand at a time."""
        if self.destination.dtype == "float16":
            vectors = vectors.half().float()  # the embedded mode keeps float32 whatever it is told
        for start in range(0, len(ids), self.batch_rows):
            rows = slice(start, start + self.batch_rows)
            columns = None if payload is None else payload.slice(start, self.batch_rows)
            beside = payloads(ids[rows], None if norms is None else norms[rows].tolist(), columns)
            with self._in_one_sentence():
                (self._update if self._is_live else self._fill)(ids[rows], vectors[rows].tolist(), beside)

    def _fill(self, ids: Sequence[str], vectors: list[list[float]], beside: list[dict[str, Any]]) -> None:
        """Puts points into the new collection, with the payload of those that they replace."""
        known = self._existing_points
        names = [known[text] if text in known else free_id(text, self._taken) for text in ids]
        if self._existing_points:
            old = Points(self._client, self.name).payloads(names)
            beside = [{**old.get(name, {}), **payload} for name, payload in zip(names, beside, strict=True)]
        self._send(names, vectors, beside)

    def _update(self, ids: Sequence[str], vectors: list[list[float]], beside: list[dict[str, Any]]) -> None:
        """Gives points of the collection in use their new vectors, and adds those that it does not have."""
        points = Points(self._client, self.name)
        known, new = points.known(ids)
        places = [place for place, text in enumerate(ids) if text in new]
        points.update(
            self._qdrant.models,
            {known[text]: (vectors[place], beside[place]) for place, text in enumerate(ids) if text in known},
        )
        if places:
            names = [new[ids[place]] for place in places]
            self._send(names, [vectors[place] for place in places], [beside[place] for place in places])

    def _send(self, names: list[PointId], vectors: list[list[float]], beside: list[dict[str, Any]]) -> None:
        batch = self._qdrant.models.Batch(ids=names, vectors=vectors, payloads=beside)
        self._client.upsert(self._fresh, batch, wait=True)

    def close(self) -> None:
        """Moves the alias."""
        with self._in_one_sentence():
            if self._is_live:
                self._client.update_collection(self._old_collection, metadata={METADATA_KEY: self._manifest.text()})
                self._disconnect()
                return
            models, operations = self._qdrant.models, []
            self._copy_payload_indexes()
            self._moving = True
            if self._old_collection == self.name:  # a collection, not an alias: the name is free only once it is gone
                self._client.delete_collection(self.name)
            elif self._old_collection is not None:
                old_alias = models.DeleteAlias(alias_name=self.name)
                operations.append(models.DeleteAliasOperation(delete_alias=old_alias))
            alias = models.CreateAlias(collection_name=self._fresh, alias_name=self.name)
            operations.append(models.CreateAliasOperation(create_alias=alias))
            self._client.update_collection_aliases(operations)
            if self._old_collection is not None and self._old_collection != self.name:
                self._client.delete_collection(self._old_collection)
            self._remove_leftovers(shared=self._remote)
            self._disconnect()

    def _copy_payload_indexes(self) -> None:
        """Of a server's collection that is replaced; the embedded mode has none."""
        if self._old_collection is None or not self._remote:
            return
        for field, index in self._client.get_collection(self._old_collection).payload_schema.items():
            self._client.create_payload_index(self._fresh, field, field_schema=index.params or index.data_type)

    def discard(self) -> None:
        """Removes the unfinished collection, and the folder if it was made for it."""
        if self._client is None:
            return
        # Once the old collection or alias may be gone, the new one is all that there is.
        with suppress(self._failure, sqlite3.Error):  # a server or a disk that fails is what the error was about
            if not (self._moving or self._is_live) and self._client.collection_exists(self._fresh):
                self._client.delete_collection(self._fresh)
        self._disconnect()
        if self._new_folder and not self._moving:
            shutil.rmtree(self.destination.out)

    def remove(self) -> None:
        """Deletes the collection and its alias."""
        self._connect()
        with self._in_one_sentence():
            self._client.delete_collection(self._fresh)  # and aliases with it
            self._disconnect()

    def search(self, queries: Tensor, k: int) -> SearchResult:
        """Asks the collection by its alias."""
        self._connect()
        values, power = self.width.values, self._manifest.exponent if self._needs_candidates else None
        depth = max(k, values.get("candidates", 0))
        settings = self._qdrant.models.SearchParams(hnsw_ef=values["ef_search"]) if "ef_search" in values else None
        try:
            with self._in_one_sentence():
                answers = [
                    self._client.query_points(self.name, query=query, limit=depth, search_params=settings).points
                    for query in queries.tolist()
                ]
        finally:
            self._disconnect()
        if power is not None:
            for points in answers:
                for point in points:
                    point.score *= point.payload["norm"] ** power
            answers = [sorted(points, key=lambda point: -point.score)[:k] for points in answers]
        return SearchResult(
            [[point.payload["id"] for point in points] for points in answers],
            [[point.score for point in points] for points in answers],
        )

    def _connect(self) -> None:
        out = self.destination.out
        if self._remote:
            try:
                self._client = self._qdrant.QdrantClient(
                    url=out, api_key=os.environ.get("QDRANT_API_KEY"), check_compatibility=False
                )
            except ValueError as error:
                raise ValueError(
                    f"out: expected a URL such as http://localhost:6333, got '{without_passwords(out)}' "
                    f"({without_passwords(str(error), out)})"
                ) from None  # whose text may hold the password
            return
        if Path(out).exists() and not Path(out).is_dir():
            raise NotADirectoryError(f"out: expected a folder or the URL of a server, got the file '{out}'")
        try:
            self._client = self._qdrant.QdrantClient(path=out)
        except RuntimeError as error:  # its folder is locked
            raise ValueError(f"out: Qdrant cannot open the folder '{out}' ({error})") from error

    def _disconnect(self) -> None:
        self._client.close()
        self._client = None

    def _unused_names(self) -> list[str]:
        """Collections that no alias leads to."""
        in_use = {alias.collection_name for alias in self._client.get_aliases().aliases}
        return [name for name in self._names() if name not in in_use]

    def _names(self) -> list[str]:
        return [collection.name for collection in self._client.get_collections().collections]

    def _rows_of(self, collection: str) -> int:
        return int(self._client.count(collection, exact=True).count)

    def _delete(self, collection: str) -> None:
        self._client.delete_collection(collection)

    @contextmanager
    def _in_one_sentence(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise OSError(
                f"out: Qdrant cannot write '{self.destination.out}' ({error}); free some space, or choose another place"
            ) from error
        except self._failure as error:
            out, message = self.destination.out, in_plain_words(error)
            reason = without_passwords(message, out)
            raise ValueError(f"out: Qdrant at '{without_passwords(out)}' refuses ({reason}); check URL and key") from (
                error if reason == message else None
            )

    def _check_existing(self, contents: Contents) -> None:
        place = self._label
        aliases = {alias.alias_name: alias.collection_name for alias in self._client.get_aliases().aliases}
        self._old_collection = aliases.get(self.name, self.name)
        parameters = self._client.get_collection(self.name).config.params.vectors
        if not hasattr(parameters, "size"):
            raise ValueError(f"name: {place} has named vectors, which an export has not; choose another name")
        if parameters.distance.value != _DISTANCES[contents.metric]:
            reason = (
                "which divides every norm out again"
                if parameters.distance.value == "Cosine"
                else "which ranks otherwise"
            )
            raise ValueError(
                f"name: {place} compares by {parameters.distance.value}, {reason}; expected "
                f"{_DISTANCES[contents.metric]}: choose another name"
            )
        if parameters.size != contents.dim:
            raise ValueError(
                f"name: {place} holds {parameters.size} numbers a vector, got {contents.dim}; choose another name"
            )
        if self.destination.upsert:
            text = (self._client.get_collection(self.name).config.metadata or {}).get(METADATA_KEY)
            check_upsert(None if text is None else Manifest.parsed(text), contents.manifest, place=place)
            self.destination.parameters.check(
                [*self.width.values], index=self.destination.index, target="qdrant --upsert"
            )
            return
        self._existing_points = dict(Points(self._client, self.name).ids())
        self._taken, existing_ids = set(self._existing_points.values()), list(self._existing_points)
        check_existing_ids(existing_ids, contents.ids, place=place, overwrite=self.destination.overwrite)


def _check_name(name: str) -> None:
    """Refuses names that Qdrant or its folder cannot hold; a collection's own name has nine letters more.

    Raises:
        ValueError: if it is one.
    """
    if not name.strip() or any(sign in name for sign in _NOT_IN_NAMES) or len(name.encode()) > _LONGEST_NAME:
        raise ValueError(
            f"name: expected 1 to {_LONGEST_NAME} bytes without any of {' '.join(_NOT_IN_NAMES[:-1])}, got "
            f"{name[:40]!r}; choose a plain word"
        )


def _lines(plan: SearchPlan) -> str:
    """Lines of Python that search by ``queries``, a numpy array ``[n, d]`` of float32."""
    out, name = without_passwords(plan.destination.out), plan.destination.name
    is_reweighted = plan.norm_power not in (None, 0)
    depth = max(plan.k, plan.width.get("candidates", 0)) if is_reweighted else plan.k
    settings = ""
    if "ef_search" in plan.width:
        settings = f", search_params=models.SearchParams(hnsw_ef={plan.width['ef_search']})"
    place = f"url={out!r}, api_key=os.environ.get('QDRANT_API_KEY')" if "://" in out else f"path={out!r}"
    lines = [
        *(["import os"] if "://" in out else []),
        "import numpy as np",
        "from qdrant_client import QdrantClient, models",
        *plan.queries(),
        f"client = QdrantClient({place})",
        f"asked = [client.query_points({name!r}, query=query, limit={depth}{settings}) for query in queries.tolist()]",
        "answers = [answer.points for answer in asked]",
    ]
    if is_reweighted:
        score = f'-point.score * point.payload["norm"]{plan.weight}'
        lines.append(f"answers = [sorted(points, key=lambda point: {score})[:{plan.k}] for points in answers]")
    return "\n".join([*lines, 'ids = [[point.payload["id"] for point in points] for points in answers]'])


TARGETS = {
    "qdrant": IndexTarget(
        QdrantCollection,
        _lines,
        extra="qdrant",
        place="{name} in {out}",
    )
}
