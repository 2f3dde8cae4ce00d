"""Facts as triples of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class KnowledgeGraph:
    """Entities, relations and the facts among them.

    Attributes:
        entities: name of each entity; its place is its number.
        relations: name of each relation.
        triples: split (``train``, ``validation``, ``test``) to facts ``[n, 3]``, int64: head, relation, tail.
    """

    entities: Sequence[str]
    relations: Sequence[str]
    triples: Mapping[str, Tensor]
