"""Records of data sets: the frozen dataclasses that readers return and tasks take, one for each kind of task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.object_checks import check_instance, check_sequence, check_texts
from lightning_normdyn.core.tensor_checks import check_tensors
from lightning_normdyn.datasets.judgements import Judgements

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Texts:
    """Texts and the ids they go by, in one order; a sequence may lie on disk.

    Attributes:
        ids: distinct, as the source spells them.
        texts: the same number of texts.
    """

    ids: Sequence[str]
    texts: Sequence[str]

    def __post_init__(self) -> None:
        check_texts(ids=self.ids, texts=self.texts)
        _check_lengths(ids=self.ids, texts=self.texts)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class JudgedTexts:
    """A retrieval set.

    Attributes:
        documents: what is searched.
        queries: of all splits.
        judgements: split (``train``, ``validation``, ``test``) to its pairs; a split's queries are those it judges.
        covariates: name to one number a document, for tables of what norms go along with.
        answers: position of a query to the answers that count as right, where the source knows any.
        excluded_pairs: split to pairs that a ranking must leave out, neither right nor wrong.
    """

    documents: Texts
    queries: Texts
    judgements: Mapping[str, Judgements]
    covariates: Mapping[str, Sequence[float]] = field(default_factory=dict)
    answers: Mapping[int, Sequence[str]] = field(default_factory=dict)
    excluded_pairs: Mapping[str, Judgements] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_instance(Texts, documents=self.documents, queries=self.queries)
        mappings = {name: getattr(self, name) for name in ("judgements", "covariates", "answers", "excluded_pairs")}
        check_instance(Mapping, hint="a dictionary by name will do", **mappings)
        if not self.judgements:
            raise ValueError("judgements: expected those of a split at least, got none; name it test")
        for name in ("judgements", "excluded_pairs"):
            for pairs in mappings[name].values():
                Judgements.require(pairs, name).check(len(self.queries), len(self.documents), name)
        for name, column in self.covariates.items():
            if len(column) != len(self.documents) or not all(isinstance(number, int | float) for number in column):
                raise ValueError(
                    f"covariates: expected one number for each of {len(self.documents)} documents as {name}, got "
                    f"{len(column)} of which {next(iter(column), None)!r} is the first"
                )
        strange = [query for query in self.answers if not 0 <= query < len(self.queries)]
        if strange:
            raise ValueError(
                f"answers: expected queries by position, 0 to {len(self.queries) - 1}, got {strange[0]!r}; number them "
                "as the queries"
            )


class MinedRow(NamedTuple):
    """A query and a document that answers it, with documents that do not: ids, or texts.

    Attributes:
        query: of the pair.
        positive: of the pair.
        negatives: closest first.
        scores: of the positive and of each negative, in this order.
    """

    query: str
    positive: str
    negatives: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class CaptionedImages:
    """Image-text pairs.

    Attributes:
        images: RGB images, opened when taken; the sequence may lie on disk.
        captions: the text of each image.
        groups: what may not be split between training and evaluation (variants of one drawing), a name each.
    """

    images: Sequence[Image]
    captions: Sequence[str]
    groups: Sequence[str]

    def __post_init__(self) -> None:
        check_sequence(images=self.images)
        check_texts(captions=self.captions, groups=self.groups)
        _check_lengths(images=self.images, captions=self.captions, groups=self.groups)

    def __len__(self) -> int:
        return len(self.captions)


@dataclass(frozen=True)
class GradedPairs:
    """One split of a similarity set.

    Attributes:
        first: one text of each pair.
        second: the other; exchanging the two changes nothing.
        grades: float32 ``[n]``, in the unit of the source; larger is more alike.
    """

    first: Sequence[str]
    second: Sequence[str]
    grades: Tensor

    def __post_init__(self) -> None:
        check_texts(first=self.first, second=self.second)
        _check_columns(grades=self.grades)
        _check_lengths(first=self.first, second=self.second, grades=self.grades)
        if not self.grades.isfinite().all():
            raise ValueError("grades: expected finite numbers, got NaN or infinite ones; leave such pairs out")

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class Interactions:
    """Interactions sorted by user, then time; equal times keep the order of the source.

    Attributes:
        user_ids: as the source spells them; a user's place is its number.
        item_ids: the same of items.
        users: int64 ``[n]``.
        items: int64 ``[n]``.
        ratings: float32 ``[n]``; 1 where the source has none.
        times: float64 ``[n]``, or the place in the source where it has none.
        item_texts: a name for each item, or nothing.
    """

    user_ids: Sequence[str]
    item_ids: Sequence[str]
    users: Tensor
    items: Tensor
    ratings: Tensor
    times: Tensor
    item_texts: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_texts(user_ids=self.user_ids, item_ids=self.item_ids, item_texts=self.item_texts)
        _check_columns(users=self.users, items=self.items, ratings=self.ratings, times=self.times)
        _check_lengths(users=self.users, items=self.items, ratings=self.ratings, times=self.times)
        for name, numbers in {"ratings": self.ratings, "times": self.times}.items():
            if not numbers.isfinite().all():
                raise ValueError(f"{name}: expected finite numbers, got NaN or infinite ones; leave those out")
        if len(self.item_texts):
            _check_lengths(item_ids=self.item_ids, item_texts=self.item_texts)
        _check_places("users", self.users, len(self.user_ids), "user_ids")
        _check_places("items", self.items, len(self.item_ids), "item_ids")


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

    def __post_init__(self) -> None:
        check_texts(entities=self.entities, relations=self.relations)
        check_instance(Mapping, hint="a dictionary by split will do", triples=self.triples)
        if not self.triples:
            raise ValueError("triples: expected the facts of a split at least, got none; name it train")
        for split, facts in self.triples.items():
            check_tensors(triples=facts)
            if facts.ndim != 2 or facts.shape[1] != 3:
                raise ValueError(
                    f"triples: expected head, relation, tail of each, [n, 3], got {list(facts.shape)} for '{split}'"
                )
            _check_places("triples", facts[:, (0, 2)], len(self.entities), "entities")
            _check_places("triples", facts[:, 1], len(self.relations), "relations")


@dataclass(frozen=True)
class LabelledImages:
    """Images in memory.

    Attributes:
        images: uint8 ``[n, channels, height, width]``, 0 to 255, as they would be looked at.
        labels: int64 ``[n]``, the place of a class in ``classes``.
        classes: name of each class.
        groups: group (an alphabet, a Unicode block) of each class, by which splits keep relatives together.
        soft_labels: float32 ``[n, classes]``, shares of people who said each class, or None.
    """

    images: Tensor
    labels: Tensor
    classes: Sequence[str]
    groups: Sequence[str]
    soft_labels: Tensor | None = None

    def __post_init__(self) -> None:
        check_tensors(images=self.images)
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise ValueError(
                f"images: expected uint8 [n, channels, height, width], got {self.images.dtype} "
                f"{list(self.images.shape)}; 0 to 255 as they would be looked at"
            )
        check_texts(classes=self.classes, groups=self.groups)
        _check_columns(labels=self.labels)
        _check_lengths(images=self.images, labels=self.labels)
        _check_lengths(classes=self.classes, groups=self.groups)
        _check_places("labels", self.labels, len(self.classes), "classes")
        if self.soft_labels is not None:
            _check_shares(self.soft_labels, (len(self.images), len(self.classes)))


@dataclass(frozen=True)
class LabelledTexts:
    """One split of a set of texts with classes.

    Attributes:
        texts: as the source has them.
        labels: int64 ``[n]``, the place of a class in ``classes``.
        classes: name of each class, the same for every split.
    """

    texts: Sequence[str]
    labels: Tensor
    classes: Sequence[str]

    def __post_init__(self) -> None:
        check_texts(texts=self.texts, classes=self.classes)
        _check_columns(labels=self.labels)
        _check_lengths(texts=self.texts, labels=self.labels)
        _check_places("labels", self.labels, len(self.classes), "classes")

    def __len__(self) -> int:
        return len(self.texts)


def _check_lengths(**columns: Sequence[object] | Tensor) -> None:
    """Refuses columns of one record that have not one entry for each item.

    Raises:
        ValueError: naming the column.
    """
    (first, *_), length = columns, len(next(iter(columns.values())))
    for name, column in columns.items():
        if len(column) != length:
            raise ValueError(f"{name}: expected one for each of the {length} {first}, got {len(column)}")


def _check_columns(**columns: object) -> None:
    """Refuses what is no tensor ``[n]``.

    Raises:
        ValueError: naming the column.
    """
    check_tensors(**columns)
    for name, column in columns.items():
        assert isinstance(column, Tensor)
        if column.ndim != 1:
            raise ValueError(f"{name}: expected one number for each, [n], got {list(column.shape)}")


def _check_shares(soft_labels: object, shape: tuple[int, int]) -> None:
    """Refuses what is no share of each class for each image.

    Raises:
        ValueError: naming the column.
    """
    check_tensors(soft_labels=soft_labels)
    assert isinstance(soft_labels, Tensor)
    if soft_labels.shape != shape or not bool(((soft_labels >= 0) & (soft_labels <= 1)).all()):
        raise ValueError(
            f"soft_labels: expected shares from 0 to 1, {list(shape)}, got {list(soft_labels.shape)}"
            f"{' with others among them' if soft_labels.shape == shape else ''}; divide counts by their sum"
        )


def _check_places(name: str, places: Tensor, count: int, names: str) -> None:
    """Refuses numbers that are no places in a list of names.

    Raises:
        ValueError: naming the column and the list.
    """
    if places.is_floating_point():
        raise ValueError(f"{name}: expected whole numbers, places in {names}, got {places.dtype}; pass {name}.long()")
    if places.numel() and not 0 <= int(places.min()) <= int(places.max()) < count:
        raise ValueError(
            f"{name}: expected places in the {count} {names}, got {int(places.min())} to {int(places.max())}; number "
            "them in that order"
        )
