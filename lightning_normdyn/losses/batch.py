"""Checks the inputs of a contrastive loss (embeddings, ids, positives, labels) and puts them into one record."""

from __future__ import annotations

import functools
from typing import NamedTuple, TypedDict

import torch
from einops import rearrange
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import NO_ID
from lightning_normdyn.losses.batch_checks import (
    check_embeddings,
    check_ids,
    check_labels,
    check_names,
    check_per_query,
    check_positives,
)
from lightning_normdyn.losses.gather import Trait
from lightning_normdyn.losses.options import Unpack
from lightning_normdyn.losses.teacher import Teacher


class PairOptions(TypedDict, total=False):
    """What a loss may be told of its pairs, see :meth:`InBatchLoss.forward`."""

    hard_negatives: Tensor | None
    labels: Tensor | None
    positives: Tensor | None
    query_ids: Tensor | None
    document_ids: Tensor | None
    hard_negative_ids: Tensor | None
    weights: Tensor | None
    temperatures: Tensor | None
    query_guides: Tensor | None
    document_guides: Tensor | None
    hard_negative_guides: Tensor | None


class Batch(NamedTuple):
    """The pairs of one rank.

    Attributes:
        queries: ``[n, d]``.
        documents: ``[m, d]`` with m >= n: document i is the positive of query i, the others belong to nobody.
        hard_negatives: ``[k, d]``, for all queries alike.
        labels: class of each document, ``[m]``, the first n of which are the queries' too; ``None`` without classes.
        positives: numbers of further documents that are positives of a query, ``[n, p]``, -1 for none.
        query_ids: ``[n]``, or ``None``.
        document_ids: ``[m]``, or ``None``.
        hard_negative_ids: ``[k]``, or ``None``.
        weights: of the pairs in the loss, ``[n]``, or ``None``.
        temperatures: what the scores of each query are divided by, ``[n]``, or ``None``.
        query_guides: a second model's embeddings, ``[n, g]``, or ``None``.
        document_guides: likewise, ``[m, g]``.
        hard_negative_guides: likewise, ``[k, g]``.
        teacher: what the scores are to come near to, or ``None``.
    """

    queries: Tensor
    documents: Tensor
    hard_negatives: Tensor
    labels: Tensor | None
    positives: Tensor | None
    query_ids: Tensor | None
    document_ids: Tensor | None
    hard_negative_ids: Tensor | None
    weights: Tensor | None = None
    temperatures: Tensor | None = None
    query_guides: Tensor | None = None
    document_guides: Tensor | None = None
    hard_negative_guides: Tensor | None = None
    teacher: Teacher | None = None

    @classmethod
    def check(cls, queries: Tensor, documents: Tensor, **options: Unpack[PairOptions]) -> Batch:
        """Refuses what does not fit together.

        Raises:
            TypeError: if there is no such option.
            ValueError: naming the argument, what came, and the likely fix.
        """
        check_names(options, PairOptions.__annotations__)
        _check_options(options)
        check_embeddings(queries, documents)
        n, m = len(queries), len(documents)
        labels, positives = options.get("labels"), options.get("positives")
        hard_negatives = _flat_hard_negatives(queries, options.get("hard_negatives"))
        check_labels(labels, n, m)
        if positives is not None and labels is not None:
            raise ValueError("positives: came with labels, which name positives too; give one of them")
        check_positives(positives, n, m)
        ids = [options.get("query_ids"), options.get("document_ids"), options.get("hard_negative_ids")]
        check_ids(ids, n, m, len(hard_negatives) // n)
        if ids[2] is not None:
            ids[2] = rearrange(ids[2], "n h -> (n h)")
        check_per_query(queries, weights=options.get("weights"), temperatures=options.get("temperatures"))
        sides = _alike(queries, documents, hard_negatives)
        numbers = [
            None if values is None else values.to(queries.device, torch.int64) for values in (labels, positives, *ids)
        ]
        guides = _checked_guides(queries, m, len(hard_negatives) // n, options)
        return cls(
            queries=sides[0],
            documents=sides[1],
            hard_negatives=sides[2],
            labels=numbers[0],
            positives=numbers[1],
            query_ids=numbers[2],
            document_ids=numbers[3],
            hard_negative_ids=numbers[4],
            weights=options.get("weights"),
            temperatures=options.get("temperatures"),
            query_guides=guides.get("query_guides"),
            document_guides=guides.get("document_guides"),
            hard_negative_guides=guides.get("hard_negative_guides"),
        )

    def cut(self, coordinates: slice) -> Batch:
        """The same pairs with some coordinates of their embeddings."""
        return self._replace(
            queries=self.queries[:, coordinates],
            documents=self.documents[:, coordinates],
            hard_negatives=self.hard_negatives[:, coordinates],
        )

    @property
    def query_labels(self) -> Tensor:
        """Classes of the queries, ``[n]``."""
        assert self.labels is not None
        return self.labels[: len(self.queries)]

    @property
    def has_several_positives(self) -> bool:
        """Whether a query may have more than one."""
        return self.labels is not None or self.positives is not None

    @property
    def has_ids(self) -> bool:
        """Whether ids tell anything; all ranks must give the same kinds."""
        return any(ids is not None for ids in (self.query_ids, self.document_ids, self.hard_negative_ids))

    @property
    def is_float16(self) -> bool:
        """Whether embeddings came in float16."""
        return self.queries.dtype == torch.float16

    def traits(self) -> list[Trait]:
        """What all ranks must do alike, or they would wait for each other's messages for ever."""
        carry_gradient = "1 if they carry gradient"
        return [
            Trait("labels", "1 if given", int(self.labels is not None)),
            Trait("query_ids or document_ids", "1 if given", int(self.has_ids)),
            Trait("weights", "1 if given", int(self.weights is not None)),
            Trait("weights", "1 if they carry gradient", int(_carries_gradient(self.weights))),
            Trait("temperatures", "1 if they carry gradient", int(_carries_gradient(self.temperatures))),
            Trait("query_guides", "dimension", 0 if self.query_guides is None else self.query_guides.shape[1]),
            Trait("queries", carry_gradient, int(self.queries.requires_grad)),
            Trait("documents", carry_gradient, int(self.documents.requires_grad)),
            Trait("hard_negatives", carry_gradient, int(self.hard_negatives.requires_grad)),
            Trait("queries", "bytes of a number", max(4, self.queries.dtype.itemsize)),
            Trait("queries", "dimension", self.queries.shape[1]),
            *([] if self.teacher is None else self.teacher.traits()),
        ]

    def query_keys(self) -> list[Tensor]:
        """Ids of the queries and of their positives, each ``[n]``; pairs that agree in either are no negatives."""
        n = len(self.queries)
        return [self._or_none(self.query_ids, n), self._or_none(self.document_ids, len(self.documents))[:n]]

    def document_keys(self) -> list[Tensor]:
        """Ids of the queries that documents ``[m]`` belong to, and their own."""
        m = len(self.documents)
        queries = self._or_none(self.query_ids, len(self.queries))
        return [_padded(queries, m), self._or_none(self.document_ids, m)]

    def hard_negative_keys(self) -> list[Tensor]:
        """The same of the hard negatives ``[k]``, which belong to no query."""
        k = len(self.hard_negatives)
        return [self._or_none(None, k), self._or_none(self.hard_negative_ids, k)]

    def _or_none(self, ids: Tensor | None, length: int) -> Tensor:
        if ids is None:
            return torch.full((length,), NO_ID, device=self.queries.device)
        return ids


def _checked_guides(queries: Tensor, m: int, hard_per_query: int, options: PairOptions) -> dict[str, Tensor]:
    """Embeddings of the guide, those of hard negatives one below the other; nothing where there are none."""
    sides = {
        "query_guides": options.get("query_guides"),
        "document_guides": options.get("document_guides"),
        "hard_negative_guides": options.get("hard_negative_guides"),
    }
    guides = {name: values for name, values in sides.items() if values is not None}
    if not guides:
        return {}
    n = len(queries)
    shapes: dict[str, tuple[int, ...]] = {"query_guides": (n,), "document_guides": (m,)}
    if hard_per_query:
        shapes["hard_negative_guides"] = (n, hard_per_query)
    for name, shape in shapes.items():
        if name not in guides:
            raise ValueError(
                f"{name}: expected embeddings {[*shape, 'g']} beside {min(guides)}; guide all sides or none"
            )
    if len(guides) > len(shapes):
        raise ValueError("hard_negative_guides: there are no hard negatives; leave them out")
    width = guides["query_guides"].shape[-1]
    for name, values in guides.items():
        if not isinstance(values, Tensor) or not values.is_floating_point() or values.shape != (*shapes[name], width):
            came = f"{values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"{name}: expected floating-point embeddings {[*shapes[name], 'g']}, got {came}")
        if values.device != queries.device:
            raise ValueError(f"{name}: expected on the device of queries, {queries.device}, got {values.device}")
    hard = guides.get("hard_negative_guides", guides["query_guides"][:0])
    return guides | {"hard_negative_guides": hard.flatten(0, -2)}


def _carries_gradient(values: Tensor | None) -> bool:
    return values is not None and values.requires_grad


def _alike(*sides: Tensor) -> list[Tensor]:
    """Widened to one precision if they came in several."""
    if len({side.dtype for side in sides}) == 1:
        return list(sides)
    widest = functools.reduce(torch.promote_types, (side.dtype for side in sides), torch.float32)
    return [side.to(widest) for side in sides]


def _check_options(options: PairOptions) -> None:
    for name, values in options.items():
        if values is not None and not isinstance(values, Tensor):
            raise ValueError(f"{name}: expected a tensor, got {type(values).__name__}; number what has names")


def _flat_hard_negatives(queries: Tensor, hard_negatives: Tensor | None) -> Tensor:
    """One below the other, ``[k, d]``."""
    n, d = queries.shape
    if hard_negatives is None:
        return queries[:0]
    if hard_negatives.ndim != 3 or hard_negatives.shape[0] != n or hard_negatives.shape[2] != d:
        raise ValueError(
            f"hard_negatives: expected [{n}, h, {d}], got {tuple(hard_negatives.shape)}; h is how many a query has"
        )
    if not hard_negatives.is_floating_point() or hard_negatives.device != queries.device:
        raise ValueError(
            f"hard_negatives: expected floating-point embeddings on {queries.device}, got {hard_negatives.dtype} "
            f"on {hard_negatives.device}"
        )
    return rearrange(hard_negatives, "n h d -> (n h) d")


def _padded(ids: Tensor, length: int) -> Tensor:
    return torch.cat((ids, ids.new_full((length - len(ids),), NO_ID)))
