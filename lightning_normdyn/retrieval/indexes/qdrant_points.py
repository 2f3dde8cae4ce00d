"""Points of a Qdrant collection: their ids, and their payload as it is carried along."""

from __future__ import annotations

import uuid
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from lightning_normdyn.datasets.payload_columns import json_value

PointId = int | str
_PAGE = 4096
_LARGEST = 2**64


def point_id(text: str) -> PointId:
    """The id of a point: the number or the UUID that an id is, else the UUID5 of the text.

    Args:
        text: the id; numbers without signs and leading zeros, UUIDs in small letters with dashes count as such.

    Example:
        >>> point_id("42"), point_id("a8098c1a-f86e-11da-bd1a-00112444be1e")
        (42, 'a8098c1a-f86e-11da-bd1a-00112444be1e')
        >>> point_id("042")
        'c3032d4d-8a01-5d42-a17f-32e901230375'
    """
    if text.isascii() and text.isdecimal() and str(int(text)) == text and int(text) < _LARGEST:
        return int(text)
    try:
        if str(uuid.UUID(text)) == text:
            return text
    except ValueError:
        pass
    return hashed_id(text)


def hashed_id(text: str) -> str:
    """The UUID5 of an id.

    Example:
        >>> hashed_id("a")
        'd720e32d-4765-5177-b65b-42dd7f6e6445'
    """
    return str(uuid.uuid5(uuid.NAMESPACE_OID, text))


def free_id(text: str, taken: Container[PointId]) -> PointId:
    """What to call a new point: :func:`point_id`, or the hash where another id's point is called so.

    Example:
        >>> free_id("7", []), free_id("7", [7])
        (7, 'd6ed313e-533a-55a6-aa06-4c00bc132812')
    """
    name = point_id(text)
    return hashed_id(text) if name in taken else name


def payloads(ids: Sequence[str], norms: Sequence[float] | None, columns: pa.Table | None) -> list[dict[str, Any]]:
    """What lies beside the vectors.

    Args:
        ids: ``n``.
        norms: ``n``, where they are kept apart.
        columns: ``n`` rows, where there are further columns.

    Example:
        >>> payloads(["a"], [2.0], pa.table({"year": [1999]}))
        [{'id': 'a', 'norm': 2.0, 'year': 1999}]
    """
    made: list[dict[str, Any]] = [{"id": text} for text in ids]
    for payload, norm in zip(made, norms or (), strict=norms is not None):
        payload["norm"] = norm
    for payload, row in zip(made, columns.to_pylist() if columns is not None else (), strict=columns is not None):
        payload.update(json_value(row))
    return made


class Points(NamedTuple):
    """Points of a collection that is there.

    Attributes:
        client: of Qdrant.
        collection: its name, or an alias.
    """

    client: Any
    collection: str

    def ids(self) -> Iterator[tuple[str, PointId]]:
        """Every id as it is in payload, or else the point's own, and the point's own."""
        page = None
        while True:
            points, page = self.client.scroll(
                self.collection, limit=_PAGE, offset=page, with_payload=["id"], with_vectors=False
            )
            for point in points:
                yield str((point.payload or {}).get("id", point.id)), point.id
            if page is None:
                return

    def payloads(self, ids: Sequence[PointId]) -> dict[PointId, dict[str, Any]]:
        """Of those among these that are there."""
        points = self.client.retrieve(self.collection, ids=list(ids), with_payload=True, with_vectors=False)
        return {point.id: point.payload or {} for point in points}

    def known(self, ids: Sequence[str]) -> tuple[dict[str, PointId], dict[str, PointId]]:
        """The points of those among these ids that are there, by number, UUID or hash, and what to call the others."""
        names = {name: text for text in ids for name in (hashed_id(text), point_id(text))}
        holders = {name: str(payload.get("id", name)) for name, payload in self.payloads(list(names)).items()}
        known = {text: name for name, text in names.items() if holders.get(name) == text}
        return known, {text: free_id(text, holders) for text in ids if text not in known}

    def update(self, models: Any, points: Mapping[PointId, tuple[list[float], dict[str, Any]]]) -> None:
        """Gives points that are there new vectors, and adds to their payload.

        Args:
            models: of the client.
            points: vectors and payload by point.
        """
        if not points:
            return
        vectors = [models.PointVectors(id=name, vector=vector) for name, (vector, _) in points.items()]
        operations = [models.UpdateVectorsOperation(update_vectors=models.UpdateVectors(points=vectors))]
        operations += [
            models.SetPayloadOperation(set_payload=models.SetPayload(payload=payload, points=[name]))
            for name, (_, payload) in points.items()
        ]
        self.client.batch_update_points(self.collection, operations, wait=True)
